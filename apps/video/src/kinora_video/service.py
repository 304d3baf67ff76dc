"""The use cases of videos: look, watch and delete. REST, gRPC, the gateway and events all call these."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from uuid import UUID

from kinora.events import video as events
from kinora_kit import postgres
from kinora_kit.errors import InvalidInput
from kinora_kit.identity import Caller
from kinora_kit.postgres import Connection, Pool
from kinora_kit.s3 import ObjectStore
from kinora_video import announce, domain, hls, store
from kinora_video.catalogue import Catalogue
from kinora_video.domain import PlannedPart, StoredRendition, StoredSegment, Video, Visibility
from kinora_video.errors import LinkExpired, NotPlayable, VideoNotFound
from kinora_video.links import SIGNED_QUERY, Links
from kinora_video.settings import VideoSettings

DELETE_BATCH = 200


@dataclass(frozen=True)
class Shown:
    """A video as someone may see it. Addresses are absolute, and empty while there is nothing behind them."""

    video: Video
    renditions: Sequence[tuple[store.RenditionRow, int]]
    """Each with its average bits per second."""
    stream_url: str
    poster_url: str


@dataclass(frozen=True)
class Videos:
    pool: Pool
    objects: ObjectStore
    links: Links
    catalogue: Catalogue
    settings: VideoSettings

    # Looking

    async def get(self, caller: Caller | None, video_id: UUID) -> Shown:
        video = await store.get(self.pool, video_id)
        if video is None:
            raise VideoNotFound
        video.must_be_visible_to(caller)
        return (await self._show(caller, [video]))[0]

    async def list_videos(self, caller: Caller | None, ids: Sequence[UUID]) -> list[Shown]:
        """Those of ``ids`` that exist and that the caller may see."""
        videos = await store.list_videos(self.pool, ids)
        return await self._show(caller, [video for video in videos if video.visible_to(caller)])

    async def progress(self, caller: Caller, video_id: UUID) -> events.TranscodeProgressed | events.UploadProgressed:
        """How upload and transcoding of the caller's video stand."""
        async with postgres.transaction(self.pool) as connection:
            video = await store.get(connection, video_id)
            if video is None:
                raise VideoNotFound
            video.must_be_owned_by(caller)
            return await announce.snapshot(connection, video)

    async def _show(self, caller: Caller | None, videos: Sequence[Video]) -> list[Shown]:
        ids = [video.id for video in videos]
        renditions = await store.renditions_of(self.pool, ids)
        bandwidths = await store.bandwidths(self.pool, ids)
        return [
            Shown(
                video=video,
                renditions=[(row, bandwidths.get((video.id, row.name), 0)) for row in renditions[video.id]],
                stream_url=self._url(video, "master.m3u8") if video.state in domain.STREAMING else "",
                poster_url=self._url(video, video.poster) if video.poster and video.state in domain.STREAMING else "",
            )
            for video in videos
        ]

    def _url(self, video: Video, key: str) -> str:
        return f"{self.settings.public_url}/video/{video.id}/{key}{self._suffix(video)}"

    def _suffix(self, video: Video) -> str:
        """What an address of a private stream carries; only those who may see the video are ever told it."""
        if video.visibility != "private":
            return ""
        return "?" + self.links.query(video.id, video.visibility_changes, video.source.duration if video.source else 0)

    # Watching

    async def _watchable(self, caller: Caller | None, video_id: UUID, query: str) -> tuple[Video, str]:
        """The video, and what the addresses in its playlists are to carry.

        Whoever came by a signed address gets no younger signature than that one, so that it does end.
        """
        video = await store.get(self.pool, video_id)
        if video is None or video.state == "deleted":
            raise VideoNotFound
        suffix = self._suffix(video)
        if not video.visible_to(caller):
            if not query:
                raise VideoNotFound
            self.links.check(video_id, video.visibility_changes, query)
            suffix = f"?{query}"
        if video.state not in domain.STREAMING:
            raise NotPlayable
        return video, suffix

    async def master_playlist(self, caller: Caller | None, video_id: UUID, query: str) -> tuple[Video, str]:
        video, suffix = await self._watchable(caller, video_id, query)
        tracks = [stored for stored in await self._stored(video_id) if stored.segments and stored.codecs]
        audio = next((_track(stored) for stored in tracks if stored.kind == "audio"), None)
        videos = [_video_track(stored) for stored in tracks if stored.kind == "video"]
        return video, hls.master_playlist(videos, audio, uri=lambda key: f"{key}{suffix}")

    async def media_playlist(
        self, caller: Caller | None, video_id: UUID, rendition: str, query: str
    ) -> tuple[Video, str]:
        video, suffix = await self._watchable(caller, video_id, query)
        stored = next((item for item in await self._stored(video_id) if item.name == rendition), None)
        if stored is None or not stored.segments:
            raise VideoNotFound("The video has no such rendition, or nothing of it yet")
        return video, hls.media_playlist(
            domain.init_key(rendition),
            _segments(stored),
            target_seconds=stored.target_seconds,
            complete=stored.complete,
            uri=lambda key: f"{key}{suffix}",
        )

    async def _stored(self, video_id: UUID) -> list[StoredRendition]:
        # One snapshot: a part that ends in between must not count as done without its last segments.
        async with (
            self.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            rows = (await store.renditions_of(connection, [video_id]))[video_id]
            parts = await store.parts_of(connection, video_id)
            segments = await store.segments_of(connection, video_id)
        return [
            _stored(
                row,
                [planned for planned in parts if row.name in planned.part.renditions],
                [segment for segment in segments if segment.rendition == row.name],
            )
            for row in rows
        ]

    async def authorise_object(self, method: str, video_id: UUID, key: str, query: str) -> dict[str, str]:
        """The headers with which the gateway may fetch one object of the stream from the object store."""
        if method not in ("GET", "HEAD"):
            raise VideoNotFound
        if query and not SIGNED_QUERY.fullmatch(query):
            raise LinkExpired  # the store reads other queries as other requests (?acl, ?tagging)
        await self._watchable(None, video_id, query)
        path = f"/{self.settings.streams_bucket}/{video_id}/{key}"
        return dict(self.objects.signed_headers(method, f"{path}?{query}" if query else path))

    async def object_size(self, video_id: UUID, key: str) -> int:
        """The bytes of one object of the stream."""
        return await self.objects.size(self.settings.streams_bucket, f"{video_id}/{key}")

    async def choose_poster(self, caller: Caller, video_id: UUID, seconds: float) -> None:
        """Have the poster made of another moment of the video.

        Raises NotPlayable as long as there is nothing to see, InvalidInput for a moment that the video does not have.
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

    # Ending

    async def delete(self, caller: Caller, video_id: UUID) -> None:
        """Delete the caller's video: at once for everyone, here and in the catalogue, and soon from every store.

        Raises an outage when the catalogue could not be told, VideoNotFound when all of it is done already.
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
        """As delete, because its document was deleted. Nothing happens when it is gone already."""
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            if video is not None and video.state != "deleted":
                video.must_be_owned_by(caller)
                await _delete(connection, video)

    async def delete_quietly(self, video_id: UUID) -> None:
        """As delete, because something else was deleted; nothing happens when it is gone already."""
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            if video is not None and video.state != "deleted":
                await _delete(connection, video)

    async def delete_all_of(self, owner_id: UUID) -> None:
        """Many at a time, because somebody waits for it. What is done stays done when the rest cannot be."""
        await store.end_partials_of_owner(self.pool, owner_id)
        while True:
            async with postgres.transaction(self.pool) as connection:
                deleted = await store.delete_some_of(connection, owner_id, limit=DELETE_BATCH)
                for video in deleted:
                    await announce.deleted(connection, video)
            if len(deleted) < DELETE_BATCH:
                return

    async def set_visibility(self, video_id: UUID, visibility: Visibility, version: int) -> None:
        """As an event says. It counts only if ``version``, the document's, is newer than what was set before."""
        async with postgres.transaction(self.pool) as connection:
            await store.set_visibility(connection, video_id, visibility, version)

    async def enforce_visibility(self, caller: Caller, video_id: UUID, visibility: Visibility, version: int) -> None:
        """As set_visibility, for the owner who is waiting. Raises VideoNotFound, NotTheOwner."""
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            if video is None:
                raise VideoNotFound
            video.must_be_owned_by(caller)
            await store.set_visibility(connection, video_id, visibility, version)


async def _delete(connection: Connection, video: Video) -> None:
    await announce.deleted(connection, await store.set_deleted(connection, video.id))


def _stored(
    row: store.RenditionRow, parts: Sequence[PlannedPart], segments: Sequence[StoredSegment]
) -> StoredRendition:
    return StoredRendition(
        name=row.name,
        kind=row.kind,
        width=row.width,
        height=row.height,
        frame_rate=row.frame_rate,
        codecs=row.codecs,
        segments=domain.unbroken(parts, segments),
        target_seconds=max(planned.part.segment_seconds for planned in parts),
        complete=all(planned.done for planned in parts),
    )


def _segments(stored: StoredRendition) -> list[hls.Segment]:
    return [hls.Segment(segment.key, segment.duration, segment.size) for segment in stored.segments]


def _track(stored: StoredRendition) -> hls.Track:
    return hls.Track(key=f"{stored.name}.m3u8", codecs=stored.codecs or "", segments=_segments(stored))


def _video_track(stored: StoredRendition) -> hls.VideoTrack:
    return hls.VideoTrack(
        key=f"{stored.name}.m3u8",
        codecs=stored.codecs or "",
        segments=_segments(stored),
        width=stored.width,
        height=stored.height,
        frame_rate=Fraction(stored.frame_rate),
    )
