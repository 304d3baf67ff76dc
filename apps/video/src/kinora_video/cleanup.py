"""What runs by itself: the removal of what failed, was deleted, or became a part of a whole.

Due work stands in the database, so that it is done however often the process dies; several replicas share it.
"""

from dataclasses import dataclass
from uuid import UUID

from kinora_kit import logs, postgres
from kinora_kit.postgres import Pool
from kinora_kit.s3 import ObjectStore
from kinora_video import domain, store
from kinora_video.metrics import PURGED_OBJECTS
from kinora_video.settings import VideoSettings

log = logs.get(__name__)

PURGE_SECONDS = 1.0
PURGE_LEASE_SECONDS = 120
# A worker at a part of a video that ends notices at its next piece; what it stored just then goes the second time.
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
        """Remove the objects of one video or partial upload that is due; whether there was one."""
        due = await store.claim_purge(self.pool, lease_seconds=PURGE_LEASE_SECONDS)
        if due is None:
            return await self._purge_partial()
        video_id, state, failure_code, last = due
        count = await self.objects.remove_prefix(self.settings.streams_bucket, f"{video_id}/")
        # Of a file that was there to its last byte and failed later, .info is left while the video is known: without it
        # tusd would tell clients to send everything again.
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
        """tusd keeps the file under the id, and beside it <id>.info and <id>.part."""
        uploads = self.settings.uploads_bucket
        found = [key for key in await self.objects.keys(uploads, str(upload_id)) if key != kept]
        await self.objects.remove(uploads, found)
        await self.objects.abort_uploads(uploads, str(upload_id))
        return len(found)
