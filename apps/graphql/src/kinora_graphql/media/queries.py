from enum import StrEnum
from typing import Annotated

import strawberry

from kinora.media.v1 import media_pb2 as pb
from kinora_graphql.connections import DEFAULT_FIRST, After, Connection, First, page_size
from kinora_graphql.context import Info
from kinora_graphql.costs import ListSize
from kinora_graphql.ids import parse
from kinora_graphql.media.types import Category, Media, media_page
from kinora_graphql.node.types import LISTED, load_list


@strawberry.enum
class Sort(StrEnum):
    NEWEST = "newest"
    POPULAR = "popular"


async def _search(info: Info, request: pb.SearchMediaRequest) -> Connection[Media]:
    with info.context.listing(request.limit):
        return media_page(await info.context.clients.catalogue.SearchMedia(request))


@strawberry.type
class MediaQuery:
    @strawberry.field(description="Null if it does not exist or the caller may not see it.")
    async def media(self, info: Info, id: strawberry.ID) -> Media | None:  # noqa: A002 - the name clients see
        return await Media.load(info.context, parse(id, "Media"))

    @strawberry.field(description=LISTED)
    async def media_list(self, info: Info, ids: list[strawberry.ID]) -> list[Media | None]:
        return await load_list(info.context, ((Media, parse(each, "Media", field="ids")) for each in ids))

    @strawberry.field(description="The videos of all users that are ready and public, last published first.")
    async def feed(self, info: Info, first: First = DEFAULT_FIRST, after: After = None) -> Connection[Media]:
        limit = page_size(first)
        return await _search(info, pb.SearchMediaRequest(after=after or "", limit=limit))

    @strawberry.field(
        description="The videos of all users that are ready and public, and match all filters. An error with code"
        " cursor_expired for an old cursor of popular ones: begin again."
    )
    async def search(
        self,
        info: Info,
        *,
        query: Annotated[str, strawberry.argument(description="Words, all of which are in the title.")] = "",
        category: Annotated[str, strawberry.argument(description="The slug of a category.")] = "",
        tag: str = "",
        owner_id: strawberry.ID | None = None,
        sort: Sort = Sort.NEWEST,
        first: First = DEFAULT_FIRST,
        after: After = None,
    ) -> Connection[Media]:
        request = pb.SearchMediaRequest(
            after=after or "",
            limit=page_size(first),
            sort=pb.Sort.Value(f"SORT_{sort.name}"),
            query=query,
            category=category,
            tag=tag,
            owner_id=str(parse(owner_id, "User", "Channel", field="ownerId")) if owner_id else "",
        )
        return await _search(info, request)

    @strawberry.field(
        description="What a video's category can be, in the order to show them.",
        directives=[ListSize(assumed_size=20)],
    )
    async def categories(self, info: Info) -> list[Category]:
        answer = await info.context.clients.catalogue.ListCategories(pb.ListCategoriesRequest())
        names = info.context.loaders.category_names
        names.prime_many({each.id: each.name for each in answer.categories})
        return [Category(slug=each.id) for each in answer.categories]
