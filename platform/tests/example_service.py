"""A service built on the kit, with a route for each case. Run by test_app.py."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import asyncpg
import grpc
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from kinora_kit import logs
from kinora_kit.app import create_app, run
from kinora_kit.errors import Conflict, DomainError, Forbidden, TooManyRequests
from kinora_kit.health import Checks
from kinora_kit.identity import OptionalCaller, SignedIn
from kinora_kit.settings import Settings, load
from kinora_kit.testing import eventually


class ExampleSettings(Settings):
    service: ClassVar[str] = "example"
    broken: bool = False
    password: SecretStr


@dataclass
class State:
    checks: Checks


async def well() -> None:
    pass


async def broken() -> None:
    raise ConnectionError("amqp://user:do-not-print-me@nowhere")


async def hanging() -> None:
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def wire(settings: ExampleSettings) -> AsyncIterator[State]:
    yield State(Checks({"good": well, "broken": broken, "slow": hanging} if settings.broken else {"good": well}))
    print("unwired", flush=True)  # noqa: T201 - what the test looks for


class NameTaken(Conflict):
    code = "name_taken"
    title = "The name is taken"


class Thing(BaseModel):
    name: str = Field(max_length=5)
    password: SecretStr = SecretStr("")
    size: int = Field(default=0, ge=0)
    labels: tuple[str, ...] = ()
    notes: dict[str, str] = {}


def remote(code: grpc.StatusCode) -> Exception:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "do-not-print-me")


FAILURES: dict[str, Exception] = {
    "domain": NameTaken("Somebody has it"),
    "forbidden": Forbidden(),
    "throttled": TooManyRequests(7),
    "remote": DomainError(
        "name: Taken", status=422, code="name_taken", title="Taken", errors=[{"field": "name", "message": "Taken"}]
    ),
    "remote-outage": remote(grpc.StatusCode.UNAVAILABLE),
    "remote-defect": remote(grpc.StatusCode.INTERNAL),
    "http": HTTPException(418, "teapot"),
    "defect": ZeroDivisionError("do-not-print-me"),
    "database": asyncpg.CannotConnectNowError("do-not-print-me"),
    "redis": RedisConnectionError("do-not-print-me"),
    "missing-file": FileNotFoundError("do-not-print-me"),
}

router = APIRouter()
inner = APIRouter(prefix="/inner")


@router.get("/things/{n}")
async def thing(n: int) -> dict[str, Any]:
    return {"n": n, "trace": logs.traceparent.get()}


@router.put("/things/{n}")
async def change(n: int, caller: SignedIn) -> None: ...


@router.post("/things", status_code=201)
async def make(thing: Thing) -> dict[str, str]:
    return {"name": thing.name}


@router.post("/raw")
async def raw(request: Request) -> dict[str, int]:
    return {"size": len(await request.body())}


@router.head("/elsewhere")
async def elsewhere() -> None:
    """A path with HEAD but no GET, like those of uploads."""


@router.get("/fail/{kind}")
async def fail(kind: str) -> None:
    raise FAILURES[kind]


@router.get("/breaks-off")
async def breaks_off() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        yield b"begun"
        raise ZeroDivisionError

    return StreamingResponse(body())


@router.get("/endless")
async def endless() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more"
                await asyncio.sleep(0.01)
        finally:
            print("the stream has ended", flush=True)  # noqa: T201 - what the test looks for

    return StreamingResponse(body())


@router.get("/who")
async def who(caller: OptionalCaller) -> dict[str, str | None]:
    return {"user_id": str(caller.user_id) if caller else None}


@router.get("/me")
async def me(caller: SignedIn) -> dict[str, str]:
    return {"user_id": str(caller.user_id)}


@router.get("/thing_verify")
async def thing_verify(caller: SignedIn) -> None: ...


@router.get("/slow")
async def slow(until: Path) -> dict[str, str]:
    until.with_suffix(".begun").touch()
    await eventually(until.exists, seconds=30)
    return {"status": "finished"}


@inner.get("/{n}")
async def nested(n: int) -> int:
    return n


router.include_router(inner, prefix="/outer")


async def mounted(_: Request) -> PlainTextResponse:
    return PlainTextResponse("mounted")


if __name__ == "__main__":
    settings = load(ExampleSettings)
    app = create_app(settings, wire, [router])
    app.mount("/sub", Starlette(routes=[Route("/{n}", mounted)]))
    run(app, settings)
