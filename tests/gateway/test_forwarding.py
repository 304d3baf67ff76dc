"""How the gateway forwards requests and responses: client address, streaming, CORS, compression, log."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from routes import ID, send
from websockets import Subprotocol
from websockets.sync.client import connect

from kinora_kit.server import ForwardedFor
from kinora_kit.settings import Settings

if TYPE_CHECKING:
    from conftest import Gateway, Login


def test_forwarded_headers_of_the_client_are_replaced(gateway: Gateway) -> None:
    lies = {
        "Connection": "X-Forwarded-For, X-Real-Ip",
        "X-Forwarded-For": "203.0.113.9",
        "X-Real-Ip": "203.0.113.9",
        "X-Forwarded-Host": "evil.example",
        "Forwarded": "for=203.0.113.9;host=evil.example;proto=https",
    }
    seen = send(gateway, "GET /media", lies).json()["headers"]
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert "203.0.113.9" not in str(seen)
    assert "evil.example" not in str(seen)


class Service(Settings):
    service = "behind-the-gateway"


@pytest.mark.parametrize("client", ["203.0.113.7", "10.0.0.1"])
async def test_service_sees_the_client_behind_a_load_balancer(gateway: Gateway, balanced: str, client: str) -> None:
    """Whatever the client has sent before it."""
    said = send(gateway, "POST /auth/login", {"X-Forwarded-For": f"198.51.100.1, 10.0.0.2, {client}"}, at=balanced)
    forwarded = said.json()["headers"]["x-forwarded-for"]
    assert forwarded.endswith(f", {client}, 127.0.0.1")
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])

    settings = Service(http_port=1, trusted_proxies="10.0.0.0/8,127.0.0.0/8", load_balancers="127.0.0.1/32")
    scope = {"type": "http", "client": ("10.42.0.7", 1), "headers": [(b"x-forwarded-for", forwarded.encode())]}
    await ForwardedFor(app, settings)(scope, None, None)  # type: ignore[arg-type]
    assert seen == [client]


def test_server_sent_events_are_not_buffered(gateway: Gateway, alice: Login) -> None:
    gateway.released.clear()
    try:
        with gateway.http.stream(
            "GET", f"{gateway.url}/video/{ID}/progress", headers={**alice.headers, "Accept-Encoding": "gzip"}
        ) as answer:
            received = answer.iter_text()
            assert "first" in next(received)
            gateway.released.set()
            assert "second" in "".join(received)
    finally:
        gateway.released.set()


@pytest.mark.parametrize("token", ["none", "good", "revoked"])
def test_websockets_reach_graphql(gateway: Gateway, alice: Login, revoked: Login, token: str) -> None:
    with connect(
        f"{gateway.url.replace('http', 'ws')}/graphql",
        subprotocols=[Subprotocol("graphql-transport-ws")],
        additional_headers={"none": {}, "good": alice.headers, "revoked": revoked.headers}[token],
        proxy=None,
    ) as websocket:
        assert websocket.subprotocol == "graphql-transport-ws"
        assert websocket.recv(timeout=10) == "nobody"  # a socket authenticates with connection_init


# Request headers of Apollo and urql, Sentry's browser SDK, tus-js-client, jQuery, fetch with a cache mode, hls.js.
SENT = [
    "authorization,content-type,apollographql-client-name,apollographql-client-version",
    "authorization,x-requested-with",
    "baggage,sentry-trace,traceparent,tracestate",
    "authorization,tus-resumable,upload-offset,content-type,x-request-id",
    "if-none-match,if-modified-since,cache-control,pragma",
    "range,if-range",
    "authorization,x-anything-at-all",
]


@pytest.mark.parametrize("path", ["/graphql", "/user/profile", f"/video/upload/{ID}", f"/video/{ID}/720p/1.m4s"])
@pytest.mark.parametrize("sent", SENT)
def test_preflight_allows_any_request_header(gateway: Gateway, path: str, sent: str) -> None:
    asked = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": sent,
    }
    answer = send(gateway, f"OPTIONS {path}", asked)
    assert answer.status_code == 200
    assert "x-probe" not in answer.headers
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert "PATCH" in answer.headers["access-control-allow-methods"].split(",")
    # Without credentials `*` allows any header except Authorization, which has to be listed (Fetch, CORS-preflight
    # fetch).
    assert "access-control-allow-credentials" not in answer.headers
    allowed = answer.headers["access-control-allow-headers"].lower().split(",")
    assert {"*", "authorization"} <= set(allowed)
    # Listed as well, for browsers that predate the wildcard.
    assert set(sent.split(",")) - {"x-anything-at-all"} <= set(allowed)


def test_every_response_header_is_exposed(gateway: Gateway) -> None:
    refused = send(gateway, "GET /user/profile", {"Origin": "https://app.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
    exposed = set(refused.headers["access-control-expose-headers"].split(","))
    assert {"*", "Location", "Upload-Offset", "Upload-Length", "Tus-Resumable", "Retry-After"} <= exposed
    assert {"ETag", "Content-Range", "Content-Length", "Date", "Allow", "WWW-Authenticate"} <= exposed


def test_responses_hide_server_and_forbid_sniffing(gateway: Gateway) -> None:
    answer = send(gateway, "GET /media")
    assert "server" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_json_is_compressed_but_segments_are_not(gateway: Gateway) -> None:
    large = {"Accept-Encoding": "gzip", "X-Padding": "x" * 4000}
    assert send(gateway, "GET /media", large).headers["content-encoding"] == "gzip"
    assert "content-encoding" not in send(gateway, f"GET /video/{ID}/720p/1.m4s", large).headers


def test_access_log_omits_query_and_token(gateway: Gateway, alice: Login) -> None:
    secret = "signature-that-nobody-may-read"
    assert send(gateway, f"GET /video/{ID}/720p/7.m4s?sig={secret}", alice.headers).status_code == 200
    deadline = time.monotonic() + 5
    while (log := gateway.log.read_text()).count("/720p/7.m4s") == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    line = json.loads(next(line for line in log.splitlines() if "/720p/7.m4s" in line))
    assert line["RequestMethod"] == "GET"
    assert secret not in log
    assert alice.access_token not in log
