"""Changes to videos after their creation: by the owner, and by the media and auth services.

Called by REST, gRPC, tusd's hooks and events.
"""

from dataclasses import dataclass
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from kinora_kit import postgres
from kinora_kit.errors import InvalidInput
from kinora_kit.identity import Caller
from kinora_kit.postgres import Connection, Pool
from kinora_video import announce, domain, store
from kinora_video.catalogue import Catalogue
from kinora_video.domain import Video, Visibility
from kinora_video.errors import NotPlayable, VideoNotFound

DELETE_BATCH = 200


class VideoChange(BaseModel):
    """Title and visibility belong to the media document, and are changed there."""

    model_config = ConfigDict(extra="forbid")

    poster_time: float = Field(ge=0, allow_inf_nan=False)
    """Seconds from the start of the video."""


@dataclass(frozen=True)
class Videos:
    pool: Pool
    catalogue: Catalogue

    async def choose_poster(self, caller: Caller, video_id: UUID, seconds: float) -> None:
        """Queue the making of a new poster, from another second of the video.

        Raises NotPlayable until the video is playable, InvalidInput beyond its end.
        """
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            if video is None:
                raise VideoNotFound
            video.must_be_owned_by(caller)
            if video.state not in domain.STREAMING or video.source is None:
                raise NotPlayable
            if seconds > video.source.duration:
                raise InvalidInput(f"The video ends after {video.source.duration:.3f} s")
            if video.poster == domain.poster_key(seconds):
                return
            await store.set_poster_time(connection, video_id, seconds)
            await announce.command(connection, announce.MakePoster(video_id=video_id), announce.BULK_QUEUE)

    async def delete(self, caller: Caller, video_id: UUID) -> None:
        """Delete the caller's video: hidden at once, here and in the catalogue, and soon removed from every store.

        Raises an outage if the catalogue cannot be reached, VideoNotFound if the video is already deleted in both.
        """
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            if video is None:
                raise VideoNotFound
            again = video.state == "deleted" and video.owned_by(caller)
            if not again:
                video.must_be_owned_by(caller)
                await _delete(connection, video)
        await self.catalogue.drop(video_id)
        if again:
            raise VideoNotFound

    async def drop(self, caller: Caller, video_id: UUID) -> None:
        """As delete, for the media service, which deletes the document itself. Idempotent."""
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            if video is not None and video.state != "deleted":
                video.must_be_owned_by(caller)
                await _delete(connection, video)

    async def delete_quietly(self, video_id: UUID) -> None:
        """As delete, without a caller, after an event or a terminated upload. Idempotent."""
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            if video is not None and video.state != "deleted":
                await _delete(connection, video)

    async def delete_all_of(self, owner_id: UUID) -> None:
        """In batches, because a client waits for it. If it fails, the batches that are done stay deleted."""
        await store.end_partials_of_owner(self.pool, owner_id)
        while True:
            async with postgres.transaction(self.pool) as connection:
                deleted = await store.delete_some_of(connection, owner_id, limit=DELETE_BATCH)
                for video in deleted:
                    await announce.deleted(connection, video)
            if len(deleted) < DELETE_BATCH:
                return

    async def set_visibility(self, video_id: UUID, visibility: Visibility, version: int) -> None:
        """From an event. Ignored unless ``version``, the document's, is newer than the last one."""
        async with postgres.transaction(self.pool) as connection:
            await store.set_visibility(connection, video_id, visibility, version)

    async def enforce_visibility(self, caller: Caller, video_id: UUID, visibility: Visibility, version: int) -> None:
        """As set_visibility, within the owner's request. Raises VideoNotFound, NotTheOwner."""
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            if video is None:
                raise VideoNotFound
            video.must_be_owned_by(caller)
            await store.set_visibility(connection, video_id, visibility, version)


async def _delete(connection: Connection, video: Video) -> None:
    await announce.deleted(connection, await store.set_deleted(connection, video.id))
