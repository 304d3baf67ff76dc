from typing import Annotated

import strawberry

from kinora.media.v1 import media_pb2 as pb
from kinora_graphql.auth.types import User
from kinora_graphql.connections import AFTER, DEFAULT_FIRST, FIRST, Connection, Edge, connection, page_size
from kinora_graphql.context import Info
from kinora_graphql.media.types import Media
from kinora_kit.ids import parse_id

First = Annotated[int | None, strawberry.argument(description=FIRST)]
After = Annotated[str | None, strawberry.argument(description=AFTER)]


def _page(page: pb.MediaPage) -> Connection[Media]:
    edges = [Edge(cursor=entry.cursor, node=Media.of(entry.media)) for entry in page.entries]
    return connection(edges, has_more=page.has_more)


@strawberry.type(description="A user as the owner of videos.")
class Channel:
    user: User

    @strawberry.field(
        description="The videos, newest first: all of them for the owner, those that are ready and public for others."
    )
    async def media(self, info: Info, first: First = DEFAULT_FIRST, after: After = None) -> Connection[Media]:
        limit = page_size(first)
        request = pb.ListUserMediaRequest(user_id=self.user.id, after=after or "", limit=limit)
        with info.context.listing(limit):
            page = await info.context.clients.catalogue.ListUserMedia(request)
        return _page(page)


@strawberry.type
class MediaQuery:
    @strawberry.field(description="Null if it does not exist or the caller may not see it.")
    async def media(self, info: Info, id: strawberry.ID) -> Media | None:  # noqa: A002 - the name clients see
        media = await info.context.loaders.media.load(parse_id(id))
        return Media.of(media) if media else None

    @strawberry.field(
        description="In the order of the ids; null where missing or not visible to the caller. All lists of an"
        " operation may have 100 ids."
    )
    async def media_list(self, info: Info, ids: list[strawberry.ID]) -> list[Media | None]:
        wanted = [parse_id(each) for each in ids]
        with info.context.listing(len(wanted)):
            found = await info.context.loaders.media.load_many(wanted)
        return [Media.of(media) if media else None for media in found]

    @strawberry.field(description="The videos of all users that are ready and public, last published first.")
    async def feed(self, info: Info, first: First = DEFAULT_FIRST, after: After = None) -> Connection[Media]:
        limit = page_size(first)
        with info.context.listing(limit):
            page = await info.context.clients.catalogue.ListFeed(pb.ListFeedRequest(after=after or "", limit=limit))
        return _page(page)

    @strawberry.field(description="Null if there is no such user.")
    async def channel(self, info: Info, id: strawberry.ID) -> Channel | None:  # noqa: A002
        user = await info.context.loaders.users.load(parse_id(id))
        return Channel(user=User.of(user)) if user else None
