from typing import Annotated

import strawberry

from kinora.video.v1 import video_pb2 as pb
from kinora_graphql import ids
from kinora_graphql.context import Info
from kinora_graphql.problems import InvalidInput, NotTheOwner, Problem, outcome


@strawberry.type
class VideoNotFound(Problem): ...


@strawberry.type
class NotPlayable(Problem): ...


@strawberry.type
class ChoosePosterPayload:
    video_id: strawberry.ID


ChoosePosterResult = Annotated[
    ChoosePosterPayload | VideoNotFound | NotTheOwner | NotPlayable | InvalidInput,
    strawberry.union("ChoosePosterResult"),
]


@strawberry.type
class DeleteVideoPayload:
    video_id: strawberry.ID


DeleteVideoResult = Annotated[
    DeleteVideoPayload | VideoNotFound | NotTheOwner | InvalidInput, strawberry.union("DeleteVideoResult")
]


@strawberry.type
class VideoMutation:
    @strawberry.mutation(
        description="Make the poster from another moment of a playable video. It is available soon, at a new URL."
    )
    async def choose_poster(
        self,
        info: Info,
        id: strawberry.ID,  # noqa: A002
        time: Annotated[float, strawberry.argument(description="Seconds from the start of the video.")],
    ) -> ChoosePosterResult:
        async def call() -> ChoosePosterPayload:
            request = pb.ChoosePosterRequest(id=str(ids.parse(id, "Video")), poster_time=time)
            await info.context.clients.uploads.ChoosePoster(request)
            return ChoosePosterPayload(video_id=id)

        return await outcome(call(), VideoNotFound, NotTheOwner, NotPlayable, InvalidInput)

    @strawberry.mutation(description="Delete a video with all its renditions, and with it its media document.")
    async def delete_video(self, info: Info, id: strawberry.ID) -> DeleteVideoResult:  # noqa: A002
        async def call() -> DeleteVideoPayload:
            request = pb.DeleteVideoRequest(id=str(ids.parse(id, "Video")))
            await info.context.clients.uploads.DeleteVideo(request)
            return DeleteVideoPayload(video_id=id)

        return await outcome(call(), VideoNotFound, NotTheOwner, InvalidInput)
