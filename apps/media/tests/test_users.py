"""Details of users, from auth or from Redis."""
# ruff: noqa: N802 - method names come from the proto

from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import grpc
import pytest
from redis.asyncio import Redis

import kinora_kit.redis
from kinora.auth.v1 import auth_pb2 as pb
from kinora.auth.v1.auth_pb2_grpc import UsersServicer, UsersStub, add_UsersServicer_to_server
from kinora_kit import rpc
from kinora_kit.ids import new_id
from kinora_kit.testing import Proxy, free_port, proxy
from kinora_media.users import CachedUsers


class Auth(UsersServicer):
    def __init__(self) -> None:
        self.names: dict[UUID, str] = {}
        self.asked: list[list[str]] = []
        self.late: Callable[[], Awaitable[pb.ListUsersResponse]] | None = None

    async def ListUsers(self, request: pb.ListUsersRequest, context: object) -> pb.ListUsersResponse:
        self.asked.append(list(request.ids))
        if self.late:
            return await self.late()
        known = [text for text in request.ids if UUID(text) in self.names]
        return pb.ListUsersResponse(
            users=[pb.User(id=text, username=self.names[UUID(text)], display_name="") for text in known]
        )

    async def GetProfile(self, request: object, context: object) -> pb.Profile: ...  # type: ignore[empty-body]
    async def ListSessions(self, request: object, context: object) -> pb.ListSessionsResponse: ...  # type: ignore[empty-body]


@pytest.fixture
def auth() -> Auth:
    return Auth()


@pytest.fixture
async def link(kit: dict[str, str]) -> AsyncIterator[Proxy]:
    async with proxy(kit["KINORA_REDIS_URL"]) as link:
        yield link


@pytest.fixture
async def cache(link: Proxy) -> AsyncIterator[Redis]:
    async with kinora_kit.redis.connect(link.url, name="media-tests") as cache:
        yield cache


@pytest.fixture
async def users(auth: Auth, cache: Redis) -> AsyncIterator[CachedUsers]:
    address = f"127.0.0.1:{free_port()}"

    def register(server: grpc.aio.Server) -> None:
        add_UsersServicer_to_server(auth, server)

    async with rpc.serve(address, register, verifier=None, drain_seconds=0), rpc.connect(address) as channel:
        yield CachedUsers(UsersStub(channel), cache)


async def test_users_are_asked_for_once_and_together(users: CachedUsers, auth: Auth) -> None:
    ids = [new_id() for _ in range(3)]
    auth.names = {ids[0]: "ada", ids[1]: "ben"}
    for _ in range(2):
        found = await users.many([*ids[:2], ids[0]])
        assert {user_id: user.username for user_id, user in found.items()} == {ids[0]: "ada", ids[1]: "ben"}
    assert auth.asked == [[str(ids[0]), str(ids[1])]]
    assert await users.many([ids[2]]) == {}


async def test_nothing_from_before_a_change_is_cached(users: CachedUsers, auth: Auth) -> None:
    user_id = new_id()
    auth.names = {user_id: "before"}
    assert (await users.many([user_id]))[user_id].username == "before"

    async def late() -> pb.ListUsersResponse:
        """The name changes while a response is on its way."""
        old = pb.ListUsersResponse(users=[pb.User(id=str(user_id), username="before", display_name="")])
        auth.names[user_id] = "after"
        await users.changed(user_id)
        return old

    await users.changed(user_id)
    auth.late = late
    await users.many([user_id])
    auth.late = None
    assert (await users.many([user_id]))[user_id].username == "after"


async def test_users_are_found_without_redis(users: CachedUsers, auth: Auth, link: Proxy) -> None:
    user_id = new_id()
    auth.names = {user_id: "ada"}
    await link.cut()
    for _ in range(2):
        assert (await users.many([user_id]))[user_id].username == "ada"
    assert len(auth.asked) == 2
