from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Self
from uuid import UUID

import strawberry

from kinora.auth.v1 import auth_pb2 as pb
from kinora_graphql import ids
from kinora_graphql.node.types import Node
from kinora_graphql.scalars import BigInt
from kinora_kit.structs import moment

if TYPE_CHECKING:
    from kinora_graphql.context import Context


@strawberry.type(description="A user's public data.")
class User(Node):
    username: str
    display_name: str
    bio: str
    created_at: datetime

    @classmethod
    def of(cls, user: pb.User) -> Self:
        return cls(
            uuid=UUID(user.id),
            username=user.username,
            display_name=user.display_name,
            bio=user.bio,
            created_at=moment(user.created_at),
        )

    @classmethod
    async def load(cls, context: "Context", uuid: UUID) -> Self | None:
        user = await context.loaders.users.load(uuid)
        return cls.of(user) if user else None


@strawberry.type(description="A user's own profile, visible only to that user.")
class Profile(Node):
    user: User
    email: str
    roles: list[str]

    @classmethod
    def of(cls, profile: pb.Profile) -> Self:
        user = User.of(profile.user)
        return cls(uuid=user.uuid, user=user, email=profile.email, roles=list(profile.roles))

    @classmethod
    async def load(cls, context: "Context", uuid: UUID) -> Self | None:
        profile = await context.loaders.profiles.load(uuid)
        return cls.of(profile) if profile else None


@strawberry.type
class Tokens:
    access_token: str
    refresh_token: str = strawberry.field(description="Valid for one use; each refresh returns the next one.")
    expires_in: int = strawberry.field(description="Seconds until the access token expires.")
    user_id: strawberry.ID

    @classmethod
    def of(cls, tokens: pb.Tokens) -> Self:
        return cls(
            access_token=tokens.access_token,
            refresh_token=tokens.refresh_token,
            expires_in=tokens.expires_in,
            user_id=ids.make("User", tokens.user_id),
        )


@strawberry.type(description="A sign-in on one device.")
class Session(Node):
    user_agent: str = strawberry.field(description="As the device sent it, empty if it sent none.")
    address: str = strawberry.field(description="From which it was last used.")
    created_at: datetime
    last_used_at: datetime
    current: bool = strawberry.field(description="Whether this request belongs to it.")

    @classmethod
    def of(cls, session: pb.Session) -> Self:
        return cls(
            uuid=UUID(session.id),
            user_agent=session.user_agent,
            address=session.address,
            created_at=moment(session.created_at),
            last_used_at=moment(session.last_used_at),
            current=session.current,
        )

    @classmethod
    async def load(cls, context: "Context", uuid: UUID) -> Self | None:
        session = await context.loaders.sessions.load(uuid)
        return cls.of(session) if session else None


@strawberry.enum
class ExportState(StrEnum):
    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"


@strawberry.type(description="The caller's own data, for download. It ends with the session that requested it.")
class Export:
    state: ExportState
    progress: float = strawberry.field(description="0 to 1.")
    record_count: BigInt
    size: BigInt = strawberry.field(description="Bytes.")
    created_at: datetime
    expires_at: datetime
    download_url: str | None = strawberry.field(
        description="Null until ready. Valid for an hour, without a token: JSON objects, each on a line, with gzip."
    )

    @classmethod
    def of(cls, export: pb.Export) -> Self:
        return cls(
            state=ExportState(pb.ExportState.Name(export.state).removeprefix("EXPORT_STATE_").lower()),
            progress=export.progress,
            record_count=BigInt(export.records),
            size=BigInt(export.size),
            created_at=moment(export.created_at),
            expires_at=moment(export.expires_at),
            download_url=export.download_url if export.HasField("download_url") else None,
        )
