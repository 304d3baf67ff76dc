from typing import Annotated

import strawberry

from kinora.video.v1 import video_pb2 as pb
from kinora_graphql import ids
from kinora_graphql.context import Info
from kinora_graphql.problems import InvalidInput, NotTheOwner, Problem, outcome


@strawberry.type
class VideoNotFound(Problem): ...


@strawberry.type
class DeleteVideoPayload:
    video_id: strawberry.ID


DeleteVideoResult = Annotated[
    DeleteVideoPayload | VideoNotFound | NotTheOwner | InvalidInput, strawberry.union("DeleteVideoResult")
]


@strawberry.type
class VideoMutation:
    @strawberry.mutation(description="Delete a video with all its renditions, and with it its media document.")
    async def delete_video(self, info: Info, id: strawberry.ID) -> DeleteVideoResult:  # noqa: A002
        async def call() -> DeleteVideoPayload:
            request = pb.DeleteVideoRequest(id=str(ids.parse(id, "Video")))
            await info.context.clients.uploads.DeleteVideo(request)
            return DeleteVideoPayload(video_id=id)

        return await outcome(call(), VideoNotFound, NotTheOwner, InvalidInput)
