from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Self
from uuid import UUID

import strawberry

from kinora.media.v1 import comments_pb2 as pb
from kinora_graphql.auth.types import User
from kinora_graphql.connections import DEFAULT_FIRST, After, Connection, Edge, First, connection, page_size
from kinora_graphql.context import Context, Info
from kinora_graphql.node.types import Node
from kinora_graphql.scalars import BigInt
from kinora_kit.structs import moment

if TYPE_CHECKING:
    from kinora_graphql.media.types import Media


@strawberry.enum(description="NEWEST: newest first. TOP: most liked first.")
class CommentOrder(StrEnum):
    NEWEST = "newest"
    TOP = "top"


@strawberry.type(description="A comment on a video, or a reply to one.")
class Comment(Node):
    body: str = strawberry.field(description="Empty if it was deleted.")
    created_at: datetime
    edited_at: datetime | None = strawberry.field(description="Null if it was never edited.")
    like_count: BigInt
    reply_count: BigInt = strawberry.field(description="0 for replies.")
    is_pinned: bool = strawberry.field(description="By the video's owner, to be shown first.")
    is_deleted: bool = strawberry.field(description="It stays for its replies, without author and text.")
    author_id: strawberry.Private[UUID | None]
    media_id: strawberry.Private[UUID]
    parent_id: strawberry.Private[UUID | None]

    @strawberry.field(description="Null if it was deleted.")
    async def author(self, info: Info) -> User | None:
        return await User.load(info.context, self.author_id) if self.author_id else None

    @strawberry.field(description="The comment that a reply belongs to; null if this is none.")
    async def parent(self, info: Info) -> "Comment | None":
        return await Comment.load(info.context, self.parent_id) if self.parent_id else None

    @strawberry.field(description="Null if the caller may no longer see it.")
    async def media(self, info: Info) -> Annotated["Media", strawberry.lazy("kinora_graphql.media.types")] | None:
        from kinora_graphql.media.types import Media  # noqa: PLC0415 - it has comments

        return await Media.load(info.context, self.media_id)

    @strawberry.field(description="False for anonymous callers.")
    async def viewer_has_liked(self, info: Info) -> bool:
        return await info.context.loaders.comment_likes.load(self.uuid)

    @strawberry.field(description="Oldest first.")
    async def replies(self, info: Info, first: First = DEFAULT_FIRST, after: After = None) -> Connection["Comment"]:
        limit = page_size(first)
        request = pb.ListRepliesRequest(comment_id=str(self.uuid), after=after or "", limit=limit)
        with info.context.listing(limit):
            return comment_page(await info.context.clients.comments.ListReplies(request))

    @classmethod
    def of(cls, comment: pb.Comment) -> Self:
        return cls(
            uuid=UUID(comment.id),
            body=comment.body,
            created_at=moment(comment.created_at),
            edited_at=moment(comment.edited_at) if comment.HasField("edited_at") else None,
            like_count=BigInt(comment.likes),
            reply_count=BigInt(comment.replies),
            is_pinned=comment.pinned,
            is_deleted=not comment.HasField("author_id"),
            author_id=UUID(comment.author_id) if comment.HasField("author_id") else None,
            media_id=UUID(comment.media_id),
            parent_id=UUID(comment.parent_id) if comment.HasField("parent_id") else None,
        )

    @classmethod
    async def load(cls, context: Context, uuid: UUID) -> Self | None:
        comment = await context.loaders.comments.load(uuid)
        return cls.of(comment) if comment else None


def comment_page(page: pb.CommentPage) -> Connection[Comment]:
    edges = [Edge(cursor=entry.cursor, node=Comment.of(entry.comment)) for entry in page.entries]
    return connection(edges, has_more=page.has_more)
