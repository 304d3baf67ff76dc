"""What runs by itself: uploads that ended unnoticed, uploads given up, and the removal of what failed or was deleted.

Due work stands in the database, so that it is done however often the process dies; several replicas share it.
"""

from dataclasses import dataclass

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
UPLOADS_SECONDS = 5.0
# tusd reports every second while bytes come. So long after the last word, look whether the file is whole all the same.
QUIET_SECONDS = 5.0
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
        """Remove the objects of one video that is due; whether there was one."""
        async with postgres.transaction(self.pool) as connection:
            due = await store.claim_purge(connection)
            if due is None:
                return False
            video_id, state, last = due
            uploads, streams = self.settings.uploads_bucket, self.settings.streams_bucket
            count = await self.objects.remove_prefix(streams, f"{video_id}/")
            # tusd keeps the file under the id, and beside it <id>.info and <id>.part.
            count += await self.objects.remove_prefix(uploads, str(video_id))
            await self.objects.abort_uploads(uploads, str(video_id))
            PURGED_OBJECTS.inc(count)
            if last and state == "deleted":
                await store.forget(connection, video_id)
            else:
                await store.purged(connection, video_id, again_in_seconds=None if last else PURGE_AGAIN_SECONDS)
        return True

    async def look_after_uploads(self) -> None:
        """Finish uploads whose end we were not told of, and fail those that nobody goes on with."""
        for video, quiet in await store.stale_uploads(self.pool, quiet_seconds=QUIET_SECONDS, limit=100):
            if await self._is_whole(video):
                await self.videos.finish_upload(video.id)
            elif quiet > self.settings.upload_ttl_seconds:
                async with postgres.transaction(self.pool) as connection:
                    locked = await store.lock(connection, video.id)
                    if locked is not None and locked.state == "uploading":
                        detail = "Nothing more of the file came for too long. Upload it again."
                        await announce.fail(connection, locked, "upload_expired", detail)
                        UPLOADS.labels("expired").inc()

    async def _is_whole(self, video: domain.Video) -> bool:
        try:
            return await self.objects.size(self.settings.uploads_bucket, str(video.id)) == video.size
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject"):
                return False
            raise
