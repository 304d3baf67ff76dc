"""Client of the video service, which owns the streams."""

from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from kinora.video.v1 import video_pb2 as pb
from kinora_kit.errors import DomainError, NotFound
from kinora_kit.rpc import ENFORCEMENT_SECONDS
from kinora_media.domain import Media, Upload

if TYPE_CHECKING:  # defined only in the stubs
    from kinora.video.v1.video_pb2_grpc import EnforcementAsyncStub, UploadsAsyncStub


class Videos(Protocol):
    """Each method raises an outage (kinora_kit.outages) unless video confirms the call, and may be repeated."""

    async def set_visibility(self, media: Media) -> None:
        """Give the stream the document's visibility, unless video has a newer version."""

    async def create_upload(self, draft: Media, *, filename: str, size: int) -> Upload:
        """An upload of the caller, another one each time, whose ``video.upload_started`` names the draft.

        Raises video's errors, such as file_too_large.
        """

    async def drop(self, media_id: UUID) -> None:
        """Close the stream. Raises a DomainError with status 403 if it does not belong to the caller."""


class RemoteVideos:
    def __init__(self, enforcement: "EnforcementAsyncStub", uploads: "UploadsAsyncStub") -> None:
        self._enforcement = enforcement
        self._uploads = uploads

    async def set_visibility(self, media: Media) -> None:
        request = pb.SetVisibilityRequest(id=str(media.id), visibility=media.visibility.value, version=media.version)
        try:
            await self._enforcement.SetVisibility(request, timeout=ENFORCEMENT_SECONDS)
        except DomainError as error:
            if error.status != NotFound.status:  # there is no stream to hide
                raise

    async def create_upload(self, draft: Media, *, filename: str, size: int) -> Upload:
        request = pb.CreateUploadRequest(
            title=draft.title,
            filename=filename,
            size=size,
            visibility=draft.visibility.value,
            draft_id=str(draft.id),
        )
        made = await self._uploads.CreateUpload(request)
        return Upload(UUID(made.video_id), made.upload_url)

    async def drop(self, media_id: UUID) -> None:
        await self._enforcement.DropVideo(pb.DropVideoRequest(id=str(media_id)), timeout=ENFORCEMENT_SECONDS)
