from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from kinora.video.v1 import video_pb2 as pb

if TYPE_CHECKING:
    from kinora.video.v1.video_pb2_grpc import VideosAsyncStub


def load_videos(videos: "VideosAsyncStub") -> Callable[[list[UUID]], Awaitable[list[pb.Video | None]]]:
    async def load(ids: list[UUID]) -> list[pb.Video | None]:
        answer = await videos.ListVideos(pb.ListVideosRequest(ids=map(str, dict.fromkeys(ids))))
        found = {UUID(video.id): video for video in answer.videos}
        return [found.get(video_id) for video_id in ids]

    return load
