"""Consumers of other services' events: visibility changes and deletions."""

from dataclasses import dataclass

from kinora.events import auth, media
from kinora_kit.consumer import UnknownEvent
from kinora_kit.events import Event
from kinora_video.videos import Videos


@dataclass(frozen=True)
class Reactions:
    """Handles repeated and late events: an older visibility is ignored, and deletion is idempotent."""

    videos: Videos

    async def to_media(self, event: Event) -> None:
        if event.type == media.MediaUpdated.type:
            updated = event.read(media.MediaUpdated)
            await self.videos.set_visibility(updated.media_id, updated.visibility, updated.version)
        elif event.type == media.MediaDeleted.type:
            await self.videos.delete_quietly(event.read(media.MediaDeleted).media_id)
        else:
            raise UnknownEvent(event.type)

    async def to_auth(self, event: Event) -> None:
        if event.type != auth.UserDeleted.type:
            raise UnknownEvent(event.type)
        await self.videos.delete_all_of(event.read(auth.UserDeleted).user_id)
