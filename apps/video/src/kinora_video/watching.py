"""What viewers do: read videos, follow their progress, and play them. Called by REST, gRPC and ForwardAuth."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from uuid import UUID

from kinora.events import video as events
from kinora_kit import postgres
from kinora_kit.identity import Caller
from kinora_kit.postgres import Pool
from kinora_kit.s3 import ObjectStore
from kinora_video import announce, domain, hls, store
from kinora_video.domain import PlannedPart, StoredRendition, StoredSegment, Video
from kinora_video.errors import LinkExpired, NotPlayable, VideoNotFound
from kinora_video.links import SIGNED_QUERY, Links
from kinora_video.settings import VideoSettings

MAX_UPLOADS = 100


@dataclass(frozen=True)
class Shown:
    """A video with its URLs, which are absolute, and empty while the video is not playable."""

    video: Video
    renditions: Sequence[tuple[store.RenditionRow, int]]
    """Each with its average bits per second."""
    stream_url: str
    poster_url: str


@dataclass(frozen=True)
class Watching:
    pool: Pool
    objects: ObjectStore
    links: Links
    settings: VideoSettings

    # Metadata

    async def get(self, caller: Caller | None, video_id: UUID) -> Shown:
        video = await store.get(self.pool, video_id)
        if video is None:
            raise VideoNotFound
        video.must_be_visible_to(caller)
        return (await self._show([video]))[0]

    async def list_videos(self, caller: Caller | None, ids: Sequence[UUID]) -> list[Shown]:
        """Those of ``ids`` that exist and are visible to the caller."""
        videos = await store.list_videos(self.pool, ids)
        return await self._show([video for video in videos if video.visible_to(caller)])

    async def progress(self, caller: Caller, video_id: UUID) -> events.TranscodeProgressed | events.UploadProgressed:
        """The progress of upload and transcoding of the caller's video."""
        async with postgres.transaction(self.pool) as connection:
            video = await store.get(connection, video_id)
            if video is None:
                raise VideoNotFound
            video.must_be_owned_by(caller)
            return await announce.snapshot(connection, video)

    async def uploads(
        self, caller: Caller, ids: Sequence[UUID]
    ) -> list[events.TranscodeProgressed | events.UploadProgressed]:
        """The progress of the caller's videos that have not ended, the latest MAX_UPLOADS, and of ``ids``."""
        async with postgres.transaction(self.pool) as connection:
            videos = await store.unfinished(connection, caller.user_id, ids, limit=MAX_UPLOADS)
            return [await announce.snapshot(connection, video) for video in videos]

    async def _show(self, videos: Sequence[Video]) -> list[Shown]:
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
        """The signed query of a private stream's URLs. Return it only to those who may see the video."""
        if video.visibility != "private":
            return ""
        return "?" + self.links.query(video.id, video.visibility_changes, video.source.duration if video.source else 0)

    # Playback

    async def _watchable(self, caller: Caller | None, video_id: UUID, query: str) -> tuple[Video, str]:
        """The video, and the query for the URLs in its playlists.

        A request with a signed URL gets playlists with the same signature, not a newer one, so that access expires.
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
            raise VideoNotFound("The rendition does not exist, or has no segments yet")
        return video, hls.media_playlist(
            domain.init_key(rendition),
            _segments(stored),
            target_seconds=stored.target_seconds,
            complete=stored.complete,
            uri=lambda key: f"{key}{suffix}",
        )

    async def _stored(self, video_id: UUID) -> list[StoredRendition]:
        # One snapshot: a part that finishes in between must not count as done without its last segments.
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
        """The headers that authenticate the gateway's request to the object store for one object of the stream."""
        if method not in ("GET", "HEAD"):
            raise VideoNotFound
        if query and not SIGNED_QUERY.fullmatch(query):
            raise LinkExpired  # to the store, other queries are other operations (?acl, ?tagging)
        await self._watchable(None, video_id, query)
        path = f"/{self.settings.streams_bucket}/{video_id}/{key}"
        return dict(self.objects.signed_headers(method, f"{path}?{query}" if query else path))

    async def object_size(self, video_id: UUID, key: str) -> int:
        """The size in bytes of one object of the stream."""
        return await self.objects.size(self.settings.streams_bucket, f"{video_id}/{key}")


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
