"""Consumers of other services' events: visibility changes and deletions."""

from dataclasses import dataclass

from kinora.events import auth, media
from kinora_kit.consumer import Ignore, Queue
from kinora_kit.events import Event
from kinora_video.service import Videos

CATALOGUE = Queue(
    "video.media",
    bindings=((media.EXCHANGE, media.MediaUpdated.type), (media.EXCHANGE, media.MediaDeleted.type)),
)
USERS = Queue("video.user", bindings=((auth.EXCHANGE, auth.UserDeleted.type),))


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
            raise Ignore(event.type)

    async def to_user(self, event: Event) -> None:
        if event.type != auth.UserDeleted.type:
            raise Ignore(event.type)
        await self.videos.delete_all_of(event.read(auth.UserDeleted).user_id)
