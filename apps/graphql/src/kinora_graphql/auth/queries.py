import strawberry

from kinora.auth.v1 import auth_pb2 as pb
from kinora_graphql.auth.types import Profile, Session, User
from kinora_graphql.context import Info
from kinora_kit.ids import parse_id


@strawberry.type
class AuthQuery:
    @strawberry.field(description="The caller's own profile; an error with code not_signed_in for anonymous callers.")
    async def me(self, info: Info) -> Profile | None:
        return Profile.of(await info.context.clients.users.GetProfile(pb.GetProfileRequest()))

    @strawberry.field(description="Null if there is no such user.")
    async def user(self, info: Info, id: strawberry.ID) -> User | None:  # noqa: A002 - the name clients see
        user = await info.context.loaders.users.load(parse_id(id))
        return User.of(user) if user else None

    @strawberry.field(
        description="In the order of the ids; null where there is no such user. All lists of an operation may have 100"
        " ids."
    )
    async def users(self, info: Info, ids: list[strawberry.ID]) -> list[User | None]:
        wanted = [parse_id(each) for each in ids]
        with info.context.listing(len(wanted)):
            found = await info.context.loaders.users.load_many(wanted)
        return [User.of(user) if user else None for user in found]

    @strawberry.field(description="The caller's live sessions, most recently used first.")
    async def sessions(self, info: Info) -> list[Session]:
        answer = await info.context.clients.users.ListSessions(pb.ListSessionsRequest())
        return [Session.of(session) for session in answer.sessions]
