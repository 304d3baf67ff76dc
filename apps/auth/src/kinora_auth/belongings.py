"""What a user has in other services, which own it."""

import asyncio
from typing import TYPE_CHECKING, Protocol

from kinora.media.v1 import media_pb2
from kinora.video.v1 import video_pb2
from kinora_kit.rpc import ENFORCEMENT_SECONDS

if TYPE_CHECKING:  # they exist in the stubs only
    from kinora.media.v1.media_pb2_grpc import EnforcementAsyncStub as MediaStub
    from kinora.video.v1.video_pb2_grpc import EnforcementAsyncStub as VideoStub


class Belongings(Protocol):
    async def drop(self) -> None:
        """Nobody can see anything of the caller any more. Raises an outage when that could not be made so."""


class RemoteBelongings:
    def __init__(self, media: "MediaStub", video: "VideoStub") -> None:
        self._media = media
        self._video = video

    async def drop(self) -> None:
        await asyncio.gather(
            self._media.DropAllMedia(media_pb2.DropAllMediaRequest(), timeout=ENFORCEMENT_SECONDS),
            self._video.DropAllVideos(video_pb2.DropAllVideosRequest(), timeout=ENFORCEMENT_SECONDS),
        )
