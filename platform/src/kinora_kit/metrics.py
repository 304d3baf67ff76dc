"""Every metric of the kit. Labels are bounded: route templates, method names, queue names, never an id."""

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

HTTP_REQUESTS = Histogram(
    "kinora_http_request_seconds",
    "Time from the request's first byte to the response's last",
    ["method", "route", "status"],
    buckets=SECONDS,
)
HTTP_IN_FLIGHT = Gauge("kinora_http_requests_in_flight", "HTTP requests being served")
STREAMS_OPEN = Gauge("kinora_streams_open", "Open long-lived connections (websocket, events)", ["kind"])
STREAMS_REFUSED = Counter(
    "kinora_streams_refused_total",
    "Long-lived connections rejected because there are too many, by the limit that applied (process, user, address)",
    ["kind", "limit"],
)
SESSIONS_CHECKED = Counter(
    "kinora_sessions_checked_total",
    "Sessions of access tokens that were checked, by who said whether they had ended (memory, log, redis, auth)",
    ["source"],
)
SESSIONS_REMEMBERED = Gauge("kinora_sessions_remembered", "Sessions remembered as live")
RPC_SERVED = Histogram(
    "kinora_rpc_served_seconds",
    "gRPC calls served, by method and status",
    ["method", "status"],
    buckets=SECONDS,
)
RPC_CALLED = Histogram(
    "kinora_rpc_called_seconds",
    "gRPC calls made, by method and status, retries included",
    ["method", "status"],
    buckets=SECONDS,
)
EVENTS_PUBLISHED = Counter("kinora_events_published_total", "Messages confirmed by the broker", ["exchange"])
EVENTS_HANDLED = Histogram(
    "kinora_events_handled_seconds",
    "Messages handled, by queue and outcome (done, retry, dead, ignored)",
    ["queue", "outcome"],
    buckets=SECONDS,
)
OUTBOX_PENDING = Gauge("kinora_outbox_pending", "Events committed and not yet published, at the last check")
DEPENDENCY_UP = Gauge(
    "kinora_dependency_up", "Whether a store, broker or cache answered the last check (1) or not (0)", ["dependency"]
)
POOL_SIZE = Gauge("kinora_pool_size", "Connections open in a pool", ["pool"])
POOL_IDLE = Gauge("kinora_pool_idle", "Connections open and unused in a pool", ["pool"])
BACKGROUND_FAILURES = Counter(
    "kinora_background_failures_total", "Background tasks that failed and were restarted", ["task"]
)
S3_CALLS = Histogram("kinora_s3_call_seconds", "Object store calls", ["operation"], buckets=SECONDS)
