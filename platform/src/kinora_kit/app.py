"""The app factory: what every service answers, logs, counts and refuses in the same way."""

import asyncio
import contextlib
import re
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import FrameType
from typing import Any, Protocol

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars, get_contextvars

from kinora_kit import logs
from kinora_kit.errors import DomainError, InvalidInput, TooLarge, problem
from kinora_kit.health import Check, Health
from kinora_kit.metrics import HTTP_IN_FLIGHT, HTTP_REQUESTS
from kinora_kit.outages import as_domain_error
from kinora_kit.settings import Settings

log = logs.get(__name__)

# What a client may choose for its request id: enough to find it again, too little to write into a log.
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_QUIET = {"/healthz", "/readyz", "/metrics"}


class Wired(Protocol):
    """What a service's ``wiring.py`` yields: at least its checks, by the name of the dependency."""

    @property
    def checks(self) -> Mapping[str, Check]: ...


def _template(scope: Scope, mounted_at: str) -> str:
    """The route's template, never the path: a label must not grow with the number of videos."""
    # FastAPI keeps the route as it was written, and beside it where its router was included.
    included = scope.get("fastapi", {}).get("effective_route_context")
    path = getattr(included or scope.get("route"), "path", None)
    if path is None:
        return "unmatched"
    return str(scope.get("root_path", "").removeprefix(mounted_at) + path)


class Edge:
    """Request id, trace, one log line, metrics, and the limit on a body. Plain ASGI, so that streams stay streams."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        trace = headers.get("traceparent", "")
        logs.traceparent.set(trace if _TRACEPARENT.fullmatch(trace) else logs.new_traceparent())
        with bound_contextvars(request_id=request_id):
            if scope["type"] == "websocket":
                await self._app(scope, receive, send)
            else:
                await self._http(scope, receive, send, request_id)

    async def _http(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started = time.perf_counter()
        status = 500
        received = 0
        mounted_at = scope.get("root_path", "")
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        declared = int(lengths[0]) if lengths and lengths[0].isdigit() else 0

        async def limited() -> Message:
            nonlocal received
            if declared > self._max_body_bytes:  # before a byte of it has come
                raise TooLarge(f"A request body may have at most {self._max_body_bytes} bytes")
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise TooLarge(f"A request body may have at most {self._max_body_bytes} bytes")
            return message

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"x-request-id", request_id.encode()))
            await send(message)

        HTTP_IN_FLIGHT.inc()
        try:
            await self._app(scope, limited, stamped)
        finally:
            HTTP_IN_FLIGHT.dec()
            seconds = time.perf_counter() - started
            method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            HTTP_REQUESTS.labels(method, _template(scope, mounted_at), str(status)).observe(seconds)
            if scope["path"] not in _QUIET:
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round(seconds * 1000, 1),
                )


def _answer(request: Request, error: DomainError) -> JSONResponse:
    return JSONResponse(
        problem(error, instance=request.url.path, request_id=get_contextvars().get("request_id")),
        status_code=error.status,
        headers=error.headers,
        media_type="application/problem+json",
    )


class _HTTPProblem(DomainError):
    def __init__(self, error: HTTPException) -> None:
        self.status = error.status_code  # type: ignore[misc]
        self.code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")  # type: ignore[misc]
        self.title = str(error.detail)  # type: ignore[misc]
        super().__init__(headers=dict(error.headers or {}))


class _Defect(DomainError):
    status = 500
    code = "internal"
    title = "Something went wrong on our side"


async def _on_error(request: Request, error: Exception) -> Response:
    known = as_domain_error(error)
    if known is None:
        log.error("request failed", exc_info=error)
        known = _Defect()
    elif known is not error:
        log.warning("a dependency is away", error=repr(error))
    return _answer(request, known)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    if isinstance(error.__cause__, DomainError):  # FastAPI wraps what is raised while it reads a body
        return _answer(request, error.__cause__)
    return _answer(request, _HTTPProblem(error))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    # What was sent is not repeated: it may be a password.
    errors = [
        {"field": ".".join(str(part) for part in item["loc"][1:]), "message": item["msg"]} for item in error.errors()
    ]
    return _answer(request, InvalidInput("; ".join(f"{e['field']}: {e['message']}" for e in errors), errors=errors))


class CatchAll:
    """Turns what no handler caught into a problem document. Starlette would answer plain text and raise it again."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if begun:  # too late for another answer: let the server cut the connection
                raise
            answer = await _on_error(Request(scope, receive), error)
            await answer(scope, receive, send)


def _health_routes(health: Health) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        ready, checks = await health.ready()
        return JSONResponse({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


def create_app(
    settings: Settings,
    wire: Callable[[Any], AbstractAsyncContextManager[Wired]],
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """A service's app. ``wire(settings)`` is entered at start-up; what it yields is ``request.state.wired``."""
    health = Health()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with wire(settings) as wired:
            health.checks = wired.checks
            yield {"wired": wired}

    app = FastAPI(
        title=f"Kinora {settings.service}",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.health = health
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(DomainError, _on_error)
    app.add_middleware(CatchAll)
    app.add_middleware(Edge, max_body_bytes=settings.max_body_bytes)
    app.include_router(_health_routes(health))
    for router in routers:
        app.include_router(router)
    return app


class _Server(uvicorn.Server):
    """Says "not ready" for a while before it stops accepting, so that no balancer sends to a closed port."""

    def __init__(self, config: uvicorn.Config, health: Health, delay_seconds: float) -> None:
        super().__init__(config)
        self._health = health
        self._delay = delay_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        second_time = self._health.draining
        self._health.draining = True
        if self._loop is None or self._delay == 0 or second_time or sig == signal.SIGINT:
            super().handle_exit(sig, frame)
            return
        stop = super().handle_exit
        self._loop.call_soon_threadsafe(self._loop.call_later, self._delay, stop, sig, frame)


def run(app: FastAPI, settings: Settings) -> None:
    """Serve until told to stop, then drain."""
    logs.configure(settings.service, settings.log_level)
    config = uvicorn.Config(
        app,
        host=settings.http_host,
        port=settings.http_port,
        proxy_headers=True,
        forwarded_allow_ips=settings.trusted_proxies,
        server_header=False,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.drain_timeout_seconds,
        timeout_keep_alive=75,  # longer than the gateway's, so that it is never we who close under a request
        limit_concurrency=1000,
        ws="websockets-sansio",
        ws_max_size=settings.max_body_bytes,
    )
    _Server(config, app.state.health, settings.drain_delay_seconds).run()
