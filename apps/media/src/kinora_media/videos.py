"""The streams of the documents, which belong to the video service."""

from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from kinora.video.v1 import video_pb2 as pb
from kinora_kit.rpc import ENFORCEMENT_SECONDS, RemoteError
from kinora_media.domain import Media

if TYPE_CHECKING:  # it exists in the stubs only
    from kinora.video.v1.video_pb2_grpc import EnforcementAsyncStub

NOT_FOUND = 404


class Videos(Protocol):
    """Each may be called again at any time, and raises an outage when it could not be done."""

    async def set_visibility(self, media: Media) -> None:
        """The stream is visible to those who may see the document, unless a newer version says otherwise."""

    async def drop(self, media_id: UUID) -> None:
        """Nobody can see the stream any more. Raises RemoteError for one that is not the caller's."""


class RemoteVideos:
    def __init__(self, stub: "EnforcementAsyncStub") -> None:
        self._stub = stub

    async def set_visibility(self, media: Media) -> None:
        request = pb.SetVisibilityRequest(id=str(media.id), visibility=media.visibility.value, version=media.version)
        try:
            await self._stub.SetVisibility(request, timeout=ENFORCEMENT_SECONDS)
        except RemoteError as error:
            if error.status != NOT_FOUND:  # else there is no stream
                raise

    async def drop(self, media_id: UUID) -> None:
        await self._stub.DropVideo(pb.DropVideoRequest(id=str(media_id)), timeout=ENFORCEMENT_SECONDS)
