"""gRPC API of the catalogue: platform/protos/kinora/media/v1/media.proto."""
# ruff: noqa: N802 - method names come from the proto

from dataclasses import asdict
from typing import Any

import grpc

from kinora.media.v1 import media_pb2 as pb
from kinora.media.v1.media_pb2_grpc import (
    CatalogueServicer,
    EditingServicer,
    EnforcementServicer,
    add_CatalogueServicer_to_server,
    add_EditingServicer_to_server,
    add_EnforcementServicer_to_server,
)
from kinora_kit.commands import command
from kinora_kit.errors import InvalidInput
from kinora_kit.ids import parse_id
from kinora_kit.rpc import fields, optional_caller, signed_in
from kinora_kit.structs import from_struct, moment, timestamp
from kinora_media.catalogue import Catalogue
from kinora_media.domain import Changes, Creation, Listed, Media, Page, Sort, State, Visibility
from kinora_media.facets import Filters
from kinora_media.lists import Lists

MAX_PAGE = 50
"""A document may have 105 KB as a message, and a response at most rpc.MAX_MESSAGE_BYTES."""

STATES = {state: pb.State.Value(f"STATE_{state.name}") for state in State}
VISIBILITIES = {visibility: pb.Visibility.Value(f"VISIBILITY_{visibility.name}") for visibility in Visibility}
SORTS = {pb.Sort.Value(f"SORT_{sort.name}"): sort for sort in Sort}
OF_NUMBER = {number: visibility for visibility, number in VISIBILITIES.items()}


def register(server: grpc.aio.Server, catalogue: Catalogue, lists: Lists) -> None:
    add_CatalogueServicer_to_server(CatalogueRpc(catalogue, lists), server)
    add_EditingServicer_to_server(EditingRpc(catalogue), server)
    add_EnforcementServicer_to_server(EnforcementRpc(catalogue), server)


class CatalogueRpc(CatalogueServicer):
    def __init__(self, catalogue: Catalogue, lists: Lists) -> None:
        self._catalogue = catalogue
        self._lists = lists

    async def ListCategories(self, request: pb.ListCategoriesRequest, context: object) -> pb.ListCategoriesResponse:
        found = [pb.Category(id=id_, name=name) for id_, name in self._catalogue.categories.items()]
        return pb.ListCategoriesResponse(categories=found)

    async def ListMedia(self, request: pb.ListMediaRequest, context: object) -> pb.ListMediaResponse:
        found = await self._catalogue.many(optional_caller(), [parse_id(text) for text in request.ids])
        return pb.ListMediaResponse(media=[message_of(media) for media in found])

    async def SearchMedia(self, request: pb.SearchMediaRequest, context: object) -> pb.MediaPage:
        given = fields(request, "query", "category", "tag")
        filters = command(Filters, given | ({"owner": parse_id(request.owner_id)} if request.owner_id else {}))
        sort, limit = SORTS.get(request.sort, Sort.NEWEST), page_size(request.limit)
        return media_page(await self._lists.search(filters, sort, cursor=request.after or None, limit=limit))

    async def ListUserMedia(self, request: pb.ListUserMediaRequest, context: object) -> pb.MediaPage:
        user_id, limit = parse_id(request.user_id), page_size(request.limit)
        return media_page(
            await self._lists.of_user(optional_caller(), user_id, cursor=request.after or None, limit=limit)
        )


class EditingRpc(EditingServicer):
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def CreateMedia(self, request: pb.CreateMediaRequest, context: object) -> pb.CreateMediaResponse:
        creation = command(Creation, fields(request, "filename", "size") | _given(request))
        upload = await self._catalogue.create(signed_in(), creation)
        return pb.CreateMediaResponse(id=str(upload.id), upload_url=upload.url)

    async def UpdateMedia(self, request: pb.UpdateMediaRequest, context: object) -> pb.Media:
        changes = command(Changes, _given(request))
        return message_of(await self._catalogue.edit(signed_in(), parse_id(request.id), changes))

    async def DeleteMedia(self, request: pb.DeleteMediaRequest, context: object) -> pb.DeleteMediaResponse:
        await self._catalogue.delete(signed_in(), parse_id(request.id))
        return pb.DeleteMediaResponse()


class EnforcementRpc(EnforcementServicer):
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def DropMedia(self, request: pb.DropMediaRequest, context: object) -> pb.DropMediaResponse:
        await self._catalogue.drop(signed_in(), parse_id(request.id))
        return pb.DropMediaResponse()

    async def DropAllMedia(self, request: pb.DropAllMediaRequest, context: object) -> pb.DropAllMediaResponse:
        await self._catalogue.drop_all(signed_in())
        return pb.DropAllMediaResponse()


def page_size(given: int) -> int:
    if not 1 <= given <= MAX_PAGE:
        raise InvalidInput(f"A page has 1 to {MAX_PAGE} items")
    return given


def media_page(page: Page[Listed]) -> pb.MediaPage:
    entries = [pb.MediaEntry(media=message_of(each.media), cursor=each.cursor) for each in page.items]
    return pb.MediaPage(entries=entries, has_more=page.more)


def _given(request: pb.CreateMediaRequest | pb.UpdateMediaRequest) -> dict[str, Any]:
    given = fields(request, "title", "description", "category", "language", "comments_enabled")
    if request.HasField("tags"):
        given["tags"] = tuple(request.tags.tags)
    if request.visibility:
        given["visibility"] = OF_NUMBER.get(request.visibility)
    if request.HasField("attributes"):
        given["attributes"] = from_struct(request.attributes)
    if request.HasField("publish_at"):
        given["publish_at"] = moment(request.publish_at)
    return given


def message_of(media: Media) -> pb.Media:
    message = pb.Media(
        id=str(media.id),
        owner_id=str(media.owner_id),
        title=media.title,
        description=media.description,
        tags=media.tags,
        category=media.category,
        language=media.language,
        visibility=VISIBILITIES[media.visibility],
        state=STATES[media.state],
        duration=media.duration,
        failure_code=media.failure_code,
        failure_detail=media.failure_detail,
        created_at=timestamp(media.created_at),
        updated_at=timestamp(media.updated_at),
        publish_at=timestamp(media.publish_at) if media.publish_at else None,
        published_at=timestamp(media.published_at) if media.published_at else None,
        counters=pb.Counters(**asdict(media.counters)),
        comments_enabled=media.comments_enabled,
        pinned_comment_id=str(media.pinned_comment_id) if media.pinned_comment_id else None,
    )
    message.attributes.update(media.attributes)
    return message
