"""The use cases of uploads: begin, receive, put together, finish, expire. gRPC, ForwardAuth and tusd call these."""

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
from kinora_kit.ids import new_id
from kinora_kit.postgres import Connection, Pool
from kinora_kit.s3 import ObjectStore
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
from kinora_video.tus import COLLECTION, Creation, Name, displayable, parse_name, parse_path

TITLE_LENGTH, FILENAME_LENGTH = 200, 255
# tusd has the object store copy the parts of a final upload into one object. S3 copies at most 5 GiB at a time, and
# takes no smaller part than 5 MiB but for the last.
PARTIAL_MAX_BYTES = 5 << 30
PARTIAL_MIN_BYTES = 5 << 20
# With a smaller one among them, tusd puts the file together in its own /tmp, which is memory. A small file can come in
# up to eight equal parts.
SMALL_FINAL_MAX_BYTES = 8 * PARTIAL_MIN_BYTES
# Names that a client may give to bytes without saying anything about them.
_ANY_TYPE = {"", "application/octet-stream", "application/mxf", "application/x-matroska", "application/ogg"}

# tusd reports every second while bytes come. So long after the last word, look whether the file is whole all the same.
QUIET_SECONDS = 5.0
# Those that fell silent lately are looked at often, all of them now and then.
LATELY_SECONDS = 600.0
LATELY_EVERY_SECONDS = 5.0
EVER_SECONDS = 10 * 365 * 86400.0
ALL_EVERY_SECONDS = 300.0
PAGE = 100


@dataclass(frozen=True)
class Uploads:
    pool: Pool
    objects: ObjectStore
    tusd: httpx.AsyncClient
    settings: VideoSettings

    # What clients ask for

    async def create(
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

    async def authorise(
        self, caller: Caller, name: Name, *, sends_at: str | None = None, says_size: int | None = None
    ) -> int | None:
        """Raises VideoNotFound unless the upload is the caller's, UploadEnded when nothing is left of it, UploadFull.

        ``sends_at``: the offset, as the client wrote it, of bytes that it sends. ``says_size``: the size that it says
        now; returned if it was not known before. Raises FileTooLarge for one above the limit, InvalidInput for another
        than before.
        """
        [upload] = await self._find(caller, [name])
        if says_size is not None:
            self._check_size(says_size, partial=upload.partial)
            if upload.size not in (None, says_size):
                raise InvalidInput("The length of this upload is known already, and is another")
        most = self._most(partial=upload.partial) if upload.size is None else upload.size
        if sends_at is not None and sends_at.isdecimal() and int(sends_at) >= most:
            raise UploadFull
        return says_size if upload.size is None else None

    # What tusd's hooks tell

    async def begin(
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
                    await announce.deleted(connection, await store.set_deleted(connection, earlier.id))
            if await store.lock_partials(connection, caller.user_id, ids) < len(ids):
                raise UploadEnded
            await store.insert(connection, video)
            await store.use_partials(connection, ids, video.id)
        return video.id

    async def begin_partial(self, caller: Caller, size: int | None) -> UUID:
        """As begin, for a part of a file. Raises FileTooLarge, TooManyUploads."""
        self._check_size(size, partial=True)
        upload = Upload(new_id(), caller.user_id, True, size, None, False, None)
        async with postgres.transaction(self.pool) as connection:
            if await store.count_uploading(connection, caller.user_id) >= self.settings.uploads_per_user:
                raise TooManyUploads
            await store.insert_partial(connection, upload)
        return upload.id

    def expiry(self) -> datetime:
        """When an upload is given up that nothing is added to from now on."""
        return datetime.now(UTC) + timedelta(seconds=self.settings.upload_ttl_seconds)

    async def get(self, upload_id: UUID) -> Upload | None:
        """None when there is no such upload, or no more."""
        return next(iter(await store.list_uploads(self.pool, [upload_id])), None)

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

    async def finish(self, video_id: UUID, size: int) -> None:
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

    async def end_partial(self, upload_id: UUID) -> None:
        """Because its owner says so."""
        await store.end_partial(self.pool, upload_id)

    # What is done when nobody asks or tells

    async def sweep(self, *, noisy_seconds: float = LATELY_SECONDS) -> None:
        """Finish uploads whose end we were not told of, and fail those that nobody goes on with.

        Those that were silent for longer than ``noisy_seconds`` are left out.
        """
        after = UUID(int=0)
        while page := await store.quiet_uploads(
            self.pool, after=after, quiet_seconds=QUIET_SECONDS, noisy_seconds=noisy_seconds, limit=PAGE
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
                detail = "Nothing more of the file came for too long. Upload it again."
                await announce.fail(connection, expired, domain.UPLOAD_EXPIRED, detail)
                UPLOADS.labels("expired").inc()

    # What the above share

    async def _check_parts(self, caller: Caller, parts: Sequence[Name]) -> None:
        uploads = await self._find(caller, parts)
        if not all(upload.partial for upload in uploads):
            raise NotConcatenable
        sizes = [await self._size_of_part(upload) for upload in uploads]
        self._check_size(sum(sizes), partial=False)
        if min(sizes) < PARTIAL_MIN_BYTES and sum(sizes) > SMALL_FINAL_MAX_BYTES:
            raise PartialTooSmall

    async def _size_of_part(self, upload: Upload) -> int:
        # Of a deferred length we may not have heard yet, or the part is not finished, which tusd refuses.
        size = await self._stored_size(upload.id) if upload.size is None else upload.size
        if size is None:
            raise NotConcatenable("A partial upload is not finished")
        return size

    async def _stored_size(self, upload_id: UUID) -> int | None:
        """Of the whole file: tusd stores the object once it is complete."""
        try:
            return await self.objects.size(self.settings.uploads_bucket, str(upload_id))
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchObject"):
                return None
            raise

    async def _find(self, caller: Caller, names: Sequence[Name]) -> list[Upload]:
        """Raises VideoNotFound unless the caller has uploads of exactly these names, UploadEnded."""
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

    async def _fits(self, connection: Connection, video: Video, offset: int, size: int | None) -> bool:
        """Whether it is within the limit, which a size that was said late need not be. Otherwise the video fails."""
        try:
            self._check_size(max(offset, size or 0), partial=False)
        except FileTooLarge as error:
            await announce.fail(connection, video, domain.FILE_TOO_LARGE, error.detail)
            return False
        return True


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
