"""Auth in this process, on the stores of the local environment. Every test creates its own users."""

import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import grpc
import httpx
import pytest
from argon2 import PasswordHasher
from pydantic import SecretStr

from kinora.media.v1 import media_pb2
from kinora.media.v1 import media_pb2_grpc as media_grpc
from kinora.video.v1 import video_pb2
from kinora.video.v1 import video_pb2_grpc as video_grpc
from kinora_auth import rest
from kinora_auth.passwords import Passwords
from kinora_auth.settings import AuthSettings
from kinora_auth.wiring import State, wire
from kinora_kit import migrate, rpc
from kinora_kit.app import create_app
from kinora_kit.errors import Unavailable
from kinora_kit.settings import PREFIX, reveal
from kinora_kit.testing import free_port

PASSWORD = "correct horse battery"
# Cheap parameters: the tests cover what is hashed when, not the cost of an attack.
HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)

_numbers = itertools.count()


def unique(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(6)}{next(_numbers)}"


@pytest.fixture(scope="session")
def settings(environment: Callable[[str], dict[str, str]]) -> AuthSettings:
    return AuthSettings(**{key.removeprefix(PREFIX).lower(): value for key, value in environment("auth").items()})  # type: ignore[arg-type]


@pytest.fixture
def settings_of_auth(settings: AuthSettings) -> AuthSettings:
    """For another process beside that of ``api``."""
    return settings.model_copy(update={"grpc_port": free_port()})


class Others(media_grpc.EnforcementServicer, video_grpc.EnforcementServicer):
    """Fakes of media and video: record the tokens of callers whose data was deleted."""

    def __init__(self) -> None:
        self.media: list[str] = []
        self.videos: list[str] = []
        self.away = False

    async def DropAllMedia(self, request: Any, context: Any) -> media_pb2.DropAllMediaResponse:  # noqa: N802
        self.media.append(self._token(context))
        return media_pb2.DropAllMediaResponse()

    async def DropAllVideos(self, request: Any, context: Any) -> video_pb2.DropAllVideosResponse:  # noqa: N802
        self.videos.append(self._token(context))
        return video_pb2.DropAllVideosResponse()

    def _token(self, context: Any) -> str:
        if self.away:
            raise Unavailable
        return str(dict(context.invocation_metadata())["authorization"]).removeprefix("Bearer ")

    def register(self, server: grpc.aio.Server) -> None:
        media_grpc.add_EnforcementServicer_to_server(self, server)
        video_grpc.add_EnforcementServicer_to_server(self, server)


@pytest.fixture(scope="session")
async def others_address() -> AsyncIterator[tuple[Others, str]]:
    # Auth calls only two of their methods.
    others, address = Others(), f"127.0.0.1:{free_port()}"  # type: ignore[abstract]
    async with rpc.serve(address, others.register, verifier=None, drain_seconds=0):
        yield others, address


@pytest.fixture
def others(others_address: tuple[Others, str]) -> Iterator[Others]:
    """Reset before and after the test."""
    found, _ = others_address
    found.media.clear()
    found.videos.clear()
    yield found
    found.away = False


@dataclass
class Device:
    """A signed-in client. Like the gateway, it has the token verified and sends the identity headers instead."""

    api: "Api"
    access_token: str
    refresh_token: str

    async def verify(self) -> httpx.Response:
        return await self.api.verify(self.access_token)

    async def call(self, method: str, path: str, json: object = None) -> httpx.Response:
        verified = await self.verify()
        if verified.status_code != 200:
            return verified
        identity = {name: value for name, value in verified.headers.items() if name.startswith(("x-user", "x-session"))}
        headers = {**identity, "Authorization": f"Bearer {self.access_token}"}
        return await self.api.http.request(method, path, json=json, headers=headers)

    async def refresh(self, token: str | None = None) -> httpx.Response:
        return await self.api.post("/auth/refresh", {"refresh_token": token or self.refresh_token})

    async def session_id(self) -> UUID:
        return UUID((await self.verify()).headers["x-session-id"])


@dataclass
class Person:
    api: "Api"
    id: UUID
    username: str
    email: str
    password: str = PASSWORD

    async def sign_in(self) -> Device:
        answer = await self.api.post("/auth/login", {"login": self.username, "password": self.password})
        assert answer.status_code == 200, answer.text
        pair = answer.json()
        return Device(self.api, pair["access_token"], pair["refresh_token"])


@dataclass
class Api:
    http: httpx.AsyncClient
    state: State
    settings: AuthSettings = field(repr=False)
    app: Any = field(repr=False)

    async def post(self, path: str, body: object) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def verify(self, token: str | None, *, optional: bool = False) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return await self.http.get("/user/token_verify", params={"optional": "1"} if optional else {}, headers=headers)

    def at(self, address: str) -> "Api":
        """The same replica, called from another address."""
        transport = httpx.ASGITransport(self.app, client=(address, 1))
        return replace(self, http=httpx.AsyncClient(transport=transport, base_url="http://auth"))

    async def login(self, person: "Person", password: str = PASSWORD) -> httpx.Response:
        return await self.post("/auth/login", {"login": person.username, "password": password})

    async def person(self) -> Person:
        username = unique("user")
        email = f"{username}@example.com"
        body = {"username": username, "email": email, "password": PASSWORD}
        answer = await self.post("/auth/register", body)
        assert answer.status_code == 201, answer.text
        return Person(self, UUID(answer.json()["id"]), username, email)


Start: TypeAlias = Callable[..., AbstractAsyncContextManager[Api]]


@pytest.fixture(scope="session")
def start(settings: AuthSettings, others_address: tuple[Others, str]) -> Start:
    """``start(setting=value, ...)``: another replica, with other settings."""

    @contextlib.asynccontextmanager
    async def started(*, address: str = "127.0.0.1", **changes: Any) -> AsyncIterator[Api]:
        _, others = others_address
        calls = {"media_grpc": others, "video_grpc": others}
        mine = settings.model_copy(update={"grpc_port": free_port(), **calls, **changes})
        app = create_app(mine, wire, [rest.router])
        async with app.router.lifespan_context(app) as state:
            assert state is not None
            wired = state["wired"]
            passwords = Passwords(threads=mine.hashing_threads, queue=mine.hashing_queue, hasher=HASHER)
            wired = replace(wired, accounts=replace(wired.accounts, passwords=passwords))

            async def with_state(scope: Any, receive: Any, send: Any) -> None:
                await app({**scope, "state": {"wired": wired}}, receive, send)

            transport = httpx.ASGITransport(with_state, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://auth") as http:
                yield Api(http, wired, mine, with_state)
            passwords.close()

    return started


@pytest.fixture(scope="session")
async def api(start: Start) -> AsyncIterator[Api]:
    async with start() as running:
        yield running


@pytest.fixture
async def empty_database(settings: AuthSettings) -> AsyncIterator[SecretStr]:
    """The URL of a separate, migrated and empty schema."""
    schema = unique("test")
    url = reveal(settings.postgres_url)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"CREATE SCHEMA {schema}")
        await connection.execute(f"SET search_path TO {schema}")
        await migrate.migrate(connection, "kinora_auth")
        yield SecretStr(f"{url}?search_path={schema}")
    finally:
        await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        await connection.close()
