"""Counters equal the truth after any interleaving of writers, absorbers and deaths."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.mongo import Database, Document
from kinora_kit.testing import eventually
from kinora_media import store
from kinora_media.errors import MediaNotFound
from kinora_media.likes import Likes
from kinora_media.store.channels import CHANNELS
from kinora_media.store.marks import LIKE
from kinora_media.store.media import MEDIA
from kinora_media.store.tallies import Thing
from kinora_media.tallies import Tallies
from kinora_media.use_cases import UseCases

Begin = Callable[..., Awaitable[UUID]]


@pytest.fixture
def likes(use_cases: UseCases) -> Likes:
    return use_cases.likes


async def truth(database: Database, media_id: UUID) -> int:
    return await database[LIKE.collection].count_documents({"thing_id": media_id, "on": True, "gone": None})


async def tally(database: Database, collection: str, thing_id: UUID) -> dict[str, Any]:
    document: Document | None = await database[collection].find_one({"_id": thing_id})
    found: dict[str, Any] = (document or {}).get("tally", {})
    return found


async def counted(database: Database, media_id: UUID) -> int:
    likes: int = (await tally(database, MEDIA, media_id)).get("counters", {}).get("likes", 0)
    return likes


class Dies(Exception):
    """Stands for the death of a process: nothing that it would have done follows."""


class Mortal:
    """The database of a process that dies before or after one of its writes."""

    def __init__(self, database: Database, *, at: int, after: bool) -> None:
        self._database = database
        self._left = at
        self._after = after

    def __getitem__(self, name: str) -> MortalCollection:
        return MortalCollection(self._database[name], self.write)

    async def write(self, call: Callable[..., Awaitable[Any]], *args: Any, **more: Any) -> Any:
        self._left -= 1
        if self._left < 0 or (self._left == 0 and not self._after):
            raise Dies
        result = await call(*args, **more)
        if self._left == 0:
            raise Dies
        return result


class MortalCollection:
    def __init__(self, collection: Any, write: Callable[..., Awaitable[Any]]) -> None:
        self._collection = collection
        self._write = write

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._collection, name)
        if name in ("find", "find_one"):
            return method

        def write(*args: Any, **more: Any) -> Awaitable[Any]:
            return self._write(method, *args, **more)

        return write


class Synchronous(Tallies):
    """Counts in the caller's task, which dies with the process."""

    async def settle(self, thing: Thing) -> None:
        await self.count(thing)


class Idle(Tallies):
    """Leaves the counting to others."""

    async def settle(self, thing: Thing) -> None:
        pass


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 7))
async def test_death_at_each_write_loses_and_repeats_nothing(
    database: Database, likes: Likes, begin: Begin, at: int, after: bool
) -> None:
    """Three likes, one of them withdrawn, by processes that die; then one that lives counts."""
    media_id, user_ids = await begin(new_id(), visibility="public"), [new_id() for _ in range(3)]
    thing = Thing(MEDIA, media_id)
    for user_id, on in ((user_ids[0], True), (user_ids[1], True), (user_ids[1], False), (user_ids[2], True)):
        dying: Any = Mortal(database, at=at, after=after)
        marks = replace(likes.marks, database=dying, tallies=Synchronous(dying, store.TALLIES))
        try:
            await replace(likes, marks=marks).switch(Caller(user_id), media_id, on=on)
        except Dies:  # the client repeats its request
            marks = replace(likes.marks, tallies=Idle(database, store.TALLIES))
            await replace(likes, marks=marks).switch(Caller(user_id), media_id, on=on)
    await Tallies(database, store.TALLIES).count(thing)
    assert await truth(database, media_id) == await counted(database, media_id) == 2
    state = await tally(database, MEDIA, media_id)
    assert "batch" not in state
    assert "open" not in state
    assert not await database[LIKE.collection].count_documents({"count.due": media_id})


async def test_64_writers_and_several_processes_end_with_the_truth(
    database: Database, likes: Likes, begin: Begin
) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id, visibility="public")
    users = [Caller(new_id()) for _ in range(40)]
    processes = [Tallies(database, store.TALLIES) for _ in range(3)]

    async def write(writer: int) -> None:
        chance = random.Random(writer)
        process = replace(likes, marks=replace(likes.marks, tallies=chance.choice(processes)))
        for _ in range(4):
            await process.switch(chance.choice(users), media_id, on=chance.random() < 0.6)

    async with processes[0].running(), processes[1].running(), processes[2].running():
        await asyncio.gather(*(write(writer) for writer in range(64)))
        assert await counted(database, media_id) == await truth(database, media_id) > 0
        await eventually(lambda: _agree(database, media_id, owner_id))


async def _agree(database: Database, media_id: UUID, owner_id: UUID) -> bool:
    likes = await truth(database, media_id)
    channel = await tally(database, CHANNELS, owner_id)
    by_day = sum(day["likes"] for day in channel.get("days", {}).values())
    return bool(likes == by_day == channel["counters"]["likes"])


async def test_likes_of_a_deleted_account_are_not_counted(
    database: Database, likes: Likes, use_cases: UseCases, begin: Begin
) -> None:
    media_id, leaving, staying = await begin(new_id(), visibility="public"), Caller(new_id()), Caller(new_id())
    await likes.switch(staying, media_id, on=True)
    assert (await likes.switch(leaving, media_id, on=True)).counters.likes == 2
    belongings = use_cases.belongings
    await belongings.remove_of_user(leaving.user_id)
    await eventually(lambda: _only(database, media_id, staying.user_id))
    # Its request was on the way.
    await likes.switch(leaving, media_id, on=True)
    await eventually(lambda: _only(database, media_id, staying.user_id))


async def _only(database: Database, media_id: UUID, user_id: UUID) -> bool:
    found = database[LIKE.collection].find({"thing_id": media_id})
    users = [document["user_id"] async for document in found]
    return users == [user_id] and await counted(database, media_id) == 1


async def test_likes_of_a_deleted_document_leave_nothing(
    database: Database, likes: Likes, use_cases: UseCases, begin: Begin
) -> None:
    owner_id, user = new_id(), Caller(new_id())
    media_id = await begin(owner_id, visibility="public")
    await likes.switch(user, media_id, on=True)
    await eventually(lambda: _has(database, owner_id, 1))
    await use_cases.catalogue.delete(Caller(owner_id), media_id)
    with pytest.raises(MediaNotFound):
        await likes.switch(user, media_id, on=False)
    await use_cases.belongings.remove_of_media(media_id)
    await eventually(lambda: _has(database, owner_id, 0))
    assert not await database[LIKE.collection].count_documents({"thing_id": media_id})


async def _has(database: Database, owner_id: UUID, likes: int) -> bool:
    found: int = (await tally(database, CHANNELS, owner_id)).get("counters", {}).get("likes", 0)
    return found == likes
