"""What runs by itself: uploads that ended unnoticed, uploads given up, and the removal of what failed or was deleted.

Due work stands in the database, so that it is done however often the process dies; several replicas share it.
"""

from dataclasses import dataclass
from uuid import UUID

from minio.error import S3Error

from kinora_kit import logs, postgres
from kinora_kit.postgres import Pool
from kinora_kit.s3 import ObjectStore
from kinora_video import announce, domain, store
from kinora_video.metrics import PURGED_OBJECTS, UPLOADS
from kinora_video.service import Videos
from kinora_video.settings import VideoSettings

log = logs.get(__name__)

PURGE_SECONDS = 1.0
PURGE_LEASE_SECONDS = 120
# tusd reports every second while bytes come. So long after the last word, look whether the file is whole all the same.
QUIET_SECONDS = 5.0
# Those that fell silent lately are looked at often, all of them now and then.
LATELY_SECONDS = 600.0
LATELY_EVERY_SECONDS = 5.0
EVER_SECONDS = 10 * 365 * 86400.0
ALL_EVERY_SECONDS = 300.0
PAGE = 100
# A worker at a part of a video that ends notices at its next piece; what it stored just then goes the second time.
PURGE_AGAIN_SECONDS = 900


@dataclass(frozen=True)
class Cleanup:
    pool: Pool
    objects: ObjectStore
    videos: Videos
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

    async def look_after_uploads(self, *, noisy_seconds: float = LATELY_SECONDS) -> None:
        """Finish uploads whose end we were not told of, and fail those that nobody goes on with.

        Those that were silent for longer than ``noisy_seconds`` are left out.
        """
        after = UUID(int=0)
        while page := await store.quiet_uploads(
            self.pool, after=after, quiet_seconds=QUIET_SECONDS, noisy_seconds=noisy_seconds, limit=PAGE
        ):
            for video in page:
                size = await self._stored_size(video)
                if size is not None and video.size in (None, size):
                    await self.videos.finish_upload(video.id, size)
                else:
                    await self._expire(video)
            after = page[-1].id
        await store.end_expired_partials(
            self.pool, ttl_seconds=self.settings.upload_ttl_seconds, begin_seconds=self.settings.upload_begin_seconds
        )

    async def _expire(self, video: domain.Video) -> None:
        async with postgres.transaction(self.pool) as connection:
            expired = await store.lock_expired_upload(
                connection,
                video.id,
                ttl_seconds=self.settings.upload_ttl_seconds,
                begin_seconds=self.settings.upload_begin_seconds,
            )
            if expired is not None:
                detail = "Nothing more of the file came for too long. Upload it again."
                await announce.fail(connection, expired, domain.UPLOAD_EXPIRED, detail)
                UPLOADS.labels("expired").inc()

    async def _stored_size(self, video: domain.Video) -> int | None:
        """Of the whole file: tusd stores the object once it is complete."""
        try:
            return await self.objects.size(self.settings.uploads_bucket, str(video.id))
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject"):
                return None
            raise
