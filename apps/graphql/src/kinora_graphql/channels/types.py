from datetime import date
from typing import Self
from uuid import UUID

import strawberry

from kinora.media.v1 import channels_pb2 as channels_pb
from kinora.media.v1 import media_pb2 as pb
from kinora_graphql.auth.types import User
from kinora_graphql.connections import DEFAULT_FIRST, After, Connection, First, page_size
from kinora_graphql.context import Context, Info
from kinora_graphql.costs import ListSize
from kinora_graphql.media.types import Media, media_page
from kinora_graphql.node.types import Node
from kinora_graphql.scalars import BigInt


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

    @strawberry.field
    async def subscriber_count(self, info: Info) -> BigInt:
        channel = await info.context.loaders.channels.load(self.uuid)
        return BigInt(channel.subscribers if channel else 0)

    @strawberry.field(description="Of all its videos.")
    async def view_count(self, info: Info) -> BigInt:
        channel = await info.context.loaders.channels.load(self.uuid)
        return BigInt(channel.views if channel else 0)

    @strawberry.field(description="False for anonymous callers.")
    async def viewer_is_subscribed(self, info: Info) -> bool:
        return await info.context.loaders.subscriptions.load(self.uuid)

    @classmethod
    async def load(cls, context: Context, uuid: UUID) -> Self | None:
        user = await User.load(context, uuid)
        return cls(uuid=uuid, user=user) if user else None


@strawberry.type
class Totals:
    subscribers: BigInt
    views: BigInt
    likes: BigInt
    comments: BigInt

    @classmethod
    def of(cls, totals: channels_pb.Totals) -> Self:
        return cls(
            subscribers=BigInt(totals.subscribers),
            views=BigInt(totals.views),
            likes=BigInt(totals.likes),
            comments=BigInt(totals.comments),
        )


@strawberry.type
class Day:
    day: date = strawberry.field(name="date", description="In UTC.")
    changes: Totals = strawberry.field(description="How the totals changed on this day, deletions included.")


@strawberry.type(description="The caller's own channel.")
class Dashboard:
    totals: Totals
    days: list[Day] = strawberry.field(
        description="Latest first; days without a change are missing.", directives=[ListSize(assumed_size=30)]
    )

    @classmethod
    def of(cls, dashboard: channels_pb.Dashboard) -> Self:
        days = [Day(day=date.fromisoformat(day.date), changes=Totals.of(day.changes)) for day in dashboard.days]
        return cls(totals=Totals.of(dashboard.totals), days=days)
