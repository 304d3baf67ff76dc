"""The use cases of channels and subscriptions."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from kinora.events.media import ChannelSubscribed, ChannelUnsubscribed
from kinora_kit.errors import InvalidInput
from kinora_kit.events import Event, event
from kinora_kit.identity import Caller
from kinora_kit.mongo import Database
from kinora_media import cursors
from kinora_media.catalogue import MAX_BATCH, SERVICE
from kinora_media.clock import now
from kinora_media.domain import Channel, Dashboard, Listed, Mark, Page, Position
from kinora_media.errors import ChannelNotFound, TooManySubscriptions
from kinora_media.marks import Marked, Marks
from kinora_media.store import channels
from kinora_media.store import marks as marks_store
from kinora_media.store import media as media_store
from kinora_media.store.marks import SUBSCRIPTION
from kinora_media.users import Users

MAX_SUBSCRIPTIONS = 1000


@dataclass(frozen=True)
class Subscriptions:
    database: Database
    marks: Marks
    users: Users

    async def channels(self, user_ids: Sequence[UUID]) -> dict[UUID, Channel]:
        """By user; without those whose accounts were deleted."""
        if len(user_ids) > MAX_BATCH:
            raise InvalidInput(f"At most {MAX_BATCH} ids per request")
        return await channels.many(self.database, user_ids)

    async def dashboard(self, caller: Caller, *, days: int) -> Dashboard:
        """The caller's own channel, with the latest ``days``."""
        found = await channels.dashboard(self.database, caller.user_id)
        first = now().date() - timedelta(days=days - 1)
        return replace(found, days=[day for day in found.days if day.date >= first])

    async def switch(self, caller: Caller, channel_id: UUID, *, on: bool) -> Channel:
        """Subscribe to a channel, or unsubscribe."""
        if on:
            await self._check(caller, channel_id)

        def events(subscription: Mark) -> list[Event]:
            kind = ChannelSubscribed if on else ChannelUnsubscribed
            about = kind(channel_id=channel_id, user_id=subscription.user_id, version=subscription.version)
            return [event(SERVICE, about)]

        await self.marks.switch(caller, SUBSCRIPTION, channel_id, on=on, events=events)
        found = await channels.many(self.database, [channel_id])
        if channel_id not in found:
            raise ChannelNotFound
        return found[channel_id]

    async def _check(self, caller: Caller, channel_id: UUID) -> None:
        if channel_id == caller.user_id:
            raise InvalidInput("This is your own channel")
        if channel_id not in await self.users.many([channel_id]):
            raise ChannelNotFound
        mine = await self.all(caller)
        if len(mine) == MAX_SUBSCRIPTIONS and channel_id not in mine:
            raise TooManySubscriptions

    async def mine(self, caller: Caller, *, after: Position | None, limit: int) -> Page[Marked[Channel]]:
        """The channels that the caller subscribes to, last subscribed first."""
        return await self.marks.page(caller, SUBSCRIPTION, self.channels, after=after, limit=limit)

    async def all(self, caller: Caller) -> list[UUID]:
        """The ids of these channels, in no particular order."""
        return await marks_store.things(self.database, SUBSCRIPTION, caller.user_id, limit=MAX_SUBSCRIPTIONS)

    async def among(self, caller: Caller, ids: Sequence[UUID]) -> set[UUID]:
        """Those of the channels that the caller subscribes to."""
        return await self.marks.among(caller, SUBSCRIPTION, ids)

    async def media(self, caller: Caller, *, cursor: str | None, limit: int) -> Page[Listed]:
        """What is ready and public in these channels, last published first. Raises InvalidInput."""
        after = cursors.in_subscribed(cursor) if cursor else None
        mine = await self.all(caller)
        size = media_store.OWNERS
        found = [
            await media_store.of_owners(self.database, mine[start : start + size], after=after, limit=limit + 1)
            for start in range(0, len(mine), size)
        ]
        merged = list(heapq.merge(*found, key=lambda item: (item[1], item[0].id), reverse=True))
        items = [Listed(media, cursors.of_subscribed(at, media.id)) for media, at in merged[:limit]]
        return Page(items, more=len(merged) > limit)
