from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from kinora.auth.v1 import auth_pb2 as pb

if TYPE_CHECKING:
    from kinora.auth.v1.auth_pb2_grpc import UsersAsyncStub


def load_users(users: "UsersAsyncStub") -> Callable[[list[UUID]], Awaitable[list[pb.User | None]]]:
    async def load(ids: list[UUID]) -> list[pb.User | None]:
        answer = await users.ListUsers(pb.ListUsersRequest(ids=map(str, dict.fromkeys(ids))))
        found = {UUID(user.id): user for user in answer.users}
        return [found.get(user_id) for user_id in ids]

    return load


def load_users_named(users: "UsersAsyncStub") -> Callable[[list[str]], Awaitable[list[pb.User | None]]]:
    """By usernames in lower case."""

    async def load(usernames: list[str]) -> list[pb.User | None]:
        answer = await users.ListUsers(pb.ListUsersRequest(usernames=usernames))
        found = {user.username.lower(): user for user in answer.users}
        return [found.get(username) for username in usernames]

    return load


def load_profiles(users: "UsersAsyncStub") -> Callable[[list[UUID]], Awaitable[list[pb.Profile | None]]]:
    """Only the caller's own; raises NotSignedIn for anonymous callers."""

    async def load(ids: list[UUID]) -> list[pb.Profile | None]:
        own = await users.GetProfile(pb.GetProfileRequest())
        return [own if user_id == UUID(own.user.id) else None for user_id in ids]

    return load


def load_sessions(users: "UsersAsyncStub") -> Callable[[list[UUID]], Awaitable[list[pb.Session | None]]]:
    """Only the caller's own; raises NotSignedIn for anonymous callers."""

    async def load(ids: list[UUID]) -> list[pb.Session | None]:
        answer = await users.ListSessions(pb.ListSessionsRequest())
        own = {UUID(session.id): session for session in answer.sessions}
        return [own.get(session_id) for session_id in ids]

    return load
