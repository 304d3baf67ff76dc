from collections.abc import AsyncGenerator

import strawberry

from kinora.video.v1 import video_pb2 as pb
from kinora_graphql.context import Info
from kinora_graphql.ids import parse
from kinora_graphql.video.types import VideoProgress


@strawberry.type
class VideoSubscription:
    @strawberry.subscription(
        description="Progress of upload and transcoding of the caller's own video: the current state, then newer ones,"
        " until it is ready, failed or deleted."
    )
    async def video_progress(self, info: Info, id: strawberry.ID) -> AsyncGenerator[VideoProgress, None]:  # noqa: A002
        async def fetch() -> VideoProgress:
            request = pb.GetProgressRequest(video_id=str(video_id))
            return VideoProgress.of(await info.context.clients.videos.GetProgress(request))

        video_id = parse(id, "Video")
        states = info.context.progress.watch(video_id, fetch)
        try:
            async for state in states:
                yield state
        finally:
            await states.aclose()
