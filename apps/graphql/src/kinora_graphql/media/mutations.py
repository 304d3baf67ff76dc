from typing import Annotated
from uuid import UUID

import strawberry
from google.protobuf.struct_pb2 import Struct
from strawberry.scalars import JSON

from kinora.media.v1 import media_pb2 as pb
from kinora_graphql.context import Info
from kinora_graphql.ids import parse
from kinora_graphql.inputs import given
from kinora_graphql.media.types import Media, Visibility
from kinora_graphql.problems import InvalidInput, NotTheOwner, Problem, outcome
from kinora_kit import errors
from kinora_kit.structs import to_struct


@strawberry.type
class MediaNotFound(Problem): ...


@strawberry.type(description="Too many concurrent changes; try again.")
class ChangedMeanwhile(Problem): ...


@strawberry.input(description="Fields to change; absent and null fields keep their values.")
class UpdateMediaInput:
    title: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    tags: list[str] | None = strawberry.UNSET
    category: str | None = strawberry.UNSET
    language: str | None = strawberry.field(
        default=strawberry.UNSET, description="BCP 47, such as pt-BR; empty if unknown."
    )
    visibility: Visibility | None = strawberry.UNSET
    attributes: JSON | None = strawberry.field(
        default=strawberry.UNSET, description="An object; replaces all attributes."
    )


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


def _request(media_id: UUID, wanted: UpdateMediaInput) -> pb.UpdateMediaRequest:
    changes = given(wanted)
    if "tags" in changes:
        changes["tags"] = pb.TagList(tags=changes["tags"])
    if "visibility" in changes:
        changes["visibility"] = pb.Visibility.Value(f"VISIBILITY_{changes['visibility'].name}")
    if "attributes" in changes:
        changes["attributes"] = _struct(changes["attributes"])
    return pb.UpdateMediaRequest(id=str(media_id), **changes)


def _struct(value: object) -> Struct:
    try:
        return to_struct(value)
    except ValueError as error:
        raise errors.InvalidInput.of([("attributes", str(error))]) from None


@strawberry.type
class MediaMutation:
    @strawberry.mutation
    async def update_media(self, info: Info, id: strawberry.ID, input: UpdateMediaInput) -> UpdateMediaResult:  # noqa: A002
        async def call() -> UpdateMediaPayload:
            media = await info.context.clients.editing.UpdateMedia(_request(parse(id, "Media"), input))
            return UpdateMediaPayload(media=Media.of(media))

        return await outcome(call(), MediaNotFound, NotTheOwner, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(description="Delete a media document, and with it its video.")
    async def delete_media(self, info: Info, id: strawberry.ID) -> DeleteMediaResult:  # noqa: A002
        async def call() -> DeleteMediaPayload:
            request = pb.DeleteMediaRequest(id=str(parse(id, "Media")))
            await info.context.clients.editing.DeleteMedia(request)
            return DeleteMediaPayload(media_id=id)

        return await outcome(call(), MediaNotFound, NotTheOwner, InvalidInput)
