import asyncio
from typing import Annotated
from uuid import UUID

import strawberry

from kinora.media.v1 import channels_pb2 as pb
from kinora.media.v1 import media_pb2 as media_pb
from kinora_graphql.auth.types import User
from kinora_graphql.channels.types import Channel, Dashboard
from kinora_graphql.connections import DEFAULT_FIRST, After, Connection, Edge, First, connection, page_size
from kinora_graphql.context import Info
from kinora_graphql.costs import Cost
from kinora_graphql.ids import parse
from kinora_graphql.media.types import Media, media_page
from kinora_kit.errors import InvalidInput, NotSignedIn


@strawberry.type
class ChannelsQuery:
    @strawberry.field(
        description="By its own id, that of its user, or the username, regardless of case; null if there is no such"
        " user."
    )
    async def channel(
        self,
        info: Info,
        id: strawberry.ID | None = None,  # noqa: A002 - the name clients see
        handle: Annotated[str | None, strawberry.argument(description="The username.")] = None,
    ) -> Channel | None:
        if (id is None) == (handle is None):
            raise InvalidInput.of([("handle", "give either an id or a handle")])
        if id is not None:
            return await Channel.load(info.context, parse(id, "Channel", "User"))
        found = await info.context.loaders.users_named.load((handle or "").lower())
        return Channel(uuid=UUID(found.id), user=User.of(found)) if found else None

    @strawberry.field(description="The caller's own channel.", directives=[Cost(weight="5")])
    async def dashboard(
        self,
        info: Info,
        days: Annotated[int, strawberry.argument(description="1 to 400: the latest ones.")] = 30,
    ) -> Dashboard:
        return Dashboard.of(await info.context.clients.channels.GetDashboard(pb.GetDashboardRequest(days=days)))

    @strawberry.field(description="The caller's videos in all states, newest first.")
    async def uploads(self, info: Info, first: First = DEFAULT_FIRST, after: After = None) -> Connection[Media]:
        if info.context.caller is None:
            raise NotSignedIn
        user_id, limit = str(info.context.caller.user_id), page_size(first)
        with info.context.listing(limit):
            request = media_pb.ListUserMediaRequest(user_id=user_id, after=after or "", limit=limit)
            return media_page(await info.context.clients.catalogue.ListUserMedia(request))

    @strawberry.field(description="The channels that the caller subscribes to, last subscribed first.")
    async def subscriptions(self, info: Info, first: First = DEFAULT_FIRST, after: After = None) -> Connection[Channel]:
        limit = page_size(first)
        request = pb.ListSubscribedChannelsRequest(after=after or "", limit=limit)
        with info.context.listing(limit):
            page = await info.context.clients.channels.ListSubscribedChannels(request)
            wanted = [UUID(entry.channel.user_id) for entry in page.entries]
            found = await asyncio.gather(*(Channel.load(info.context, user_id) for user_id in wanted))
        edges = [
            Edge(cursor=entry.cursor, node=channel)
            for entry, channel in zip(page.entries, found, strict=True)
            if channel
        ]
        return connection(edges, has_more=page.has_more)

    @strawberry.field(description="The ready and public videos of these channels, last published first.")
    async def subscribed_media(
        self, info: Info, first: First = DEFAULT_FIRST, after: After = None
    ) -> Connection[Media]:
        limit = page_size(first)
        with info.context.listing(limit):
            request = pb.ListSubscribedMediaRequest(after=after or "", limit=limit)
            return media_page(await info.context.clients.channels.ListSubscribedMedia(request))
