"""The use cases of uploads, called by gRPC, ForwardAuth and tusd's hooks."""

import base64
import json
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from minio.error import S3Error

from kinora.events import video as events
from kinora_kit import postgres
from kinora_kit.errors import DomainError, InvalidInput, Unavailable
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id, parse_id
from kinora_kit.postgres import Connection, Pool
from kinora_kit.s3 import ObjectStore
from kinora_kit.text import displayable
from kinora_video import announce, domain, store
from kinora_video.domain import Upload, Video, Visibility
from kinora_video.errors import (
    FileTooLarge,
    NotConcatenable,
    PartialTooSmall,
    TooManyUploads,
    UnsupportedType,
    UploadEnded,
    UploadFull,
    VideoNotFound,
)
from kinora_video.metrics import UPLOADED_BYTES, UPLOADS
from kinora_video.settings import VideoSettings
from kinora_video.tus import COLLECTION, Creation, Name, parse_name, parse_path

TITLE_LENGTH, FILENAME_LENGTH = 200, 255
DRAFT = "media-draft"
"""In Upload-Metadata, the media service's draft of the video's document. A client may name one, too: media applies only
the owner's own."""
# tusd has the object store copy the parts of a final upload into one object. S3 copies at most 5 GiB per request, and
# only the last part may be smaller than 5 MiB.
PARTIAL_MAX_BYTES = 5 << 30
PARTIAL_MIN_BYTES = 5 << 20
# If any part is smaller, tusd assembles the file in its own /tmp, which is memory. So a small file can have up to eight
# equal parts.
SMALL_FINAL_MAX_BYTES = 8 * PARTIAL_MIN_BYTES
# Types that clients declare without knowing the file's format.
_ANY_TYPE = {"", "application/octet-stream", "application/mxf", "application/x-matroska", "application/ogg"}

# While bytes arrive, tusd reports every second. After this time without a report, check whether the file is complete.
QUIET_SECONDS = 5.0
# Uploads that were active within this time are checked often, all others every few minutes.
RECENT_SECONDS = 600.0
RECENT_SWEEP_SECONDS = 5.0
EVER_SECONDS = 10 * 365 * 86400.0
FULL_SWEEP_SECONDS = 300.0
PAGE = 100


@dataclass(frozen=True)
class Uploads:
    pool: Pool
    objects: ObjectStore
    tusd: httpx.AsyncClient
    settings: VideoSettings

    # Called for clients

    async def create(
        self,
        caller: Caller,
        *,
        title: str,
        filename: str,
        size: int,
        visibility: Visibility,
        draft_id: UUID | None,
        trace: dict[str, str],
    ) -> tuple[UUID, str]:
        """Create an upload; returns the video's id and the tus URL that receives its bytes.

        Sent to tusd, which calls the pre-create hook as for any client, so that there is one way to create an upload.
        """
        filename, title = displayable(filename)[:FILENAME_LENGTH] or "video", displayable(title)[:TITLE_LENGTH]
        self._check_file(filename, "", size)
        metadata = {"filename": filename, "title": title, "visibility": visibility}
        if draft_id is not None:
            metadata[DRAFT] = str(draft_id)
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
            raise Unavailable("Uploads are currently unavailable; try again") from error
        if answer.status_code != 201:
            raise _from_hook(answer)
        location = answer.headers["location"]
        return parse_path(urlsplit(location).path).id, location

    async def authorise_creation(self, caller: Caller, creation: Creation) -> None:
        """Must be called before tusd reads the request: it looks up the parts of a final upload without authorisation.

        Raises VideoNotFound, UploadEnded, NotConcatenable, PartialTooSmall, FileTooLarge.
        """
        if creation.parts:
            await self._check_parts(caller, creation.parts)
        else:
            self._check_size(creation.size, partial=creation.partial)

    async def authorise(
        self, caller: Caller, name: Name, *, offset: str | None = None, declared_size: int | None = None
    ) -> int | None:
        """Raises VideoNotFound unless the upload is the caller's, UploadEnded if it was deleted, UploadFull.

        ``offset``: the unparsed Upload-Offset of a request with bytes. ``declared_size``: returned if the length was
        deferred until now. Raises FileTooLarge above the limit, InvalidInput if it differs from the known length.
        """
        [upload] = await self._find(caller, [name])
        if declared_size is not None:
            self._check_size(declared_size, partial=upload.partial)
            if upload.size not in (None, declared_size):
                raise InvalidInput("This upload already has a different length")
        most = self._max_bytes(partial=upload.partial) if upload.size is None else upload.size
        if offset is not None and offset.isdecimal() and int(offset) >= most:
            raise UploadFull
        return declared_size if upload.size is None else None

    # Called by tusd's hooks

    async def begin(
        self, caller: Caller, *, size: int | None, metadata: dict[str, str], parts: Sequence[Name] = ()
    ) -> UUID:
        """pre-create: returns the id for the new upload.

        ``size``: None if deferred. ``parts``: the partial uploads that a final one concatenates. Each is used once: an
        earlier, incomplete final upload of the same parts is deleted. Raises FileTooLarge, UnsupportedType,
        TooManyUploads, InvalidInput, and the errors of authorise_creation.
        """
        if parts:
            await self._check_parts(caller, parts)
        filename = displayable(metadata.get("filename") or metadata.get("name") or "") or "video"
        title = displayable(metadata.get("title", "")) or displayable(filename.rpartition(".")[0]) or filename
        self._check_file(filename, metadata.get("filetype", ""), size)
        visibility = domain.parse_visibility(metadata.get("visibility") or "private")
        draft_id = parse_id(metadata[DRAFT]) if metadata.get(DRAFT) else None
        video = Video(
            id=new_id(),
            owner_id=caller.user_id,
            title=title[:TITLE_LENGTH],
            filename=filename[:FILENAME_LENGTH],
            size=size,
            visibility=visibility,
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
            draft_id=draft_id,
        )
        async with postgres.transaction(self.pool) as connection:
            ids = [part.id for part in parts]
            if await store.count_uploading(connection, caller.user_id, excluding=ids) >= self.settings.uploads_per_user:
                raise TooManyUploads
            for earlier in await store.lock_finals(connection, ids):
                if earlier.state == "uploading":
                    await announce.deleted(connection, await store.set_deleted(connection, earlier.id))
            if await store.lock_partials(connection, caller.user_id, ids) < len(ids):
                raise UploadEnded
            await store.insert(connection, video)
            await store.use_partials(connection, ids, video.id)
        return video.id

    async def begin_partial(self, caller: Caller, size: int | None) -> UUID:
        """As begin, for a partial upload. Raises FileTooLarge, TooManyUploads."""
        self._check_size(size, partial=True)
        upload = Upload(new_id(), caller.user_id, True, size, None, False, None)
        async with postgres.transaction(self.pool) as connection:
            if await store.count_uploading(connection, caller.user_id) >= self.settings.uploads_per_user:
                raise TooManyUploads
            await store.insert_partial(connection, upload)
        return upload.id

    def expiry(self) -> datetime:
        """When an upload expires unless more bytes arrive."""
        return datetime.now(UTC) + timedelta(seconds=self.settings.upload_ttl_seconds)

    async def get(self, upload_id: UUID) -> Upload | None:
        """The upload, or None if it does not exist (any more)."""
        return next(iter(await store.list_uploads(self.pool, [upload_id])), None)

    async def record_name(self, upload: Upload, name: Name) -> None:
        """Store the multipart id, which the first hook after the creation reports."""
        if upload.multipart_id is None:
            await store.set_multipart_id(self.pool, upload, name.multipart_id)

    async def created(self, video_id: UUID) -> None:
        """post-create: announce the video to the other services."""
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            if video is not None and video.state == "uploading":
                await _begin(connection, video)

    async def receive(self, upload: Upload, offset: int, size: int | None) -> None:
        """post-receive: record the number of received bytes, and the size once it is known.

        Raises UploadEnded or FileTooLarge if tusd must stop the upload; FileTooLarge after failing it.
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
        if not await store.touch_partial(self.pool, upload.id, size):
            raise UploadEnded

    async def finish(self, video_id: UUID, size: int) -> None:
        """post-finish: the file is complete; queue its transcoding. The sweep calls this if the hook was lost."""
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
            await announce.emit(connection, events.Uploaded(video_id=video_id, owner_id=video.owner_id, size=size))
            await announce.command(connection, announce.Prepare(video_id=video_id), announce.FIRST_QUEUE)
            await announce.progressed(connection, video_id)
        UPLOADS.labels("finished").inc()
        UPLOADED_BYTES.inc(size)

    async def end_partial(self, upload_id: UUID) -> None:
        """pre-terminate, for a partial upload."""
        await store.end_partial(self.pool, upload_id)

    # Periodic

    async def sweep(self, *, active_seconds: float = RECENT_SECONDS) -> None:
        """Finish complete uploads whose hook was lost, and fail abandoned ones.

        Only those with a report within the last ``active_seconds`` are checked.
        """
        after = UUID(int=0)
        while page := await store.quiet_uploads(
            self.pool, after=after, quiet_seconds=QUIET_SECONDS, active_seconds=active_seconds, limit=PAGE
        ):
            for video in page:
                size = await self._stored_size(video.id)
                if size is not None and video.size in (None, size):
                    await self.finish(video.id, size)
                else:
                    await self._expire(video)
            after = page[-1].id
        await store.end_expired_partials(
            self.pool, ttl_seconds=self.settings.upload_ttl_seconds, begin_seconds=self.settings.upload_begin_seconds
        )

    async def _expire(self, video: Video) -> None:
        async with postgres.transaction(self.pool) as connection:
            expired = await store.lock_expired_upload(
                connection,
                video.id,
                ttl_seconds=self.settings.upload_ttl_seconds,
                begin_seconds=self.settings.upload_begin_seconds,
            )
            if expired is not None:
                detail = "The upload was not continued in time. Upload the file again."
                await announce.fail(connection, expired, domain.UPLOAD_EXPIRED, detail)
                UPLOADS.labels("expired").inc()

    async def _check_parts(self, caller: Caller, parts: Sequence[Name]) -> None:
        uploads = await self._find(caller, parts)
        if not all(upload.partial for upload in uploads):
            raise NotConcatenable
        sizes = [await self._size_of_part(upload) for upload in uploads]
        self._check_size(sum(sizes), partial=False)
        if min(sizes) < PARTIAL_MIN_BYTES and sum(sizes) > SMALL_FINAL_MAX_BYTES:
            raise PartialTooSmall

    async def _size_of_part(self, upload: Upload) -> int:
        # A deferred length may not have been reported yet. Or the part is incomplete, which tusd rejects.
        size = await self._stored_size(upload.id) if upload.size is None else upload.size
        if size is None:
            raise NotConcatenable("A partial upload is incomplete")
        return size

    async def _stored_size(self, upload_id: UUID) -> int | None:
        """The size of the complete file; None if it is incomplete, as tusd creates the object when it completes it."""
        try:
            return await self.objects.size(self.settings.uploads_bucket, str(upload_id))
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject"):
                return None
            raise

    async def _find(self, caller: Caller, names: Sequence[Name]) -> list[Upload]:
        """The caller's uploads with exactly these names. Raises VideoNotFound, UploadEnded."""
        found = {upload.id: upload for upload in await store.list_uploads(self.pool, [name.id for name in names])}
        for name in names:
            upload = found.get(name.id)
            if upload is None or upload.owner_id != caller.user_id:
                raise VideoNotFound
            if upload.ended:
                raise UploadEnded
            if await self._multipart_id(upload) != name.multipart_id:
                raise VideoNotFound
        return [found[name.id] for name in names]

    async def _multipart_id(self, upload: Upload) -> str | None:
        """From the hook, or, if that was lost or is late, from the .info object that tusd stores beside the file."""
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

    def _max_bytes(self, *, partial: bool) -> int:
        return min(self.settings.upload_max_bytes, PARTIAL_MAX_BYTES) if partial else self.settings.upload_max_bytes

    def _check_size(self, size: int | None, *, partial: bool) -> None:
        most = self._max_bytes(partial=partial)
        if size is not None and size > most:
            what = "partial upload" if partial else "file"
            raise FileTooLarge(f"A {what} may have at most {most} bytes; this one has {size}")

    def _check_file(self, filename: str, declared_type: str, size: int | None) -> None:
        self._check_size(size, partial=False)
        if not (declared_type.isascii() and declared_type.isprintable()):  # tusd sends it to the store as a header
            raise InvalidInput("filetype must be a media type, such as video/mp4")
        # As a path: guess_type parses its argument as a URL, and a filename such as `//[a].mp4` is an invalid one.
        kind = (declared_type or mimetypes.guess_type(f"./{filename}")[0] or "").lower()
        if kind not in _ANY_TYPE and not kind.startswith("video/"):
            raise UnsupportedType(f"{filename} has the type {kind}; only video files can be uploaded")

    async def _fits(self, connection: Connection, video: Video, offset: int, size: int | None) -> bool:
        """Whether the file is within the limit, which a deferred length may exceed. If not, the video fails."""
        try:
            self._check_size(max(offset, size or 0), partial=False)
        except FileTooLarge as error:
            await announce.fail(connection, video, domain.FILE_TOO_LARGE, error.detail)
            return False
        return True


async def _begin(connection: Connection, video: Video) -> None:
    """Announce the upload, once. Every hook does, because post-create may have been lost or be late."""
    if await store.set_begun(connection, video.id):
        await announce.emit(
            connection,
            events.UploadStarted(
                video_id=video.id,
                owner_id=video.owner_id,
                title=video.title,
                filename=video.filename,
                size=video.size or 0,
                visibility=video.visibility,
                draft_id=video.draft_id,
            ),
        )
        await announce.progressed(connection, video.id)


def _from_hook(answer: httpx.Response) -> DomainError:
    """The error of our own hook, whose problem document tusd returns."""
    try:
        problem = answer.json()
        return DomainError(
            str(problem["detail"]),
            status=int(problem["status"]),
            code=str(problem["code"]),
            title=str(problem["title"]),
            errors=problem.get("errors", ()),
        )
    except (ValueError, KeyError, TypeError):
        return Unavailable("Uploads are currently unavailable; try again")
