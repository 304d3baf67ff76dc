from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from kinora.auth.v1 import auth_pb2 as pb

if TYPE_CHECKING:
    from kinora.auth.v1.auth_pb2_grpc import UsersAsyncStub


def load_users(users: "UsersAsyncStub") -> Callable[[list[str]], Awaitable[list[pb.User | None]]]:
    async def load(ids: list[str]) -> list[pb.User | None]:
        answer = await users.ListUsers(pb.ListUsersRequest(ids=dict.fromkeys(ids)))
        found = {user.id: user for user in answer.users}
        return [found.get(user_id) for user_id in ids]

    return load
