"""Notifications: new videos of channels that a user subscribes to, replies to and pins of a user's comments.

They are written by the consumer of media's own events. An event may be repeated at any point, also a week later:
what exists already stays as it is, and each event ends with removing what is no longer allowed to exist.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kinora.events.media import CommentPinned, CommentPosted, MediaPublished
from kinora_kit.errors import InvalidInput
from kinora_kit.identity import Caller
from kinora_kit.mongo import Database
from kinora_media.catalogue import MAX_BATCH, Catalogue
from kinora_media.clock import in_milliseconds, now
from kinora_media.comments import Comments
from kinora_media.domain import (
    Comment,
    Media,
    Notification,
    NotificationKind,
    NotificationState,
    Page,
    Position,
    Reading,
)
from kinora_media.errors import NotificationNotFound
from kinora_media.store import channels, marks
from kinora_media.store import comments as comments_store
from kinora_media.store import media as media_store
from kinora_media.store import notifications as store
from kinora_media.store.marks import HIDDEN_CHANNEL, NOT_INTERESTED, SUBSCRIPTION
from kinora_media.visible import full_page

BATCH = 1000
MAX_UNREAD = 100
"""The largest count of unread ones: 100 or more."""
LISTED = (NotificationState.UNREAD, NotificationState.READ)


@dataclass(frozen=True)
class Notified:
    """A notification with what it is about."""

    notification: Notification
    media: Media
    comment: Comment | None
    """Absent if it is about the document itself."""


@dataclass(frozen=True)
class Notifications:
    database: Database
    catalogue: Catalogue
    comments: Comments

    # What users do

    async def page(self, caller: Caller, *, after: Position | None, limit: int) -> Page[Notified]:
        """The caller's own, newest first."""

        async def read(after: Position | None, size: int) -> list[Notification]:
            return await store.page(self.database, caller.user_id, LISTED, after=after, limit=size)

        async def show(stored: Sequence[Notification]) -> list[Notified]:
            return await self._shown(caller, stored)

        return await full_page(read, show, lambda each: Position(each.at, each.id), after=after, limit=limit)

    async def many(self, caller: Caller, ids: Sequence[UUID]) -> list[Notified]:
        """The caller's own, in no particular order."""
        if len(ids) > MAX_BATCH:
            raise InvalidInput(f"At most {MAX_BATCH} ids per request")
        return await self._shown(caller, await store.many(self.database, caller.user_id, ids))

    async def unread(self, caller: Caller) -> int:
        """How many of the caller's latest MAX_UNREAD unread ones are shown."""
        unread = [NotificationState.UNREAD]
        latest = await store.page(self.database, caller.user_id, unread, after=None, limit=MAX_UNREAD)
        return len(await self._shown(caller, latest))

    async def read(self, caller: Caller, reading: Reading) -> None:
        """Mark as read. Ids of others' notifications are ignored."""
        if reading.ids is not None:
            await store.read(self.database, caller.user_id, reading.ids)
        if reading.until is not None:
            await store.read_until(self.database, caller.user_id, reading.until)

    async def dismiss(self, caller: Caller, notification_id: UUID) -> None:
        if not await store.dismiss(self.database, caller.user_id, notification_id):
            raise NotificationNotFound

    async def _shown(self, caller: Caller, notifications: Sequence[Notification]) -> list[Notified]:
        """Those that still hold: what the caller may not see, has hidden or no longer follows is left out, as are
        comments that were deleted or are no longer pinned."""
        visible = await self.catalogue.many(caller, _unique(n.media_id for n in notifications))
        media = {each.id: each for each in visible}
        wanted = _unique(n.subject_id for n in notifications if n.kind is not NotificationKind.VIDEO)
        comments = {each.id: each for each in await self.comments.many(caller, wanted)}
        videos = [n.media_id for n in notifications if n.kind is NotificationKind.VIDEO and n.media_id in media]
        owners = {media[media_id].owner_id for media_id in videos}
        followed, hidden_owners, hidden = await asyncio.gather(
            marks.among(self.database, SUBSCRIPTION, caller.user_id, owners),
            marks.among(self.database, HIDDEN_CHANNEL, caller.user_id, owners),
            marks.among(self.database, NOT_INTERESTED, caller.user_id, videos),
        )
        wanted_owners = followed - hidden_owners

        def holds(notification: Notification) -> bool:
            about, comment = media.get(notification.media_id), comments.get(notification.subject_id)
            if about is None:
                return False
            if notification.kind is NotificationKind.VIDEO:
                return about.published and about.owner_id in wanted_owners and about.id not in hidden
            if comment is None or comment.author_id is None:
                return False
            return notification.kind is NotificationKind.REPLY or comment.pinned

        return [Notified(n, media[n.media_id], comments.get(n.subject_id)) for n in notifications if holds(n)]

    # What events do

    async def of_video(self, published: MediaPublished, at: datetime) -> None:
        """Notify those who subscribed before the first publication; a video that is published again is no news."""
        at = in_milliseconds(published.published_at or at)
        if at < now() - store.KEPT:  # the notifications may have expired, and would be written again
            return
        media_id, channel_id = published.media_id, published.owner_id
        media = await media_store.find(self.database, media_id)
        after: UUID | None = None
        while isinstance(media, Media) and media.published:
            users = await marks.users(self.database, SUBSCRIPTION, channel_id, until=at, after=after, limit=BATCH)
            if not users:
                break
            made = [Notification(user_id, NotificationKind.VIDEO, media_id, media_id, at) for user_id in users]
            await store.insert(self.database, made)
            after = users[-1]
        # After the writes: of each of them and a concurrent deletion, one sees the other.
        if not isinstance(await media_store.find(self.database, media_id), Media):
            await store.delete_of_media(self.database, media_id)
        await self._remove_orphans(media_id)

    async def of_reply(self, posted: CommentPosted, at: datetime) -> None:
        """Notify the authors of the comment and of the reply that was answered, except the author of the answer."""
        answered = [each for each in (posted.parent_id, posted.answered_id) if each]
        found = await comments_store.many(self.database, answered)
        users = {each.author_id for each in found if each.author_id} - {posted.author_id}
        await self._of_comment(NotificationKind.REPLY, posted, users, at, actor_id=posted.author_id)

    async def of_pin(self, pinned: CommentPinned, at: datetime) -> None:
        """Notify the comment's author, unless it is the one who pinned it."""
        comment = await comments_store.find(self.database, pinned.comment_id)
        users = {comment.author_id} - {None, pinned.owner_id} if comment else set()
        await self._of_comment(NotificationKind.PIN, pinned, users, at)

    async def _of_comment(
        self,
        kind: NotificationKind,
        about: CommentPosted | CommentPinned,
        users: Iterable[UUID | None],
        at: datetime,
        *,
        actor_id: UUID | None = None,
    ) -> None:
        at = in_milliseconds(at)
        made = [
            Notification(user_id, kind, about.media_id, about.comment_id, at, actor_id=actor_id)
            for user_id in users
            if user_id
        ]
        if made and at >= now() - store.KEPT:
            await store.insert(self.database, made)
        comment = await comments_store.find(self.database, about.comment_id)  # after the write, as in of_video
        if comment is None or comment.author_id is None:
            await self.remove_of_comment(about.comment_id)
        await self._remove_orphans(about.comment_id)

    async def remove_of_comment(self, comment_id: UUID) -> None:
        await store.delete_of_subject(self.database, comment_id)

    async def _remove_orphans(self, subject_id: UUID) -> None:
        """Remove those of accounts that were deleted meanwhile, also ones that an attempt before this one wrote."""
        after: UUID | None = None
        while found := await store.recipients(self.database, subject_id, after=after, limit=BATCH):
            deleted = await channels.deleted(self.database, {user_id for _, user_id in found})
            if orphans := [each for each, user_id in found if user_id in deleted]:
                await store.delete(self.database, orphans)
            after = found[-1][0]


def _unique(ids: Iterable[UUID]) -> list[UUID]:
    return list(dict.fromkeys(ids))
