from enum import StrEnum
from typing import Annotated, Self
from uuid import UUID

import strawberry

from kinora.media.v1 import media_pb2 as pb
from kinora_graphql.auth.types import User
from kinora_graphql.connections import DEFAULT_FIRST, After, Connection, First, page_size
from kinora_graphql.context import Context, Info
from kinora_graphql.costs import ListSize
from kinora_graphql.ids import parse
from kinora_graphql.media.types import Category, Media, media_page
from kinora_graphql.node.types import LISTED, Node, load_list
from kinora_kit.errors import InvalidInput


@strawberry.enum
class Sort(StrEnum):
    NEWEST = "newest"
    POPULAR = "popular"


async def _search(info: Info, request: pb.SearchMediaRequest) -> Connection[Media]:
    with info.context.listing(request.limit):
        return media_page(await info.context.clients.catalogue.SearchMedia(request))


@strawberry.type(description="A user as the owner of videos.")
class Channel(Node):
    user: User

    @strawberry.field(
        description="The videos, newest first: all of them for the owner, those that are ready and public for others."
    )
    async def media(self, info: Info, first: First = DEFAULT_FIRST, after: After = None) -> Connection[Media]:
        limit = page_size(first)
        request = pb.ListUserMediaRequest(user_id=str(self.uuid), after=after or "", limit=limit)
        with info.context.listing(limit):
            page = await info.context.clients.catalogue.ListUserMedia(request)
        return media_page(page)

    @classmethod
    async def load(cls, context: Context, uuid: UUID) -> Self | None:
        user = await User.load(context, uuid)
        return cls(uuid=uuid, user=user) if user else None


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

    @strawberry.field(
        description="By its own id, that of its user, or the username, regardless of case; null if there is no such"
        " user."
    )
    async def channel(
        self,
        info: Info,
        id: strawberry.ID | None = None,  # noqa: A002
        handle: Annotated[str | None, strawberry.argument(description="The username.")] = None,
    ) -> Channel | None:
        if (id is None) == (handle is None):
            raise InvalidInput.of([("handle", "give either an id or a handle")])
        if id is not None:
            return await Channel.load(info.context, parse(id, "Channel", "User"))
        found = await info.context.loaders.users_named.load((handle or "").lower())
        return Channel(uuid=UUID(found.id), user=User.of(found)) if found else None
