from datetime import datetime
from enum import StrEnum
from typing import Self
from uuid import UUID

import strawberry
from strawberry.scalars import JSON

from kinora.media.v1 import comments_pb2 as comments_pb
from kinora.media.v1 import media_pb2 as pb
from kinora.media.v1 import watching_pb2 as watching_pb
from kinora_graphql.auth.types import User
from kinora_graphql.comments.types import Comment, CommentOrder, comment_page
from kinora_graphql.connections import DEFAULT_FIRST, After, Connection, Edge, First, connection, page_size
from kinora_graphql.context import Context, Info
from kinora_graphql.costs import Cost, ListSize
from kinora_graphql.node.types import Node
from kinora_graphql.scalars import BigInt
from kinora_graphql.video.types import Failure, Video
from kinora_kit.structs import from_struct, moment


@strawberry.enum
class Visibility(StrEnum):
    PRIVATE = "private"
    UNLISTED = "unlisted"
    PUBLIC = "public"


@strawberry.enum
class MediaState(StrEnum):
    DRAFT = "draft"
    PROCESSING = "processing"
    PLAYABLE = "playable"
    READY = "ready"
    FAILED = "failed"


# Looked up by number, because names take longer and a page has 50 documents.
_VISIBILITIES = {pb.Visibility.Value(f"VISIBILITY_{each.name}"): each for each in Visibility}
_STATES = {pb.State.Value(f"STATE_{each.name}"): each for each in MediaState}


@strawberry.type
class Category:
    slug: str

    @strawberry.field(description="For display. The slug, if the platform no longer has this category.")
    async def name(self, info: Info) -> str:
        return await info.context.loaders.category_names.load(self.slug)


@strawberry.type(description="A video's title, description and visibility.")
class Media(Node):
    title: str
    description: str
    tags: list[str]
    category: Category | None = strawberry.field(description="Null if it has none.")
    language: str = strawberry.field(description="BCP 47, such as pt-BR; empty if unknown.")
    visibility: Visibility
    state: MediaState
    duration: float | None = strawberry.field(description="Seconds; null until the source has been probed.")
    failure: Failure | None = strawberry.field(description="Null unless processing failed.")
    view_count: BigInt
    like_count: BigInt
    comment_count: BigInt = strawberry.field(description="Including replies.")
    comments_enabled: bool = strawberry.field(description="Whether comments can be posted.")
    message: strawberry.Private[pb.Media]
    """For fields that take long to convert, and are rarely selected all together."""
    owner_id: strawberry.Private[UUID]
    pinned_comment_id: strawberry.Private[UUID | None]

    @strawberry.field(description="Free-form, set by the owner.")
    def attributes(self) -> JSON:
        return JSON(from_struct(self.message.attributes))

    @strawberry.field
    def created_at(self) -> datetime:
        return moment(self.message.created_at)

    @strawberry.field
    def updated_at(self) -> datetime:
        return moment(self.message.updated_at)

    @strawberry.field(description="When it becomes public by itself; null unless it is scheduled.")
    def publish_at(self) -> datetime | None:
        return moment(self.message.publish_at) if self.message.HasField("publish_at") else None

    @strawberry.field(description="When it was ready and public for the first time; null before.")
    def published_at(self) -> datetime | None:
        return moment(self.message.published_at) if self.message.HasField("published_at") else None

    @strawberry.field(description="Null while the account is being deleted.")
    async def owner(self, info: Info) -> User | None:
        return await User.load(info.context, self.owner_id)

    @strawberry.field(description="Null if it does not exist or the caller may not see it.")
    async def video(self, info: Info) -> Video | None:
        return await Video.load(info.context, self.uuid)

    @strawberry.field(description="False for anonymous callers.")
    async def viewer_has_liked(self, info: Info) -> bool:
        return await info.context.loaders.likes.load(self.uuid)

    @strawberry.field(description="Seconds: where the caller may resume; null if there is nothing to resume.")
    async def viewer_position(self, info: Info) -> float | None:
        return await info.context.loaders.positions.load(self.uuid)

    @strawberry.field(
        description="How many views have watched each of 100 equal parts: for the owner, an error for others.",
        directives=[ListSize(assumed_size=100), Cost(weight="5")],
    )
    async def retention(self, info: Info) -> list[int]:
        request = watching_pb.GetRetentionRequest(media_id=str(self.uuid))
        return list((await info.context.clients.watching.GetRetention(request)).parts)

    @strawberry.field(description="To be shown before all others; null if none is pinned.")
    async def pinned_comment(self, info: Info) -> Comment | None:
        pinned = await Comment.load(info.context, self.pinned_comment_id) if self.pinned_comment_id else None
        return None if pinned is None or pinned.is_deleted else pinned

    @strawberry.field(description="Without replies.")
    async def comments(
        self,
        info: Info,
        order: CommentOrder = CommentOrder.NEWEST,
        first: First = DEFAULT_FIRST,
        after: After = None,
    ) -> Connection[Comment]:
        limit = page_size(first)
        request = comments_pb.ListCommentsRequest(
            media_id=str(self.uuid),
            order=comments_pb.CommentOrder.Value(f"COMMENT_ORDER_{order.name}"),
            after=after or "",
            limit=limit,
        )
        with info.context.listing(limit):
            return comment_page(await info.context.clients.comments.ListComments(request))

    @classmethod
    def of(cls, media: pb.Media) -> Self:
        return cls(
            uuid=UUID(media.id),
            message=media,
            title=media.title,
            description=media.description,
            tags=list(media.tags),
            category=Category(slug=media.category) if media.category else None,
            language=media.language,
            visibility=_VISIBILITIES[media.visibility],
            state=_STATES[media.state],
            duration=media.duration if media.HasField("duration") else None,
            failure=Failure.of(media.failure_code, media.failure_detail),
            view_count=BigInt(media.counters.views),
            like_count=BigInt(media.counters.likes),
            comment_count=BigInt(media.counters.comments),
            comments_enabled=media.comments_enabled,
            owner_id=UUID(media.owner_id),
            pinned_comment_id=UUID(media.pinned_comment_id) if media.HasField("pinned_comment_id") else None,
        )

    @classmethod
    async def load(cls, context: Context, uuid: UUID) -> Self | None:
        media = await context.loaders.media.load(uuid)
        return cls.of(media) if media else None


def media_page(page: pb.MediaPage) -> Connection[Media]:
    edges = [Edge(cursor=entry.cursor, node=Media.of(entry.media)) for entry in page.entries]
    return connection(edges, has_more=page.has_more)
