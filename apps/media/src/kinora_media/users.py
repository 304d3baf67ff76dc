"""Basic details of users, which auth owns."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kinora.auth.v1 import auth_pb2 as pb
from kinora_kit.outages import is_outage

if TYPE_CHECKING:  # defined only in the stubs
    from kinora.auth.v1.auth_pb2_grpc import UsersAsyncStub

CACHE_SECONDS = 600
WAIT_SECONDS = 0.25
"""For a response of Redis; auth is faster than that."""
CHANGED_SECONDS = 5
"""How long nothing is cached after a change: longer than a response of auth from before the change may take."""
CHANGED = ""


class User(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: UUID
    username: str
    display_name: str


class Users(Protocol):
    async def many(self, ids: Sequence[UUID]) -> dict[UUID, User]:
        """By id; unknown ones are omitted. At most 100 ids."""

    async def changed(self, user_id: UUID) -> None:
        """Details have changed, or the account was deleted. Raises a RedisError: the caller repeats it."""


async def names(users: Users, ids: Iterable[UUID | None]) -> dict[UUID, User]:
    """As many, for lists that are complete without names: nobody is named while auth is unavailable."""
    try:
        return await users.many(list(dict.fromkeys(filter(None, ids))))
    except Exception as error:
        if not is_outage(error):
            raise
        return {}


class CachedUsers:
    """Asks auth, once for all that are not in Redis. Works without Redis, only slower."""

    def __init__(self, stub: "UsersAsyncStub", cache: Redis) -> None:
        self._stub = stub
        self._cache = cache

    async def many(self, ids: Sequence[UUID]) -> dict[UUID, User]:
        found = await self._cached(ids)
        if missing := [user_id for user_id in dict.fromkeys(ids) if user_id not in found]:
            answer = await self._stub.ListUsers(pb.ListUsersRequest(ids=map(str, missing)))
            asked = [
                User(id=UUID(user.id), username=user.username, display_name=user.display_name) for user in answer.users
            ]
            await self._remember(asked)
            found |= {user.id: user for user in asked}
        return found

    async def changed(self, user_id: UUID) -> None:
        await self._cache.set(_key(user_id), CHANGED, ex=CHANGED_SECONDS)

    async def _cached(self, ids: Sequence[UUID]) -> dict[UUID, User]:
        if not ids:
            return {}
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                texts = await self._cache.mget([_key(user_id) for user_id in ids])
        except (RedisError, OSError):  # TimeoutError is one
            return {}
        users = [User.model_validate_json(text) for text in texts if text]
        return {user.id: user for user in users}

    async def _remember(self, users: Sequence[User]) -> None:
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._cache.pipeline(transaction=False) as pipeline:
                for user in users:
                    pipeline.set(_key(user.id), user.model_dump_json(), ex=CACHE_SECONDS, nx=True)
                await pipeline.execute()
        except (RedisError, OSError):
            pass


def _key(user_id: UUID) -> str:
    return f"media:user:{user_id}"
