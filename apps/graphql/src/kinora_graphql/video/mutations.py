from typing import Annotated
from uuid import UUID

import strawberry

from kinora.video.v1 import video_pb2 as pb
from kinora_graphql import ids
from kinora_graphql.context import Info
from kinora_graphql.media.types import Visibility
from kinora_graphql.problems import InvalidInput, NotTheOwner, Problem, outcome
from kinora_graphql.scalars import BigInt


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
    uuid: UUID = strawberry.field(description="Of the video and of its media document.")
    video_id: strawberry.ID
    media_id: strawberry.ID = strawberry.field(description="The document is available soon afterwards.")
    upload_url: str = strawberry.field(description="The tus 1.0 resource to send the bytes to.")


CreateUploadResult = Annotated[
    CreateUploadPayload | FileTooLarge | UnsupportedType | TooManyUploads | InvalidInput,
    strawberry.union("CreateUploadResult"),
]


@strawberry.type
class DeleteVideoPayload:
    video_id: strawberry.ID


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
            return CreateUploadPayload(
                uuid=UUID(made.video_id),
                video_id=ids.make("Video", made.video_id),
                media_id=ids.make("Media", made.video_id),
                upload_url=made.upload_url,
            )

        return await outcome(call(), FileTooLarge, UnsupportedType, TooManyUploads, InvalidInput)

    @strawberry.mutation(description="Delete a video with all its renditions, and with it its media document.")
    async def delete_video(self, info: Info, id: strawberry.ID) -> DeleteVideoResult:  # noqa: A002
        async def call() -> DeleteVideoPayload:
            request = pb.DeleteVideoRequest(id=str(ids.parse(id, "Video")))
            await info.context.clients.uploads.DeleteVideo(request)
            return DeleteVideoPayload(video_id=id)

        return await outcome(call(), VideoNotFound, NotTheOwner, InvalidInput)
