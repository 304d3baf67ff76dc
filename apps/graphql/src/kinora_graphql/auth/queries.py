import strawberry

from kinora.auth.v1 import auth_pb2 as pb
from kinora_graphql.auth.types import Export, Profile, Session, User
from kinora_graphql.context import Info
from kinora_graphql.costs import ListSize
from kinora_graphql.ids import parse
from kinora_graphql.node.types import LISTED, load_list
from kinora_kit.errors import DomainError


@strawberry.type
class AuthQuery:
    @strawberry.field(description="The caller's own profile; null and an error for anonymous ones.")
    async def me(self, info: Info) -> Profile | None:
        return Profile.of(await info.context.clients.users.GetProfile(pb.GetProfileRequest()))

    @strawberry.field(description="Null if there is no such user.")
    async def user(self, info: Info, id: strawberry.ID) -> User | None:  # noqa: A002 - the name clients see
        return await User.load(info.context, parse(id, "User"))

    @strawberry.field(description=LISTED)
    async def users(self, info: Info, ids: list[strawberry.ID]) -> list[User | None]:
        return await load_list(info.context, ((User, parse(each, "User", field="ids")) for each in ids))

    @strawberry.field(
        description="The caller's live sessions, most recently used first.", directives=[ListSize(assumed_size=10)]
    )
    async def sessions(self, info: Info) -> list[Session]:
        answer = await info.context.clients.users.ListSessions(pb.ListSessionsRequest())
        return [Session.of(session) for session in answer.sessions]

    @strawberry.field(description="The caller's current export, null if there is none.")
    async def export(self, info: Info) -> Export | None:
        try:
            return Export.of(await info.context.clients.exports.GetExport(pb.GetExportRequest()))
        except DomainError as error:
            if error.code == "export_not_found":
                return None
            raise
