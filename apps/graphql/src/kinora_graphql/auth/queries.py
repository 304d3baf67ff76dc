import strawberry

from kinora.auth.v1 import auth_pb2 as pb
from kinora_graphql.auth.types import Profile
from kinora_graphql.context import Info


@strawberry.type
class AuthQuery:
    @strawberry.field(description="The caller's own profile; an error with code not_signed_in for anonymous callers.")
    async def me(self, info: Info) -> Profile | None:
        return Profile.of(await info.context.clients.users.GetProfile(pb.GetProfileRequest()))
