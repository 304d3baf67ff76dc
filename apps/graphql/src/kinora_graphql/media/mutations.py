from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import strawberry
from google.protobuf.struct_pb2 import Struct
from strawberry.scalars import JSON

from kinora.media.v1 import media_pb2 as pb
from kinora_graphql import ids
from kinora_graphql.context import Info
from kinora_graphql.ids import parse
from kinora_graphql.inputs import given
from kinora_graphql.media.types import Media, Visibility
from kinora_graphql.problems import InvalidInput, NotTheOwner, Problem, outcome
from kinora_graphql.scalars import BigInt
from kinora_kit import errors
from kinora_kit.structs import timestamp, to_struct

CATEGORY = "The slug of a category; empty for none."
COMMENTS_ENABLED = "Whether comments can be posted."
LANGUAGE = "BCP 47, such as pt-BR; empty if unknown."


@strawberry.type
class MediaNotFound(Problem): ...


@strawberry.type(description="Too many concurrent changes; try again.")
class ChangedMeanwhile(Problem): ...


@strawberry.type
class FileTooLarge(Problem): ...


@strawberry.type
class UnsupportedType(Problem): ...


@strawberry.type
class TooManyUploads(Problem): ...


PUBLISH_AT = "When a private video becomes public by itself: at most a year ahead."


@strawberry.input
class CreateUploadInput:
    title: str
    filename: str
    size: BigInt = strawberry.field(description="Bytes.")
    description: str | None = strawberry.UNSET
    tags: list[str] | None = strawberry.UNSET
    category: str | None = strawberry.field(default=strawberry.UNSET, description=CATEGORY)
    language: str | None = strawberry.field(default=strawberry.UNSET, description=LANGUAGE)
    visibility: Visibility = Visibility.PRIVATE
    attributes: JSON | None = strawberry.field(default=strawberry.UNSET, description="An object.")
    publish_at: datetime | None = strawberry.field(default=strawberry.UNSET, description=PUBLISH_AT)
    comments_enabled: bool = strawberry.field(default=True, description=COMMENTS_ENABLED)


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


@strawberry.input(description="Fields to change; absent and null fields keep their values.")
class UpdateMediaInput:
    title: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    tags: list[str] | None = strawberry.UNSET
    category: str | None = strawberry.field(default=strawberry.UNSET, description=CATEGORY)
    language: str | None = strawberry.field(default=strawberry.UNSET, description=LANGUAGE)
    visibility: Visibility | None = strawberry.UNSET
    attributes: JSON | None = strawberry.field(
        default=strawberry.UNSET, description="An object; replaces all attributes."
    )
    publish_at: datetime | None = strawberry.field(
        default=strawberry.UNSET, description=f"{PUBLISH_AT} An edit of the visibility cancels it."
    )
    comments_enabled: bool | None = strawberry.field(default=strawberry.UNSET, description=COMMENTS_ENABLED)


@strawberry.type
class UpdateMediaPayload:
    media: Media


UpdateMediaResult = Annotated[
    UpdateMediaPayload | MediaNotFound | NotTheOwner | ChangedMeanwhile | InvalidInput,
    strawberry.union("UpdateMediaResult"),
]


@strawberry.type
class DeleteMediaPayload:
    media_id: strawberry.ID


DeleteMediaResult = Annotated[
    DeleteMediaPayload | MediaNotFound | NotTheOwner | InvalidInput, strawberry.union("DeleteMediaResult")
]


def _fields(wanted: CreateUploadInput | UpdateMediaInput) -> dict[str, Any]:
    changes = given(wanted)
    if "tags" in changes:
        changes["tags"] = pb.TagList(tags=changes["tags"])
    if "visibility" in changes:
        changes["visibility"] = pb.Visibility.Value(f"VISIBILITY_{changes['visibility'].name}")
    if "attributes" in changes:
        changes["attributes"] = _struct(changes["attributes"])
    if "publish_at" in changes:
        changes["publish_at"] = timestamp(changes["publish_at"])
    return changes


def _struct(value: object) -> Struct:
    try:
        return to_struct(value)
    except ValueError as error:
        raise errors.InvalidInput.of([("attributes", str(error))]) from None


@strawberry.type
class MediaMutation:
    @strawberry.mutation(description="Create a video; then send its bytes to uploadUrl.")
    async def create_upload(self, info: Info, input: CreateUploadInput) -> CreateUploadResult:  # noqa: A002
        async def call() -> CreateUploadPayload:
            made = await info.context.clients.editing.CreateMedia(pb.CreateMediaRequest(**_fields(input)))
            return CreateUploadPayload(
                uuid=UUID(made.id),
                video_id=ids.make("Video", made.id),
                media_id=ids.make("Media", made.id),
                upload_url=made.upload_url,
            )

        return await outcome(call(), FileTooLarge, UnsupportedType, TooManyUploads, InvalidInput)

    @strawberry.mutation
    async def update_media(self, info: Info, id: strawberry.ID, input: UpdateMediaInput) -> UpdateMediaResult:  # noqa: A002
        async def call() -> UpdateMediaPayload:
            request = pb.UpdateMediaRequest(id=str(parse(id, "Media")), **_fields(input))
            media = await info.context.clients.editing.UpdateMedia(request)
            return UpdateMediaPayload(media=Media.of(media))

        return await outcome(call(), MediaNotFound, NotTheOwner, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(description="Delete a media document, and with it its video.")
    async def delete_media(self, info: Info, id: strawberry.ID) -> DeleteMediaResult:  # noqa: A002
        async def call() -> DeleteMediaPayload:
            request = pb.DeleteMediaRequest(id=str(parse(id, "Media")))
            await info.context.clients.editing.DeleteMedia(request)
            return DeleteMediaPayload(media_id=id)

        return await outcome(call(), MediaNotFound, NotTheOwner, InvalidInput)
