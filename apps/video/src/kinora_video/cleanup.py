"""Removes the objects of failed and deleted videos, and of partial uploads that have ended.

What is due is in the database, so it survives the process, and replicas share the work.
"""

from dataclasses import dataclass
from uuid import UUID

from kinora_kit import postgres
from kinora_kit.postgres import Pool
from kinora_kit.s3 import ObjectStore
from kinora_video import domain, store
from kinora_video.metrics import PURGED_OBJECTS
from kinora_video.settings import VideoSettings

PURGE_SECONDS = 1.0
PURGE_LEASE_SECONDS = 120
# A worker that is encoding a part of the video may store one more piece; a second purge removes it.
PURGE_AGAIN_SECONDS = 900


@dataclass(frozen=True)
class Cleanup:
    pool: Pool
    objects: ObjectStore
    settings: VideoSettings

    async def purge(self) -> None:
        while await self.purge_one():
            pass

    async def purge_one(self) -> bool:
        """Remove the objects of one video or partial upload that is due. Returns False if none was."""
        due = await store.claim_purge(self.pool, lease_seconds=PURGE_LEASE_SECONDS)
        if due is None:
            return await self._purge_partial()
        video_id, state, failure_code, last = due
        count = await self.objects.remove_prefix(self.settings.streams_bucket, f"{video_id}/")
        # If the upload was complete and the video failed later, keep .info as long as the video's row: without it, tusd
        # would make clients upload the file again.
        kept = f"{video_id}.info" if state == "failed" and failure_code not in domain.NEVER_WHOLE else None
        count += await self._remove_upload(video_id, kept=kept)
        PURGED_OBJECTS.inc(count)
        async with postgres.transaction(self.pool) as connection:
            if last and state == "deleted":
                await store.forget(connection, video_id)
            else:
                await store.purged(connection, video_id, again_in_seconds=None if last else PURGE_AGAIN_SECONDS)
        return True

    async def _purge_partial(self) -> bool:
        due = await store.claim_partial_purge(self.pool, lease_seconds=PURGE_LEASE_SECONDS)
        if due is None:
            return False
        upload_id, last = due
        PURGED_OBJECTS.inc(await self._remove_upload(upload_id))
        await store.partial_purged(self.pool, upload_id, again_in_seconds=None if last else PURGE_AGAIN_SECONDS)
        return True

    async def _remove_upload(self, upload_id: UUID, *, kept: str | None = None) -> int:
        """tusd stores the file as <id>, beside <id>.info and <id>.part."""
        uploads = self.settings.uploads_bucket
        found = [key for key in await self.objects.keys(uploads, str(upload_id)) if key != kept]
        await self.objects.remove(uploads, found)
        await self.objects.abort_uploads(uploads, str(upload_id))
        return len(found)
