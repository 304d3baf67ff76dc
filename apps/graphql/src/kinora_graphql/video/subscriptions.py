from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import strawberry

from kinora.video.v1 import video_pb2 as pb
from kinora_graphql.context import Info
from kinora_graphql.ids import make, parse
from kinora_graphql.progress import State, watch
from kinora_graphql.video.types import ENDS, VideoProgress
from kinora_kit.errors import NotSignedIn

if TYPE_CHECKING:
    from kinora_graphql.media.types import Media


MAX_OPEN = 100
"""Of how many videos video lists the progress."""


@strawberry.type(description="The progress of one of the caller's uploads.")
class UploadProgress:
    video_id: strawberry.ID
    progress: VideoProgress
    uuid: strawberry.Private[UUID]

    @strawberry.field(description="Null before it exists, and once it is deleted.")
    async def media(self, info: Info) -> Annotated["Media", strawberry.lazy("kinora_graphql.media.types")] | None:
        from kinora_graphql.media.types import Media  # noqa: PLC0415 - it has videos

        return await Media.load(info.context, self.uuid)


@strawberry.type
class VideoSubscription:
    @strawberry.subscription(
        description="Progress of upload and transcoding of the caller's own video: the current state, then newer ones,"
        " until it is ready, failed or deleted."
    )
    async def video_progress(self, info: Info, id: strawberry.ID) -> AsyncGenerator[VideoProgress, None]:  # noqa: A002
        async def fetch(_: Sequence[UUID]) -> list[State]:
            request = pb.GetProgressRequest(video_id=str(video_id))
            return [(video_id, VideoProgress.of(await info.context.clients.videos.GetProgress(request)))]

        video_id = parse(id, "Video")
        states = watch(info.context.hubs.progress, video_id, fetch)
        try:
            async for _, state in states:
                yield state
                if state.state in ENDS:
                    return
        finally:
            await states.aclose()

    @strawberry.subscription(
        description="Progress of all uploads of the caller: the current state of each whose upload or transcoding has"
        " not ended, then newer states, also of new uploads."
    )
    async def uploads_progress(self, info: Info) -> AsyncGenerator[UploadProgress, None]:
        async def fetch(open_ids: Sequence[UUID]) -> list[State]:
            request = pb.ListProgressRequest(ids=[str(each) for each in open_ids[-MAX_OPEN:]])
            answer = await info.context.clients.videos.ListProgress(request)
            return [(UUID(each.video_id), VideoProgress.of(each)) for each in answer.progress]

        if info.context.caller is None:
            raise NotSignedIn
        states = watch(info.context.hubs.uploads, info.context.caller.user_id, fetch)
        try:
            async for video_id, state in states:
                yield UploadProgress(video_id=make("Video", video_id), progress=state, uuid=video_id)
        finally:
            await states.aclose()
