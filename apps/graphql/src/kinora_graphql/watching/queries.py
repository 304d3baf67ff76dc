from datetime import datetime

import strawberry

from kinora.media.v1 import watching_pb2 as pb
from kinora_graphql.connections import DEFAULT_FIRST, After, Connection, Edge, First, connection, page_size
from kinora_graphql.context import Info
from kinora_graphql.media.types import Media
from kinora_kit.structs import moment


@strawberry.type(description="A video that the caller has watched.")
class HistoryEntry:
    media: Media
    position: float = strawberry.field(description="Seconds: where to resume.")
    watched_at: datetime


@strawberry.type
class WatchingQuery:
    @strawberry.field(description="What the caller has watched, last watched first.")
    async def history(self, info: Info, first: First = DEFAULT_FIRST, after: After = None) -> Connection[HistoryEntry]:
        limit = page_size(first)
        with info.context.listing(limit):
            request = pb.ListHistoryRequest(after=after or "", limit=limit)
            page = await info.context.clients.watching.ListHistory(request)
        edges = [
            Edge(
                cursor=entry.cursor,
                node=HistoryEntry(
                    media=Media.of(entry.media), position=entry.position, watched_at=moment(entry.watched_at)
                ),
            )
            for entry in page.entries
        ]
        return connection(edges, has_more=page.has_more)

    @strawberry.field(description="Whether what the caller watches is kept, and used for recommendations.")
    async def personalisation(self, info: Info) -> bool:
        return (await info.context.clients.watching.GetPersonalisation(pb.GetPersonalisationRequest())).enabled
