"""Consumers of events: the life of videos, deletions, and notifications."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from kinora.events import auth, media, video
from kinora_kit.consumer import UnknownEvent
from kinora_kit.events import Event
from kinora_media import domain
from kinora_media.belongings import Belongings
from kinora_media.catalogue import Catalogue
from kinora_media.clock import in_milliseconds
from kinora_media.domain import Media, Visibility
from kinora_media.notifications import Notifications
from kinora_media.users import Users


@dataclass(frozen=True)
class Reactions:
    """Handles repeated, late and reordered events: they change documents idempotently and commutatively."""

    catalogue: Catalogue
    belongings: Belongings
    notifications: Notifications
    users: Users

    async def to_video(self, event: Event) -> None:
        about = event.read(video.Deleted)  # video_id and owner_id, which all video events have
        if event.type == video.Deleted.type:
            await self.catalogue.remove(about.video_id, about.owner_id)
        elif event.type == video.UploadStarted.type:
            await self._begin(event.read(video.UploadStarted), in_milliseconds(event.time))
        else:
            await self.catalogue.apply(about.video_id, about.owner_id, partial(_apply, event))

    async def _begin(self, started: video.UploadStarted, at: datetime) -> None:
        media_id, owner_id, visibility = started.video_id, started.owner_id, Visibility(started.visibility)
        draft = await self.catalogue.draft(started.draft_id, owner_id, media_id) if started.draft_id else None
        begin = partial(domain.begun, title=started.title, visibility=visibility, at=at, draft=draft)
        await self.catalogue.apply(media_id, owner_id, begin)

    async def to_auth(self, event: Event) -> None:
        if event.type == auth.UserDeleted.type:
            user_id = event.read(auth.UserDeleted).user_id
            await self.belongings.remove_of_user(user_id)
        elif event.type == auth.UserUpdated.type:
            user_id = event.read(auth.UserUpdated).user_id
        else:
            raise UnknownEvent(event.type)
        await self.users.changed(user_id)

    async def to_media(self, event: Event) -> None:
        if event.type == media.MediaDeleted.type:
            await self.belongings.remove_of_media(event.read(media.MediaDeleted).media_id)
        elif event.type == media.MediaPublished.type:
            await self.notifications.of_video(event.read(media.MediaPublished), event.time)
        elif event.type == media.CommentPosted.type:
            await self.notifications.of_reply(event.read(media.CommentPosted), event.time)
        elif event.type == media.CommentPinned.type:
            await self.notifications.of_pin(event.read(media.CommentPinned), event.time)
        elif event.type == media.CommentDeleted.type:
            await self.notifications.remove_of_comment(event.read(media.CommentDeleted).comment_id)
        elif event.type == media.HistoryCleared.type:
            cleared = event.read(media.HistoryCleared)
            await self.belongings.remove_history(cleared.user_id, cleared.at)
        else:
            raise UnknownEvent(event.type)


def _apply(event: Event, document: Media) -> Media:
    match event.type:
        case video.Uploaded.type:
            return domain.uploaded(document)
        case video.Playable.type:
            part = event.read(video.Playable)
            return domain.playable(document, duration=part.duration, width=part.width, height=part.height)
        case video.Ready.type:
            whole = event.read(video.Ready)
            return domain.ready(document, duration=whole.duration, width=whole.width, height=whole.height)
        case video.Failed.type:
            failure = event.read(video.Failed)
            return domain.failed(document, code=failure.code, detail=failure.detail)
        case _:
            raise UnknownEvent(event.type)
