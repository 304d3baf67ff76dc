"""A user's data in other services."""

import asyncio
from typing import TYPE_CHECKING, Protocol

from kinora.media.v1 import media_pb2
from kinora.video.v1 import video_pb2
from kinora_kit.rpc import ENFORCEMENT_SECONDS

if TYPE_CHECKING:  # defined only in the type stubs
    from kinora.media.v1.media_pb2_grpc import EnforcementAsyncStub as MediaStub
    from kinora.video.v1.video_pb2_grpc import EnforcementAsyncStub as VideoStub


class Belongings(Protocol):
    async def drop(self) -> None:
        """Delete all of the caller's public data. Raises an outage unless all of it is gone."""


class RemoteBelongings:
    def __init__(self, media: "MediaStub", video: "VideoStub") -> None:
        self._media = media
        self._video = video

    async def drop(self) -> None:
        await asyncio.gather(
            self._media.DropAllMedia(media_pb2.DropAllMediaRequest(), timeout=ENFORCEMENT_SECONDS),
            self._video.DropAllVideos(video_pb2.DropAllVideosRequest(), timeout=ENFORCEMENT_SECONDS),
        )
