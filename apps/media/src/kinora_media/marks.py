"""Switching marks on and off, and listing them: what likes, subscriptions and hiding have in common."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from kinora_kit.errors import InvalidInput
from kinora_kit.events import Event
from kinora_kit.identity import Caller
from kinora_kit.mongo import Database, Relay
from kinora_media.catalogue import ATTEMPTS, MAX_BATCH
from kinora_media.clock import now
from kinora_media.domain import Mark, Page, Position
from kinora_media.errors import ChangedMeanwhile
from kinora_media.store import marks as store
from kinora_media.store.marks import Kind
from kinora_media.store.tallies import Thing
from kinora_media.tallies import Tallies
from kinora_media.visible import full_page

T = TypeVar("T")


@dataclass(frozen=True)
class Marks:
    database: Database
    relay: Relay
    tallies: Tallies

    async def switch(
        self,
        caller: Caller,
        kind: Kind,
        thing_id: UUID,
        *,
        on: bool,
        events: Callable[[Mark], Sequence[Event]] = lambda _: (),
    ) -> None:
        """When this returns, the thing's counter includes it, unless the store is slow."""
        for _ in range(ATTEMPTS):
            before = await store.find(self.database, kind, caller.user_id, thing_id)
            if on == (before is not None and before.on):
                break
            mark = Mark(caller.user_id, thing_id, on=on, at=now(), version=before.version + 1 if before else 1)
            if await store.save(self.database, kind, mark, events(mark)):
                self.relay.wake()
                break
        else:
            raise ChangedMeanwhile
        await self.tallies.settle(Thing(kind.things, thing_id))

    async def among(self, caller: Caller, kind: Kind, ids: Sequence[UUID]) -> set[UUID]:
        """Those of the things that the caller has marked."""
        if len(ids) > MAX_BATCH:
            raise InvalidInput(f"At most {MAX_BATCH} ids per request")
        return await store.among(self.database, kind, caller.user_id, ids)

    async def page(
        self,
        caller: Caller,
        kind: Kind,
        shown: Callable[[Sequence[UUID]], Awaitable[dict[UUID, T]]],
        *,
        after: Position | None,
        limit: int,
    ) -> "Page[Marked[T]]":
        """What the caller has marked, last marked first, as far as ``shown`` returns it for its id."""

        async def read(after: Position | None, size: int) -> list[Mark]:
            return await store.page(self.database, kind, caller.user_id, after=after, limit=size)

        async def show(marks: Sequence[Mark]) -> list[Marked[T]]:
            things = await shown([mark.thing_id for mark in marks])
            return [Marked(things[mark.thing_id], mark) for mark in marks if mark.thing_id in things]

        return await full_page(read, show, lambda mark: Position(mark.at, mark.thing_id), after=after, limit=limit)


@dataclass(frozen=True)
class Marked(Generic[T]):
    thing: T
    mark: Mark
