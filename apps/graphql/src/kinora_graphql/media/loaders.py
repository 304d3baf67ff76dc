from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from kinora.media.v1 import media_pb2 as pb

if TYPE_CHECKING:
    from kinora.media.v1.media_pb2_grpc import CatalogueAsyncStub

BATCH = 50
"""A document may have 105 KB as a message, and a response at most 8 MiB (kinora_kit.rpc.MAX_MESSAGE_BYTES)."""


def load_media(catalogue: "CatalogueAsyncStub") -> Callable[[list[UUID]], Awaitable[list[pb.Media | None]]]:
    async def load(ids: list[UUID]) -> list[pb.Media | None]:
        answer = await catalogue.ListMedia(pb.ListMediaRequest(ids=map(str, dict.fromkeys(ids))))
        found = {UUID(media.id): media for media in answer.media}
        return [found.get(media_id) for media_id in ids]

    return load


def load_category_names(catalogue: "CatalogueAsyncStub") -> Callable[[list[str]], Awaitable[list[str]]]:
    async def load(slugs: list[str]) -> list[str]:
        answer = await catalogue.ListCategories(pb.ListCategoriesRequest())
        names = {category.id: category.name for category in answer.categories}
        return [names.get(slug, slug) for slug in slugs]

    return load
