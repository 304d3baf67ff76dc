from datetime import datetime
from enum import StrEnum
from typing import Self
from uuid import UUID

import strawberry

from kinora.media.v1 import notifications_pb2 as pb
from kinora_graphql.comments.types import Comment
from kinora_graphql.connections import Connection, Edge, connection
from kinora_graphql.context import Context, Info
from kinora_graphql.media.types import Media
from kinora_graphql.node.types import Node
from kinora_kit.structs import moment


@strawberry.enum(
    description="VIDEO: a new video of a channel that the caller subscribes to. REPLY: a reply to the caller's comment."
    " PIN: the caller's comment was pinned."
)
class NotificationKind(StrEnum):
    VIDEO = "video"
    REPLY = "reply"
    PIN = "pin"


@strawberry.type(description="Visible only to its recipient, for 90 days.")
class Notification(Node):
    kind: NotificationKind
    created_at: datetime
    is_read: bool
    media_id: strawberry.Private[UUID]
    comment_id: strawberry.Private[UUID | None]

    @strawberry.field(description="The new video, or that of the comment. Null if the caller may no longer see it.")
    async def media(self, info: Info) -> Media | None:
        return await Media.load(info.context, self.media_id)

    @strawberry.field(description="The reply, or the pinned comment; null for a video.")
    async def comment(self, info: Info) -> Comment | None:
        return await Comment.load(info.context, self.comment_id) if self.comment_id else None

    @classmethod
    def of(cls, notification: pb.Notification) -> Self:
        kind = pb.NotificationKind.Name(notification.kind).removeprefix("NOTIFICATION_KIND_")
        return cls(
            uuid=UUID(notification.id),
            kind=NotificationKind[kind],
            created_at=moment(notification.created_at),
            is_read=notification.read,
            media_id=UUID(notification.media_id),
            comment_id=UUID(notification.comment_id) if notification.HasField("comment_id") else None,
        )

    @classmethod
    async def load(cls, context: Context, uuid: UUID) -> Self | None:
        notification = await context.loaders.notifications.load(uuid)
        return cls.of(notification) if notification else None


def notification_page(page: pb.NotificationPage) -> Connection[Notification]:
    edges = [Edge(cursor=entry.cursor, node=Notification.of(entry.notification)) for entry in page.entries]
    return connection(edges, has_more=page.has_more)
