"""The use cases of the API: begin, follow, watch and delete. REST, gRPC, tusd's hooks and events all call these."""

import base64
import json
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from minio.error import S3Error

from kinora.events import video as events
from kinora_kit import postgres
from kinora_kit.errors import DomainError, InvalidInput, Unavailable
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.postgres import Connection, Pool
from kinora_kit.s3 import ObjectStore
from kinora_video import announce, domain, hls, store
from kinora_video.catalogue import Catalogue
from kinora_video.domain import PlannedPart, StoredRendition, StoredSegment, Upload, Video, Visibility
from kinora_video.errors import (
    FileTooLarge,
    LinkExpired,
    NotConcatenable,
    NotPlayable,
    PartialTooSmall,
    TooManyUploads,
    UnsupportedType,
    UploadEnded,
    UploadFull,
    VideoNotFound,
)
from kinora_video.links import SIGNED_QUERY, Links
from kinora_video.metrics import UPLOADED_BYTES, UPLOADS
from kinora_video.settings import VideoSettings
from kinora_video.uploads import COLLECTION, Creation, Name, displayable, parse_name, parse_path

TITLE_LENGTH, FILENAME_LENGTH = 200, 255
DELETE_BATCH = 200
# tusd has the object store copy the parts of a final upload into one object. S3 copies at most 5 GiB at a time, and
# takes no smaller part than 5 MiB but for the last.
PARTIAL_MAX_BYTES = 5 << 30
PARTIAL_MIN_BYTES = 5 << 20
# With a smaller one among them, tusd puts the file together in its own /tmp, which is memory. A small file can come in
# up to eight equal parts.
SMALL_FINAL_MAX_BYTES = 8 * PARTIAL_MIN_BYTES
# Names that a client may give to bytes without saying anything about them.
_ANY_TYPE = {"", "application/octet-stream", "application/mxf", "application/x-matroska", "application/ogg"}


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
    tusd: httpx.AsyncClient
    links: Links
    catalogue: Catalogue
    settings: VideoSettings

    # Uploading

    async def create_upload(
        self, caller: Caller, *, title: str, filename: str, size: int, visibility: Visibility, trace: dict[str, str]
    ) -> tuple[UUID, str]:
        """Begin an upload: the video's id and the tus resource that takes its bytes.

        It is made by tusd, which asks back through its hook, so that an upload begins in one way only.
        """
        filename, title = displayable(filename)[:FILENAME_LENGTH] or "video", displayable(title)[:TITLE_LENGTH]
        self._check_file(filename, "", size)
        metadata = {"filename": filename, "title": title, "visibility": visibility}
        public = urlsplit(self.settings.public_url)
        try:
            answer = await self.tusd.post(
                f"{COLLECTION}/",
                headers={
                    **caller.headers(),
                    **trace,
                    "Tus-Resumable": "1.0.0",
                    "Upload-Length": str(size),
                    "Upload-Metadata": ",".join(
                        f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in metadata.items()
                    ),
                    "X-Forwarded-Host": public.netloc,
                    "X-Forwarded-Proto": public.scheme,
                },
            )
        except httpx.HTTPError as error:
            raise Unavailable("Uploads are not possible at the moment, try again") from error
        if answer.status_code != 201:
            raise _from_hook(answer)
        location = answer.headers["location"]
        return parse_path(urlsplit(location).path).id, location

    async def authorise_creation(self, caller: Caller, creation: Creation) -> None:
        """Before tusd reads the same headers: of a final upload it looks at each part, and asks nobody whose it is.

        Raises VideoNotFound, UploadEnded, NotConcatenable, PartialTooSmall, FileTooLarge.
        """
        if creation.parts:
            await self._check_parts(caller, creation.parts)
        else:
            self._check_size(creation.size, partial=creation.partial)

    async def begin_partial(self, caller: Caller, size: int | None) -> UUID:
        """As begin_upload, for a part of a file. Raises FileTooLarge, TooManyUploads."""
        self._check_size(size, partial=True)
        upload = Upload(new_id(), caller.user_id, True, size, None, False, None)
        async with postgres.transaction(self.pool) as connection:
            if await store.count_uploading(connection, caller.user_id) >= self.settings.uploads_per_user:
                raise TooManyUploads
            await store.insert_partial(connection, upload)
        return upload.id

    async def begin_upload(
        self, caller: Caller, *, size: int | None, metadata: dict[str, str], parts: Sequence[Name] = ()
    ) -> UUID:
        """Called back by tusd before it makes an upload. Returns the id that the upload is to have.

        ``size``: None when the client will say it later. ``parts``: the partial uploads that it is made of. A part is
        used once: an upload that was begun with it before and is not complete gives it up, and ends.
        Raises FileTooLarge, UnsupportedType, TooManyUploads, InvalidInput, and as authorise_creation.
        """
        if parts:
            await self._check_parts(caller, parts)
        filename = displayable(metadata.get("filename") or metadata.get("name") or "") or "video"
        title = displayable(metadata.get("title", "")) or filename.rpartition(".")[0] or filename
        self._check_file(filename, metadata.get("filetype", ""), size)
        visibility = metadata.get("visibility") or "private"
        if visibility not in domain.VISIBILITIES:
            raise InvalidInput(f"visibility must be one of {', '.join(domain.VISIBILITIES)}")
        video = Video(
            id=new_id(),
            owner_id=caller.user_id,
            title=title[:TITLE_LENGTH],
            filename=filename[:FILENAME_LENGTH],
            size=size,
            visibility=visibility,  # type: ignore[arg-type]
            visibility_changes=0,
            state="uploading",
            bytes_received=0,
            version=1,
            source=None,
            poster=None,
            poster_time=None,
            failure_code="",
            failure_detail="",
            created_at=datetime.now(UTC),
            transcoding_at=None,
        )
        async with postgres.transaction(self.pool) as connection:
            ids = [part.id for part in parts]
            if await store.count_uploading(connection, caller.user_id, but=ids) >= self.settings.uploads_per_user:
                raise TooManyUploads
            for earlier in await store.lock_finals(connection, ids):
                if earlier.state == "uploading":
                    await _delete(connection, earlier)
            if await store.lock_partials(connection, caller.user_id, ids) < len(ids):
                raise UploadEnded
            await store.insert(connection, video)
            await store.use_partials(connection, ids, video.id)
        return video.id

    def expiry(self) -> datetime:
        """When an upload is given up that nothing is added to from now on."""
        return datetime.now(UTC) + timedelta(seconds=self.settings.upload_ttl_seconds)

    async def _check_parts(self, caller: Caller, parts: Sequence[Name]) -> None:
        sizes = []
        for part in parts:
            upload = await self._find_upload(caller, part)
            if not upload.partial:
                raise NotConcatenable
            # Of a deferred length we may not have heard yet, or the part is not finished, which tusd refuses.
            sizes.append(await self._stored_size(part.id) if upload.size is None else upload.size)
        self._check_size(sum(sizes), partial=False)
        if min(sizes) < PARTIAL_MIN_BYTES and sum(sizes) > SMALL_FINAL_MAX_BYTES:
            raise PartialTooSmall

    async def _stored_size(self, upload_id: UUID) -> int:
        try:
            return await self.objects.size(self.settings.uploads_bucket, str(upload_id))
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject"):
                raise NotConcatenable("A partial upload is not finished") from None
            raise

    async def _find_upload(self, caller: Caller, name: Name) -> Upload:
        """Raises VideoNotFound unless the caller has an upload of exactly this name, UploadEnded."""
        upload = await store.get_upload(self.pool, name.id)
        if upload is None or upload.owner_id != caller.user_id:
            raise VideoNotFound
        if upload.ended:
            raise UploadEnded
        if await self._multipart_id(upload) != name.multipart_id:
            raise VideoNotFound
        return upload

    async def _multipart_id(self, upload: Upload) -> str | None:
        """As tusd told it, or, when that call was lost or is late, as tusd has written it beside the file."""
        if upload.multipart_id is not None:
            return upload.multipart_id
        try:
            written = await self.objects.get(self.settings.uploads_bucket, f"{upload.id}.info")
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject"):
                return None
            raise
        name = parse_name(json.loads(written)["ID"])
        await store.set_multipart_id(self.pool, upload, name.multipart_id)
        return name.multipart_id

    async def named(self, upload: Upload, name: Name) -> None:
        """Called back by tusd with the whole name of an upload."""
        if upload.multipart_id is None:
            await store.set_multipart_id(self.pool, upload, name.multipart_id)

    async def begun(self, video_id: UUID) -> None:
        """Called back by tusd when the place for the bytes is made: from now on the video is known to others."""
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            if video is not None and video.state == "uploading":
                await _begin(connection, video)

    def _most(self, *, partial: bool) -> int:
        return min(self.settings.upload_max_bytes, PARTIAL_MAX_BYTES) if partial else self.settings.upload_max_bytes

    def _check_size(self, size: int | None, *, partial: bool) -> None:
        most = self._most(partial=partial)
        if size is not None and size > most:
            what = "A part of a file" if partial else "The file"
            raise FileTooLarge(f"{what} has {size} bytes; at most {most} can be uploaded")

    def _check_file(self, filename: str, declared_type: str, size: int | None) -> None:
        self._check_size(size, partial=False)
        if not (declared_type.isascii() and declared_type.isprintable()):  # it becomes a header of the object store's
            raise InvalidInput("The type of the file must be a media type, such as video/mp4")
        kind = (declared_type or mimetypes.guess_type(filename)[0] or "").lower()
        if kind not in _ANY_TYPE and not kind.startswith("video/"):
            raise UnsupportedType(f"{filename} is of type {kind}; only video files can be uploaded")

    async def receive(self, upload: Upload, offset: int, size: int | None) -> None:
        """Note how many bytes are there, and the size, as soon as it is known.

        Raises UploadEnded, and FileTooLarge after ending it, when the upload is to stop.
        """
        if upload.partial:
            await self._receive_partial(upload, offset, size)
            return
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, upload.id)
            if video is None or video.state in domain.GONE:
                raise UploadEnded
            fits = await self._fits(connection, video, offset, size)
            if fits and video.state == "uploading":
                await _begin(connection, video)
                await store.set_received(connection, upload.id, offset, size)
                await announce.progressed(connection, upload.id)
        if not fits:
            raise FileTooLarge

    async def _receive_partial(self, upload: Upload, offset: int, size: int | None) -> None:
        try:
            self._check_size(max(offset, size or 0), partial=True)
        except FileTooLarge:
            await store.end_partial(self.pool, upload.id)
            raise
        if not await store.note_partial(self.pool, upload.id, size):
            raise UploadEnded

    async def _fits(self, connection: Connection, video: Video, offset: int, size: int | None) -> bool:
        """Whether it is within the limit, which a size that was said late need not be. Otherwise the video fails."""
        try:
            self._check_size(max(offset, size or 0), partial=False)
        except FileTooLarge as error:
            await announce.fail(connection, video, domain.FILE_TOO_LARGE, error.detail)
            return False
        return True

    async def finish_upload(self, video_id: UUID, size: int) -> None:
        """All bytes are in the store: have them looked at. Called by the hook, or by the sweep that replaces it."""
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            if video is None or video.state != "uploading":
                return
            await _begin(connection, video)
            await store.set_received(connection, video_id, size, size)
            await store.end_partials_of_final(connection, video_id)
            if not await self._fits(connection, video, size, size):
                return
            await store.set_state(connection, video_id, "processing")
            await announce.tell(connection, events.Uploaded(video_id=video_id, owner_id=video.owner_id, size=size))
            await announce.command(connection, announce.Prepare(video_id=video_id), announce.FIRST_QUEUE)
            await announce.progressed(connection, video_id)
        UPLOADS.labels("finished").inc()
        UPLOADED_BYTES.inc(size)

    async def end_upload(self, upload: Upload) -> None:
        """Because its owner says so: with its video, if it has one."""
        if upload.partial:
            await store.end_partial(self.pool, upload.id)
        else:
            await self.delete_quietly(upload.id)

    async def authorise_upload(
        self, caller: Caller, name: Name, *, sends_at: str | None = None, says_size: int | None = None
    ) -> int | None:
        """Raises VideoNotFound unless the upload is the caller's, UploadEnded when nothing is left of it, UploadFull.

        ``sends_at``: the offset, as the client wrote it, of bytes that it sends. ``says_size``: the size that it says
        now; returned if it was not known before. Raises FileTooLarge for one above the limit, InvalidInput for another
        than before.
        """
        upload = await self._find_upload(caller, name)
        if says_size is not None:
            self._check_size(says_size, partial=upload.partial)
            if upload.size not in (None, says_size):
                raise InvalidInput("The length of this upload is known already, and is another")
        most = self._most(partial=upload.partial) if upload.size is None else upload.size
        if sends_at is not None and sends_at.isdecimal() and int(sends_at) >= most:
            raise UploadFull
        return says_size if upload.size is None else None

    async def get_upload(self, upload_id: UUID) -> Upload | None:
        """None when there is no such upload, or no more."""
        return await store.get_upload(self.pool, upload_id)

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


async def _begin(connection: Connection, video: Video) -> None:
    """Tell of the upload, once. The call that should have come first may have been lost, or be late."""
    if await store.set_begun(connection, video.id):
        await announce.tell(
            connection,
            events.UploadStarted(
                video_id=video.id,
                owner_id=video.owner_id,
                title=video.title,
                filename=video.filename,
                size=video.size or 0,
                visibility=video.visibility,
            ),
        )
        await announce.progressed(connection, video.id)


async def _delete(connection: Connection, video: Video) -> None:
    await announce.deleted(connection, await store.set_deleted(connection, video.id))


class _Refused(DomainError):
    """What our own hook answered, as it came through tusd."""


def _from_hook(answer: httpx.Response) -> DomainError:
    try:
        problem = answer.json()
        refused = _Refused(str(problem["detail"]))
        refused.status, refused.code = int(problem["status"]), str(problem["code"])  # type: ignore[misc]
    except (ValueError, KeyError, TypeError):
        return Unavailable("Uploads are not possible at the moment, try again")
    return refused


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
