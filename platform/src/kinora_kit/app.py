"""The app factory of every service, with its error responses and probes."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kinora_kit import logs, tasks
from kinora_kit.edge import METHOD, METHODS, UNROUTED, Edge, problem_response
from kinora_kit.errors import DomainError, Internal, InvalidInput, message_of
from kinora_kit.health import Checks, Health
from kinora_kit.outages import as_domain_error
from kinora_kit.server import serve
from kinora_kit.settings import Settings

log = logs.get(__name__)

NO_OBJECT = "Send a JSON object, with Content-Type: application/json"


class Wired(Protocol):
    """What a service's ``wiring.py`` must yield."""

    @property
    def checks(self) -> Checks: ...


def _allowed(app: FastAPI, path: str) -> list[str]:
    """The methods allowed for ``path``, for ``Allow``; empty if the path does not exist."""

    def served(method: str) -> bool:
        scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
        return any(route.matches(scope)[0] is Match.FULL for route in app.routes)

    found = {method for method in METHODS if served(method)}
    if found:
        found |= {"OPTIONS"} | ({"HEAD"} if "GET" in found else set())
    return sorted(found)


class _Unrouted:
    """Answers requests that no route of the gateway matched. They passed no guard, so no handler may run.

    404 for a path that does not exist, 405 with Allow for one that exists for other methods, and OPTIONS.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise HTTPException(404)
        allowed = _allowed(self._app, scope["path"].removeprefix(UNROUTED))
        if allowed and scope["method"] == "OPTIONS":
            await Response(status_code=204, headers={"Allow": ", ".join(allowed)})(scope, receive, send)
            return
        raise HTTPException(404 if not allowed or scope[METHOD] in allowed else 405)


async def _on_error(request: Request, error: Exception) -> Response:
    known = as_domain_error(error)
    if known is None:
        log.error("request failed", exc_info=error)
        known = Internal()
    elif known is not error:
        log.warning("a dependency is unavailable", error=repr(error))
    return problem_response(request, known)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    if isinstance(error.__cause__, DomainError):  # FastAPI wraps errors raised while reading a body
        return problem_response(request, error.__cause__)
    if error.status_code == 405:
        # Starlette lists only the methods of the first route with this path.
        allowed = _allowed(request.app, request.url.path.removeprefix(UNROUTED))
        error.headers = {"Allow": ", ".join(allowed)}
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    problem = DomainError(status=error.status_code, code=code, title=str(error.detail), headers=error.headers)
    return problem_response(request, problem)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    # The input is not echoed: it may be a password.
    fields = (
        (".".join(map(str, item["loc"][1:])), NO_OBJECT if _is_about_the_whole_body(item) else message_of(item))
        for item in error.errors()
    )
    return problem_response(request, InvalidInput.of(fields))


def _is_about_the_whole_body(invalid: Mapping[str, Any]) -> bool:
    """It is missing, no object, or has another content type, as curl sends it by default."""
    return invalid["loc"] == ("body",) and invalid["type"] in ("missing", "model_attributes_type")


class CatchAll:
    """Turns unhandled errors into problem documents. Starlette would answer in plain text and raise the error again."""

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
            if begun:  # the response has started: let the server close the connection
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
        ready, report = health.report()
        return JSONResponse(report, 200 if ready else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


def create_app(
    settings: Settings,
    wire: Callable[[Any], AbstractAsyncContextManager[Wired]],
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """A service's app. ``wire(settings)`` is entered at start-up; the yielded value is ``request.state.wired``."""
    health = Health()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with wire(settings) as wired:
            health.begin(wired.checks)
            async with tasks.background(health=health.watch):
                yield {"wired": wired}

    app = FastAPI(
        title=f"Kinora {settings.service}",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.health = health
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(DomainError, _on_error)
    app.add_middleware(CatchAll)
    app.add_middleware(Edge, settings=settings)
    app.mount(UNROUTED, _Unrouted(app))
    for router in (*routers, _health_routes(health)):
        app.include_router(router)
    return app


def run(app: FastAPI, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    logs.configure(settings.service, settings.log_level)
    serve(app, settings, app.state.health)
