"""The edge of a process: what applies to every request, before routing.

A request gets an id, a trace, one log line and a metric. Its whole body is read here, with limits on size, time, rate
and concurrency, and JSON must pass strict_json.py. So no route waits for a slow client or has to handle hostile input.
HEAD is served by GET's handler, and the body is dropped (RFC 9110, 9.3.2). Plain ASGI: responses may stream.
"""

import asyncio
import ipaddress
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars, get_contextvars

from kinora_kit import logs, rpc, strict_json
from kinora_kit.errors import (
    ClientClosedRequest,
    DomainError,
    InvalidToken,
    MalformedRequest,
    RequestTimeout,
    TooLarge,
    TooManyAtOnce,
    Unavailable,
    problem,
)
from kinora_kit.identity import bearer
from kinora_kit.metrics import HTTP_IN_FLIGHT, HTTP_REQUESTS
from kinora_kit.settings import Settings

log = logs.get(__name__)

# Allowed request ids of clients: sufficient for correlation, but safe to log.
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
UNROUTED = "/unrouted"
"""The gateway's prefix for requests that none of its routes matched; see kinora_kit/app.py."""
METHOD = "kinora_kit.method"
"""Where a scope has the method of the request: ``method`` is GET for HEAD."""
PROBES = {"/healthz", "/readyz", "/metrics"}
"""Requested by the kubelet and Prometheus. Exempt from the concurrency limit, and not logged."""
CHECK = "_verify"
"""How the paths end at which the gateway asks whether it may forward a request (ForwardAuth). Only refusals are logged:
the gateway and the service log the request itself."""


def problem_response(request: Request, error: DomainError, *, instance: str | None = None) -> JSONResponse:
    """``instance``: the path that the client requested, if the gateway has replaced it."""
    path = request.url.path.removeprefix(UNROUTED) if instance is None else instance
    return JSONResponse(
        problem(error, instance=path, request_id=get_contextvars().get("request_id")),
        status_code=error.status,
        headers=error.headers,
        media_type="application/problem+json",
    )


def client_network(scope: Scope) -> str:
    """The key of per-client limits: an IPv6 client owns at least a /64, an IPv4 client one address."""
    host = str(scope["client"][0]) if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host


def _template(scope: Scope, mounted_at: str) -> str:
    """The route's template, never the path, to bound the label's cardinality."""
    # FastAPI stores the route as declared, and separately the prefix where its router was included.
    included = scope.get("fastapi", {}).get("effective_route_context")
    path = getattr(included or scope.get("route"), "path_format", None)
    if path is None:
        return "unmatched"
    return str(scope.get("root_path", "").removeprefix(mounted_at) + path)


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _token(scope: Scope) -> str | None:
    """The token to pass on in calls to other services, which verify it."""
    value = _header(scope, b"authorization")
    try:
        return bearer({"authorization": value.decode("latin-1")})
    except InvalidToken:
        return None


class _Bodies:
    """Reads bodies, and limits how many may be incomplete at the same time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._unfinished: Counter[str] = Counter()

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body.

        Raises ClientClosedRequest, RequestTimeout, TooLarge, TooManyAtOnce, Unavailable, MalformedRequest.
        """
        declared = _header(scope, b"content-length")
        if not declared and not _header(scope, b"transfer-encoding"):
            return b""
        if declared.isdigit() and int(declared) > self._settings.max_body_bytes:  # before reading any of it
            raise TooLarge(f"A request body may have at most {self._settings.max_body_bytes} bytes")
        with self._counted(client_network(scope)):
            body = await self._arriving(receive)
        if b"json" in _header(scope, b"content-type").lower():
            _must_be_json(body)
        return body

    @contextmanager
    def _counted(self, client: str) -> Iterator[None]:
        if self._unfinished[client] >= self._settings.unfinished_bodies_per_client:
            raise TooManyAtOnce("Too many incomplete requests from this address; complete them first")
        if self._unfinished.total() >= self._settings.unfinished_bodies:
            raise Unavailable("Too many incomplete requests at the moment; try again", retry_after_seconds=1)
        self._unfinished[client] += 1
        try:
            yield
        finally:
            self._unfinished[client] -= 1
            if not self._unfinished[client]:
                del self._unfinished[client]

    async def _arriving(self, receive: Receive) -> bytes:
        started = time.monotonic()
        body = bytearray()
        while True:
            # Each byte extends the deadline by its time at the minimum rate, so a trickle extends it hardly at all.
            earned = len(body) / self._settings.body_min_bytes_per_second
            patience = started + self._settings.body_timeout_seconds + earned - time.monotonic()
            try:
                async with asyncio.timeout(patience):
                    message = await receive()
            except TimeoutError:
                raise RequestTimeout from None
            if message["type"] == "http.disconnect":
                raise ClientClosedRequest
            body += message.get("body", b"")
            if len(body) > self._settings.max_body_bytes:
                raise TooLarge(f"A request body may have at most {self._settings.max_body_bytes} bytes")
            if not message.get("more_body", False):
                return bytes(body)


def _must_be_json(body: bytes) -> None:
    if not body:  # the route decides whether a body is required
        return
    try:
        strict_json.loads(body)
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"The body is not valid JSON: {error.msg}") from None


def _must_be_text(scope: Scope) -> None:
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        raise MalformedRequest("The URL contains a NUL character")


class Edge:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._bodies = _Bodies(settings)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = _header(scope, b"x-request-id").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        trace = _header(scope, b"traceparent").decode("latin-1")
        logs.traceparent.set(trace if _TRACEPARENT.fullmatch(trace) else logs.new_traceparent())
        # A WebSocket authenticates later.
        before = rpc.access_token.set(None if scope["type"] == "websocket" else _token(scope))
        try:
            with bound_contextvars(request_id=request_id):
                if scope["type"] == "websocket":
                    await self._app(scope, receive, send)
                else:
                    await self._http(scope, receive, send, request_id)
        finally:
            rpc.access_token.reset(before)

    async def _http(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started = time.perf_counter()
        status = 500
        mounted_at = scope.get("root_path", "")
        head, ended = scope["method"] == "HEAD", False
        served: Scope = {**scope, METHOD: scope["method"], "method": "GET" if head else scope["method"]}

        async def stamped(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"x-request-id", request_id.encode()))
            elif head:
                if ended:
                    return
                # The response to HEAD ends with the first chunk: the handler sees that the client has disconnected.
                message, ended = {"type": "http.response.body", "body": b""}, True
            await send(message)

        HTTP_IN_FLIGHT.inc()
        try:
            await self._answer(served, receive, stamped)
        except ClientClosedRequest as gone:
            status = gone.status  # for logs only: the client has gone
        finally:
            HTTP_IN_FLIGHT.dec()
            seconds = time.perf_counter() - started
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            HTTP_REQUESTS.labels(method, _template(served, mounted_at), str(status)).observe(seconds)
            if scope["path"] not in PROBES and not (status < 400 and scope["path"].endswith(CHECK)):
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round(seconds * 1000, 1),
                )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        try:
            _must_be_text(scope)
            # Their bodies are never read, so do not wait for them.
            given = receive if scope["method"] in ("GET", "HEAD") else await self._body(scope, receive)
            self._begin()
        except ClientClosedRequest:
            raise
        except DomainError as error:
            await problem_response(Request(scope), error)(scope, receive, send)
            return
        try:
            await self._app(scope, given, send)
        finally:
            self._in_flight -= 1

    def _begin(self) -> None:
        if self._in_flight >= self._settings.max_requests:
            raise Unavailable("Too many requests at the moment; try again", retry_after_seconds=1)
        self._in_flight += 1

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """The app's ``receive``: returns the whole body, or raises the error so that the route's error handling
        applies."""
        body, refusal = b"", None
        try:
            body = await self._bodies.read(scope, receive)
        except ClientClosedRequest:
            raise
        except DomainError as error:
            refusal = error
        told = False

        async def given() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            if refusal is not None:
                raise refusal
            return {"type": "http.request", "body": body, "more_body": False}

        return given
