from typing import Annotated

import strawberry

from kinora.video.v1 import video_pb2 as pb
from kinora_graphql.context import Info
from kinora_graphql.media.types import Visibility
from kinora_graphql.problems import InvalidInput, NotTheOwner, Problem, outcome
from kinora_graphql.scalars import BigInt
from kinora_kit.ids import parse_id


@strawberry.type
class FileTooLarge(Problem): ...


@strawberry.type
class UnsupportedType(Problem): ...


@strawberry.type
class TooManyUploads(Problem): ...


@strawberry.type
class VideoNotFound(Problem): ...


@strawberry.input
class CreateUploadInput:
    title: str
    filename: str
    size: BigInt = strawberry.field(description="Bytes.")
    visibility: Visibility = Visibility.PRIVATE


@strawberry.type
class CreateUploadPayload:
    id: strawberry.ID = strawberry.field(description="The id of the video and of its media document.")
    upload_url: str = strawberry.field(description="The tus 1.0 resource to send the bytes to.")


CreateUploadResult = Annotated[
    CreateUploadPayload | FileTooLarge | UnsupportedType | TooManyUploads | InvalidInput,
    strawberry.union("CreateUploadResult"),
]


@strawberry.type
class DeleteVideoPayload:
    id: strawberry.ID


DeleteVideoResult = Annotated[
    DeleteVideoPayload | VideoNotFound | NotTheOwner | InvalidInput, strawberry.union("DeleteVideoResult")
]


@strawberry.type
class VideoMutation:
    @strawberry.mutation(description="Create a video; then send its bytes to uploadUrl.")
    async def create_upload(self, info: Info, input: CreateUploadInput) -> CreateUploadResult:  # noqa: A002
        async def call() -> CreateUploadPayload:
            request = pb.CreateUploadRequest(
                title=input.title, filename=input.filename, size=input.size, visibility=input.visibility.value
            )
            made = await info.context.clients.uploads.CreateUpload(request)
            return CreateUploadPayload(id=strawberry.ID(made.video_id), upload_url=made.upload_url)

        return await outcome(call(), FileTooLarge, UnsupportedType, TooManyUploads, InvalidInput)

    @strawberry.mutation(description="Delete a video with all its renditions, and with it its media document.")
    async def delete_video(self, info: Info, id: strawberry.ID) -> DeleteVideoResult:  # noqa: A002
        async def call() -> DeleteVideoPayload:
            video_id = str(parse_id(id))
            await info.context.clients.uploads.DeleteVideo(pb.DeleteVideoRequest(id=video_id))
            return DeleteVideoPayload(id=strawberry.ID(video_id))

        return await outcome(call(), VideoNotFound, NotTheOwner, InvalidInput)
