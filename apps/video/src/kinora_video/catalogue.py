"""The media service, which owns the documents of videos."""

from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from kinora.media.v1 import media_pb2 as pb
from kinora_kit.rpc import ENFORCEMENT_SECONDS

if TYPE_CHECKING:  # defined only in the type stubs
    from kinora.media.v1.media_pb2_grpc import EnforcementAsyncStub


class Catalogue(Protocol):
    async def drop(self, video_id: UUID) -> None:
        """Delete the document of a video. Raises an outage unless it is gone."""


class RemoteCatalogue:
    def __init__(self, stub: "EnforcementAsyncStub") -> None:
        self._stub = stub

    async def drop(self, video_id: UUID) -> None:
        await self._stub.DropMedia(pb.DropMediaRequest(id=str(video_id)), timeout=ENFORCEMENT_SECONDS)
