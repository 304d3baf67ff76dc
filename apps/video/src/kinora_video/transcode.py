"""The worker's use cases: probe a source and plan its parts; encode a part. All are idempotent and survive kills."""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from minio.error import S3Error

from kinora.events import video as events
from kinora_kit import logs, postgres, tasks
from kinora_kit.consumer import Ignore
from kinora_kit.events import Event
from kinora_kit.outages import is_outage
from kinora_kit.postgres import Connection, Pool
from kinora_kit.s3 import ObjectStore
from kinora_video import announce, domain, encode, store
from kinora_video.announce import DoPart, MakePoster, Prepare
from kinora_video.domain import Part, PlannedPart, Source, StoredSegment, Video
from kinora_video.encode import EncodedInit, EncodedSegment, EncodeFailed
from kinora_video.ladder import AUDIO, Rendition, ladder
from kinora_video.metrics import ENCODE_SPEED, PARTS, PLAYABLE_SECONDS
from kinora_video.probe import SourceRejected, SourceUnreachable, probe
from kinora_video.sandbox import Limits
from kinora_video.settings import WorkerSettings

log = logs.get(__name__)

T = TypeVar("T")

# The number of queued parts per video, so that a long video does not delay all later ones.
WINDOW = 6
# A video fails after this many attempts at the same part whose workers died (killed, out of memory), or after this many
# failures of ffmpeg. Graceful stops of workers and outages do not count.
ATTEMPTS = 8
ENCODE_ATTEMPTS = 3
OUTAGE_POLL_SECONDS = 1.0
PROGRESS_SECONDS = 1.0
SOURCE_LINK_SECONDS = 24 * 3600
_FOLDER = "kinora-part-"


class Gone(Ignore):
    """The video has failed or was deleted in the meantime; nothing remains to be done."""


@dataclass(frozen=True)
class Transcoder:
    pool: Pool
    objects: ObjectStore
    settings: WorkerSettings
    limits: Limits = encode.ENCODE_LIMITS

    async def handle(self, event: Event) -> None:
        """Execute one command from a work queue."""
        try:
            if event.type == Prepare.type:
                await self.prepare(event.read(Prepare).video_id)
            elif event.type == DoPart.type:
                command = event.read(DoPart)
                await self.do_part(command.video_id, command.index)
            elif event.type == MakePoster.type:
                await self.make_poster(event.read(MakePoster).video_id)
            else:
                raise Ignore(event.type)
        except SourceUnreachable:
            # Raises an outage if the store is down, which is retried without limit. Otherwise the retries are limited.
            await self._must_exist(UUID(event.subject))
            raise

    async def _must_exist(self, video_id: UUID) -> None:
        """Fail the video if its source no longer exists, as no retry can succeed."""
        try:
            await self.objects.size(self.settings.uploads_bucket, str(video_id))
        except S3Error as error:
            if error.code not in ("NoSuchKey", "NoSuchObject"):
                raise
            async with self._changing(video_id) as (connection, video):
                await announce.fail(connection, video, "unreadable", "The uploaded file no longer exists.")
            raise Gone from error

    async def give_up(self, event: Event) -> None:
        """Fail the video of a dead-lettered command, except for a poster."""
        if event.type in (Prepare.type, DoPart.type):
            with contextlib.suppress(Gone):
                async with self._changing(UUID(event.subject)) as (connection, video):
                    await _give_up(connection, video, f"{event.type} failed too often")

    async def make_poster(self, video_id: UUID) -> None:
        """Make a new poster, from the second that the owner chose."""
        video = await store.get(self.pool, video_id)
        if video is None or video.source is None or video.state in domain.GONE:
            raise Ignore
        if video.poster == domain.poster_key(video.poster_time):
            raise Ignore
        with contextlib.suppress(SourceRejected):
            await self._make_poster(video, video.source)
            async with self._changing(video_id) as (connection, _):
                await announce.progressed(connection, video_id)

    async def prepare(self, video_id: UUID) -> None:
        """Probe the source and plan its parts, or fail the video if the source is rejected."""
        video = await store.get(self.pool, video_id)
        if video is None or video.state != "processing" or video.source is not None:
            raise Ignore
        try:
            if video.size == 0:  # the object store rejects any range of an empty object
                raise SourceRejected("empty_file", "The file is empty.")
            source = await probe(self._link(video))
        except SourceRejected as error:
            async with self._changing(video_id) as (connection, video):
                await announce.fail(connection, video, error.code, error.detail)
            return
        renditions = ladder(source)
        parts = encode.plan(
            source,
            renditions,
            part_seconds=self.settings.part_seconds,
            segment_seconds=self.settings.segment_seconds,
        )
        async with self._changing(video_id) as (connection, video):
            if video.source is not None:  # another worker received the same command
                return
            audio = AUDIO if source.has_audio else None
            costs = [(part, _cost(part, source, renditions)) for part in parts]
            await store.set_plan(connection, video_id, source=source, renditions=renditions, audio=audio, parts=costs)
            await announce.send_parts(connection, video_id, await store.queue_parts(connection, video_id, WINDOW))
            await announce.progressed(connection, video_id)

    async def do_part(self, video_id: UUID, index: int) -> None:
        """Encode one part, and store each segment as soon as it is finished."""
        async with self._changing(video_id) as (connection, video):
            planned = await store.begin_part(connection, video_id, index)
            source = video.source
            if planned is None or source is None:
                raise Ignore
            if planned.attempts > ATTEMPTS:
                await _give_up(connection, video, f"{ATTEMPTS} workers died during part {index}")
                return
        started = time.perf_counter()
        try:
            if planned.part.kind == "poster":
                await self._make_poster(video, source)
            else:
                await self._encode(video, source, planned)
        except SourceRejected as error:
            if planned.part.kind != "poster":  # a video can do without a poster
                async with self._changing(video_id) as (connection, video):
                    await announce.fail(connection, video, error.code, error.detail)
                return
        except EncodeFailed as error:
            if await self._record(store.fail_attempt, video_id, index) < ENCODE_ATTEMPTS:
                raise
            if planned.part.kind != "poster":
                async with self._changing(video_id) as (connection, video):
                    await _give_up(connection, video, str(error))
                return
        except (Exception, asyncio.CancelledError):
            await self._record(store.spare_attempt, video_id, index)
            raise
        await self._finish(video_id, index)
        seconds = time.perf_counter() - started
        PARTS.labels(planned.part.kind).observe(seconds)
        if planned.part.kind == "video":
            ENCODE_SPEED.observe(_length(planned.part, source) / seconds)

    async def _record(self, record: Callable[[Pool, UUID, int], Awaitable[T]], video_id: UUID, index: int) -> T:
        """Record the result of an attempt, waiting for the database: without it, the worker counts as killed."""
        while True:
            try:
                return await record(self.pool, video_id, index)
            except Exception as error:
                if tasks.cancelled() or not is_outage(error):
                    raise
                await asyncio.sleep(OUTAGE_POLL_SECONDS)

    async def _encode(self, video: Video, source: Source, planned: PlannedPart) -> None:
        part = planned.part
        length = max(_length(part, source), 0.001)
        done = 0.0
        reported = time.monotonic()

        def on_progress(seconds: float) -> None:
            nonlocal done
            done = min(1.0, seconds / length)

        with self._workdir() as workdir:
            pieces = encode.encode(
                part, source, ladder(source), self._link(video), workdir, on_progress=on_progress, limits=self.limits
            )
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    await self._store(video.id, part, piece)
                    if time.monotonic() - reported >= PROGRESS_SECONDS:
                        reported = time.monotonic()
                        async with self._changing(video.id) as (connection, _):
                            await store.set_part_progress(connection, video.id, part.index, done)
                            await announce.progressed(connection, video.id)

    async def _store(self, video_id: UUID, part: Part, piece: EncodedInit | EncodedSegment) -> None:
        if isinstance(piece, EncodedInit):
            key, content_type = domain.init_key(piece.rendition), "video/mp4"
        else:
            key = domain.segment_key(piece.rendition, part.index, piece.sequence)
            content_type = "video/iso.segment"
        await self.objects.put_file(
            self.settings.streams_bucket,
            f"{video_id}/{key}",
            piece.path,
            content_type=content_type,
        )
        piece.path.unlink(missing_ok=isinstance(piece, EncodedInit))
        async with self._changing(video_id) as (connection, video):
            if isinstance(piece, EncodedInit):
                await store.set_codecs(connection, video_id, piece.rendition, piece.codecs)
            else:
                segment = StoredSegment(piece.rendition, part.index, piece.sequence, piece.duration, piece.size)
                await store.add_segment(connection, video_id, segment)
                if video.state == "processing" and await _begins(connection, video_id):
                    await self._playable(connection, video)

    async def _playable(self, connection: Connection, video: Video) -> None:
        assert video.source is not None  # noqa: S101 - parts are planned from it
        await store.set_state(connection, video.id, "playable")
        await announce.emit(
            connection,
            events.Playable(
                video_id=video.id,
                owner_id=video.owner_id,
                duration=video.source.duration,
                width=video.source.width,
                height=video.source.height,
            ),
        )
        await announce.progressed(connection, video.id)
        if video.transcoding_at is not None:
            PLAYABLE_SECONDS.observe(time.time() - video.transcoding_at.timestamp())

    async def _make_poster(self, video: Video, source: Source) -> None:
        with self._workdir() as workdir:
            path = await encode.poster(source, self._link(video), workdir, at=video.poster_time, limits=self.limits)
            key = domain.poster_key(video.poster_time)
            await self.objects.put_file(
                self.settings.streams_bucket,
                f"{video.id}/{key}",
                path,
                content_type="image/jpeg",
            )
        async with self._changing(video.id) as (connection, present):
            if present.poster_time == video.poster_time:
                outdated = present.poster if present.poster != key else None
                await store.set_poster(connection, video.id, key)
            else:  # the owner has chosen again: the later command makes that poster
                outdated = key
        if outdated:
            await self.objects.remove(self.settings.streams_bucket, [f"{video.id}/{outdated}"])

    async def _finish(self, video_id: UUID, index: int) -> None:
        """Mark the part as done and queue the next ones. After the last one, the video is ready."""
        async with self._changing(video_id) as (connection, video):
            if not await store.finish_part(connection, video_id, index):
                return
            await announce.send_parts(connection, video_id, await store.queue_parts(connection, video_id, WINDOW))
            parts = await store.parts_of(connection, video_id)
            if all(planned.done for planned in parts) and video.state != "ready":
                if video.state == "processing":
                    await self._playable(connection, video)
                assert video.source is not None  # noqa: S101 - parts are planned from it
                await store.set_state(connection, video_id, "ready")
                await announce.emit(
                    connection,
                    events.Ready(
                        video_id=video_id,
                        owner_id=video.owner_id,
                        duration=video.source.duration,
                        width=video.source.width,
                        height=video.source.height,
                    ),
                )
            await announce.progressed(connection, video_id)

    @contextlib.asynccontextmanager
    async def _changing(self, video_id: UUID) -> AsyncIterator[tuple[Connection, Video]]:
        """A transaction with the video locked. Raises Gone if it has failed or was deleted.

        An object that was stored just before is then an orphan, which the second purge removes.
        """
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            if video is None or video.state in domain.GONE:
                raise Gone
            yield connection, video

    @contextlib.contextmanager
    def _workdir(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-", dir=self.settings.work_dir) as folder:
            yield Path(folder)

    def sweep_work_dir(self) -> None:
        """Create the folder for parts, and remove the leftovers of killed workers from it."""
        place = self.settings.work_dir or Path(tempfile.gettempdir())
        place.mkdir(parents=True, exist_ok=True)
        for folder in place.glob(f"{_FOLDER}*-*"):
            owner = folder.name.removeprefix(_FOLDER).partition("-")[0]
            if owner.isdigit() and not Path("/proc", owner).exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _link(self, video: Video) -> str:
        return self.objects.presigned_get(
            self.settings.uploads_bucket, str(video.id), lifetime_seconds=SOURCE_LINK_SECONDS
        )


def _length(part: Part, source: Source) -> float:
    end = source.duration if part.end is None else min(part.end, source.duration)
    return max(0.0, end - part.start)


def _cost(part: Part, source: Source, renditions: tuple[Rendition, ...]) -> float:
    """The number of pixels to encode; audio and poster count as a hundredth of the smallest rendition."""
    chosen = [rendition.cost for rendition in renditions if rendition.name in part.renditions]
    return (sum(chosen) if chosen else renditions[0].cost / 100) * max(_length(part, source), 0.001)


async def _begins(connection: Connection, video_id: UUID) -> bool:
    """Whether the first segments of video and audio are stored."""
    parts = await store.parts_of(connection, video_id)
    segments = await store.segments_of(connection, video_id)
    kinds = {
        planned.part.kind
        for planned in parts
        if planned.part.kind != "poster"
        and planned.part.start == 0
        and any(segment.part_index == planned.part.index and segment.sequence == 0 for segment in segments)
    }
    return kinds == {planned.part.kind for planned in parts if planned.part.kind != "poster"}


async def _give_up(connection: Connection, video: Video, reason: str) -> None:
    log.error("transcoding failed for good", video_id=str(video.id), reason=reason)
    await announce.fail(
        connection,
        video,
        "transcode_failed",
        "The video could not be converted. Upload it again, or in another format.",
    )
