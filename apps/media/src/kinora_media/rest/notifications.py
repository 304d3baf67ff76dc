"""REST API of notifications."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel

from kinora_kit.identity import SignedIn
from kinora_media import cursors
from kinora_media.domain import NotificationKind, NotificationState, Reading
from kinora_media.notifications import Notified
from kinora_media.rest.comments import CommentOut
from kinora_media.rest.media import Limit, MediaOut, media_out
from kinora_media.wiring import Wired

router = APIRouter(prefix="/media/notifications", tags=["notifications"])

NotificationCursor = Annotated[str | None, Query(pattern=cursors.NOTIFICATION)]


class NotificationOut(BaseModel):
    id: UUID
    kind: NotificationKind
    created_at: datetime
    read: bool
    media: MediaOut
    comment: CommentOut | None
    """The reply, or the pinned comment."""


class NotificationPage(BaseModel):
    items: list[NotificationOut]
    next_cursor: str | None


class Unread(BaseModel):
    count: int
    """At most 100, which means 100 or more."""


@router.get("")
async def notifications(
    caller: SignedIn, wired: Wired, cursor: NotificationCursor = None, limit: Limit = 20
) -> NotificationPage:
    """The caller's notifications of the last 90 days, newest first."""
    after = cursors.in_notifications(cursor) if cursor else None
    page = await wired.notifications.page(caller, after=after, limit=limit)
    return NotificationPage(
        items=[_out(each) for each in page.items],
        next_cursor=cursors.of_notification(page.items[-1].notification) if page.more else None,
    )


@router.get("/unread")
async def unread(caller: SignedIn, wired: Wired) -> Unread:
    return Unread(count=await wired.notifications.unread(caller))


@router.put("/read")
async def read(reading: Reading, caller: SignedIn, wired: Wired) -> Unread:
    """Mark notifications as read: those with `ids`, or all created `until` a time."""
    await wired.notifications.read(caller, reading)
    return Unread(count=await wired.notifications.unread(caller))


@router.delete("/{notification_id:uuid}", status_code=204)
async def dismiss(notification_id: UUID, caller: SignedIn, wired: Wired) -> None:
    await wired.notifications.dismiss(caller, notification_id)


def _out(notified: Notified) -> NotificationOut:
    notification, comment = notified.notification, notified.comment
    return NotificationOut(
        id=notification.id,
        kind=notification.kind,
        created_at=notification.at,
        read=notification.state is NotificationState.READ,
        media=media_out(notified.media),
        comment=CommentOut.model_validate(comment) if comment else None,
    )
