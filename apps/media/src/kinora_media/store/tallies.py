"""Counters in documents, and the documents that contribute to them. The protocol is docs/adr/0020-tallies.md.

A contributor, such as a like, has ``count``::

    {version, counted: {counter: amount}, counted_version, tally: collection, due: id}

``version`` increases with each change of its amounts. ``counted`` is what the tally contains of it, as of
``counted_version``. ``due`` exists while the two versions differ: the id of the document with the tally.

A document with counters, such as a media document, has ``tally``::

    {version, counters: {counter: total}, batch: [...], open: true, days: {date: {counter: change}}}

``batch`` is what was added to the counters last, until it is recorded in the contributors; ``open`` exists as long.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from kinora_kit.mongo import Database, DeleteOne, Document, DuplicateKeyError, IndexModel, UpdateOne

Counters = Mapping[str, int]
"""By name; a dot in a name is a level in the document: ``watched.7``."""

BATCH = 100
"""Contributors that are counted together. Their batch is a part of the tally's document: about 10 KB."""
SWEPT = 1000
DAYS = 400
"""How long changes by day are kept."""

DUE = IndexModel("count.due", sparse=True, name="due")
"""Of each collection of contributors."""
OPEN = IndexModel("tally.open", sparse=True, name="open")
"""Of each collection with tallies."""


class Thing(NamedTuple):
    """A document with a tally."""

    collection: str
    id: UUID


@dataclass(frozen=True)
class Source:
    """A collection of contributors."""

    collection: str
    amounts: Callable[[Document], Counters]
    """What a document contributes. Whatever changes the result must increase ``count.version``."""
    fields: Sequence[str]
    """That ``amounts`` reads."""
    author: str | None = None
    """The field with the user whose contribution it is: it is removed with that account."""
    outlives: bool = False
    """Whether a document stays when the one to which it contributes is deleted."""


@dataclass(frozen=True)
class Tally:
    """The counters of a collection's documents."""

    collection: str
    sources: Sequence[Source]
    parent: Callable[[Document], Thing] | None = None
    """To what such a document contributes itself."""
    fields: Sequence[str] = ()
    """That ``parent`` reads."""
    carried: Collection[str] = ()
    """The counters that change what such a document contributes."""
    creates: bool = False
    """Whether a missing document is created. Otherwise, it was deleted."""
    daily: bool = False
    """Whether changes are also kept by day."""


@dataclass(frozen=True)
class Contribution:
    source: str
    id: Any
    version: int
    amounts: Counters
    counted: Counters = field(default_factory=dict)
    author: UUID | None = None
    gone: bool = False


@dataclass(frozen=True)
class State:
    """A tally as read; with ``version`` 0, the document has none yet."""

    version: int = 0
    counters: Counters = field(default_factory=dict)
    batch: Sequence[Contribution] = ()
    days: Mapping[str, Counters] = field(default_factory=dict)
    parent: Thing | None = None


def new(thing: Thing) -> Document:
    """``count`` of a new contributor."""
    return {"version": 1, "counted": {}, "counted_version": 0, "tally": thing.collection, "due": thing.id}


def idle() -> Document:
    """``count`` of a new contributor that contributes nothing yet."""
    return {"version": 1, "counted": {}, "counted_version": 1}


def changed(thing: Thing) -> tuple[Document, Document]:
    """What to $inc and to $set in a contributor whose amounts change."""
    return {"count.version": 1}, {"count.tally": thing.collection, "count.due": thing.id}


async def read(database: Database, tally: Tally, thing: Thing) -> State | None:
    """None if the document was deleted."""
    projection = dict.fromkeys(("tally", "deleted_at", *tally.fields), True)
    document = await database[tally.collection].find_one({"_id": thing.id}, projection)
    if document is None:
        return State() if tally.creates else None
    if "deleted_at" in document:
        return None
    found = document.get("tally", {})
    return State(
        version=found.get("version", 0),
        counters=_flat(found.get("counters", {})),
        batch=[Contribution(**entry | {"amounts": _flat(entry["amounts"])}) for entry in found.get("batch", ())],
        days=found.get("days", {}),
        parent=tally.parent(document) if tally.parent else None,
    )


async def due(database: Database, source: Source, thing: Thing) -> list[Contribution]:
    """Contributors that are to be counted, at most BATCH."""
    author = source.author or "_id"
    projection = dict.fromkeys(("count", "gone", author, *source.fields), True)
    found = database[source.collection].find({"count.due": thing.id}, projection).limit(BATCH)
    return [
        Contribution(
            source=source.collection,
            id=document["_id"],
            version=document["count"]["version"],
            amounts={} if "gone" in document else source.amounts(document),
            counted=_flat(document["count"].get("counted", {})),
            author=document.get(author) if source.author else None,
            gone="gone" in document,
        )
        async for document in found
    ]


async def add(
    database: Database, tally: Tally, thing: Thing, before: State, *, batch: Sequence[Contribution], today: date
) -> State | None:
    """Add what changed since it was counted. None if the tally changed since it was read, or its document is gone."""
    change: dict[str, int] = {}
    for each in batch:
        for counter in {**each.counted, **each.amounts}:
            difference = each.amounts.get(counter, 0) - each.counted.get(counter, 0)
            change[counter] = change.get(counter, 0) + difference
    after = replace(before, version=before.version + 1, counters=_sum(before.counters, change), batch=batch)
    to_set: Document = {
        "tally.version": after.version,
        **{f"tally.counters.{name}": after.counters[name] for name in change},
        "tally.batch": [
            {"source": each.source, "id": each.id, "version": each.version, "amounts": _nested(each.amounts)}
            for each in batch
        ],
        "tally.open": True,
    }
    if tally.daily:
        first, day = (today - timedelta(days=DAYS)).isoformat(), today.isoformat()
        kept = {each: counters for each, counters in before.days.items() if each > first}
        to_set["tally.days"] = {**kept, day: _sum(kept.get(day, {}), change)}
    update: Document = {"$set": to_set}
    if before.parent and any(change.get(counter) for counter in tally.carried):
        increase, more = changed(before.parent)
        update = {"$set": to_set | more, "$inc": increase}
    try:
        result = await database[thing.collection].update_one(_as_read(thing, before), update, upsert=tally.creates)
    except DuplicateKeyError:  # it does not match the filter, so the upsert tries to insert its id
        return None
    return after if result.matched_count == 1 or result.upserted_id is not None else None


async def record(database: Database, batch: Iterable[Contribution]) -> None:
    """Record in the contributors that they were counted. Idempotent; never replaces a later record."""
    # $not: a document that was never counted has no counted_version.
    writes: dict[str, list[UpdateOne | DeleteOne]] = {}
    for each in batch:
        counted = {
            "count.counted": {"$literal": _nested(each.amounts)},
            "count.counted_version": each.version,
            "count.due": {"$cond": [{"$gt": ["$count.version", each.version]}, "$count.due", "$$REMOVE"]},
        }
        earlier = {"_id": each.id, "count.counted_version": {"$not": {"$gte": each.version}}}
        operations = writes.setdefault(each.source, [])
        operations.append(UpdateOne(earlier, [{"$set": counted}]))
        if not each.amounts:
            operations.append(DeleteOne({"_id": each.id, "count.version": each.version, "gone": True}))
    for source, found in writes.items():
        await database[source].bulk_write(found)


async def close(database: Database, thing: Thing, before: State) -> None:
    """Remove a recorded batch, unless the tally changed since it was read."""
    await database[thing.collection].update_one(
        _as_read(thing, before),
        {"$set": {"tally.version": before.version + 1}, "$unset": {"tally.batch": "", "tally.open": ""}},
    )


async def remove(database: Database, contribution: Contribution, thing: Thing) -> None:
    """Let a contributor contribute nothing; it is deleted once that is counted."""
    increase, to_set = changed(thing)
    await database[contribution.source].update_one(
        {"_id": contribution.id}, {"$inc": increase, "$set": to_set | {"gone": True}}
    )


async def forget(database: Database, source: Source, thing: Thing) -> None:
    """The document with the tally is gone, so nothing is counted any more."""
    if source.outlives:
        await database[source.collection].update_many({"count.due": thing.id}, {"$unset": {"count.due": ""}})
    else:
        await database[source.collection].delete_many({"count.due": thing.id})


async def unfinished(database: Database, tally: Tally) -> set[Thing]:
    """Documents with something to count or to record, not necessarily all."""
    opened = database[tally.collection].find({"tally.open": {"$exists": True}}, {"_id": True}).limit(SWEPT)
    found = {Thing(tally.collection, document["_id"]) async for document in opened}
    for source in tally.sources:
        fields = {"count.due": True, "count.tally": True}
        waiting = database[source.collection].find({"count.due": {"$exists": True}}, fields).limit(SWEPT)
        found |= {Thing(document["count"]["tally"], document["count"]["due"]) async for document in waiting}
    return found


def _as_read(thing: Thing, before: State) -> Document:
    return {
        "_id": thing.id,
        "tally.version": before.version or {"$exists": False},
        "deleted_at": {"$exists": False},
    }


def _sum(counters: Counters, change: Counters) -> dict[str, int]:
    return {name: counters.get(name, 0) + change.get(name, 0) for name in {**counters, **change}}


def _nested(counters: Counters) -> Document:
    document: Document = {}
    for name, amount in counters.items():
        *levels, last = name.split(".")
        inner = document
        for level in levels:
            inner = inner.setdefault(level, {})
        inner[last] = amount
    return document


def _flat(document: Document) -> dict[str, int]:
    counters: dict[str, int] = {}
    for name, value in document.items():
        inner = {f"{name}.{rest}": amount for rest, amount in _flat(value).items()} if isinstance(value, dict) else None
        counters |= {name: value} if inner is None else inner
    return counters
