"""Events, progress and commands of a video, written to the outbox in the caller's transaction."""

from datetime import UTC, datetime
from uuid import UUID

from kinora.events import video as events
from kinora_kit import outbox
from kinora_kit.events import Payload, event
from kinora_kit.postgres import Connection, Pool
from kinora_video import domain, store
from kinora_video.domain import Part, Video
from kinora_video.ladder import AUDIO

SERVICE = "video"

FIRST_QUEUE = "video.transcode.first"
"""Short work that a viewer is waiting for: the probe, the first seconds, the poster."""
SOUND_QUEUE = "video.transcode.sound"
BULK_QUEUE = "video.transcode.bulk"
_QUEUES = {"first": FIRST_QUEUE, "sound": SOUND_QUEUE, "bulk": BULK_QUEUE}


class Prepare(Payload):
    """Command: probe the source and plan its parts."""

    type = "transcode.prepare"
    video_id: UUID

    @property
    def subject(self) -> str:
        return str(self.video_id)


class DoPart(Payload):
    """Command: encode one part."""

    type = "transcode.do_part"
    video_id: UUID
    index: int

    @property
    def subject(self) -> str:
        return str(self.video_id)


class MakePoster(Payload):
    """Command: make a new poster, from the second that the owner chose."""

    type = "transcode.make_poster"
    video_id: UUID

    @property
    def subject(self) -> str:
        return str(self.video_id)


async def emit(connection: Connection, payload: Payload) -> None:
    """Emit one of the service's public events."""
    await outbox.emit(connection, event(SERVICE, payload), exchange=events.EXCHANGE)


async def command(connection: Connection, payload: Prepare | DoPart | MakePoster, queue: str) -> None:
    """Put a command on a work queue. It stays in the outbox until the queue exists."""
    await outbox.emit(connection, event(SERVICE, payload), exchange="", routing_key=queue, mandatory=True)


async def send_parts(connection: Connection, video_id: UUID, parts: list[Part]) -> None:
    for part in parts:
        await command(connection, DoPart(video_id=video_id, index=part.index), _QUEUES[part.lane])


async def snapshot(connection: Connection | Pool, video: Video) -> events.TranscodeProgressed | events.UploadProgressed:
    """The current state of upload and transcoding."""
    whole, renditions, left = 0.0, dict[str, float](), None
    if video.state == "ready":
        whole, left = 1.0, 0.0
    if video.state in domain.TRANSCODING | {"ready"} and video.source is not None:
        parts = await store.parts_of(connection, video.id)
        progress = domain.progress_of(parts, video.source.duration)
        renditions = progress.renditions
        if video.state != "ready":
            whole = progress.whole
            if video.transcoding_at is not None:
                elapsed = (datetime.now(UTC) - video.transcoding_at).total_seconds()
                left = domain.time_left(whole, elapsed)
    kind = events.UploadProgressed if video.state == "uploading" else events.TranscodeProgressed
    return kind(
        video_id=video.id,
        owner_id=video.owner_id,
        state=video.state,
        version=video.version,
        bytes_received=video.bytes_received,
        bytes_total=video.size or 0,
        progress=whole,
        renditions=tuple(
            events.RenditionProgress(name=name, progress=renditions[name]) for name in sorted(renditions, key=_order)
        ),
        time_left=left,
        failure_code=video.failure_code,
        failure_detail=video.failure_detail,
    )


def _order(rendition: str) -> tuple[bool, int, str]:
    """Smallest video first ("240p" before "1080p"), audio last."""
    return rendition == AUDIO, len(rendition), rendition


async def progressed(connection: Connection, video_id: UUID) -> None:
    """Emit the video's progress. Call it after all changes of the transaction."""
    video = await store.get(connection, video_id)
    if video is not None:
        await _progress(connection, video)


async def deleted(connection: Connection, video: Video) -> None:
    """Emit the deletion of ``video``, which is already marked as deleted."""
    await emit(connection, events.Deleted(video_id=video.id, owner_id=video.owner_id))
    await _progress(connection, video)


async def _progress(connection: Connection, video: Video) -> None:
    progress = event(SERVICE, await snapshot(connection, video))
    await outbox.emit(connection, progress, exchange=events.PROGRESS_EXCHANGE, routing_key=str(video.id))
    await outbox.emit(connection, progress, exchange=events.UPLOADS_EXCHANGE, routing_key=str(video.owner_id))


async def fail(connection: Connection, video: Video, code: str, detail: str) -> None:
    """Fail the video and schedule the removal of its objects. Does nothing if it already failed or was deleted."""
    if video.state in domain.GONE:
        return
    await store.set_failed(connection, video.id, code, detail)
    await emit(connection, events.Failed(video_id=video.id, owner_id=video.owner_id, code=code, detail=detail))
    await progressed(connection, video.id)
