"""Media documents. Writes use optimistic locking by version. A deleted document leaves a tombstone under its id."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from kinora_kit.events import Event
from kinora_kit.mongo import OUTBOX, Database, Document, DuplicateKeyError, IndexModel, superseding
from kinora_media import facets
from kinora_media.domain import Counters, Media, State, Visibility, popularity
from kinora_media.store import tallies
from kinora_media.store.channels import CHANNELS
from kinora_media.store.outbox import entries
from kinora_media.store.tallies import DUE, OPEN, Source, Thing

EARLIEST = datetime.fromtimestamp(0, UTC)

OWNERS = 100

MEDIA = "media"

SHOWN = {OUTBOX: False, "tally.batch": False, "tally.counters.watched": False}
FACETS = "facets"
"""What published documents are found by; others do not have it (kinora_media.facets)."""
FEED_AT = "feed_at"
"""``published_at`` of published documents; others do not have it."""
SCORES = ("score_0", "score_1")
"""Popularity in even and in odd epochs (docs/adr/0022-popularity.md), of documents that have ever been published."""


@dataclass(frozen=True)
class Tombstone:
    """Remains of a deleted document, so that late events do not recreate it."""


CARRIED = ("views", "likes", "comments")


@dataclass(frozen=True)
class Ranked:
    id: UUID
    counters: Counters
    published_at: datetime
    score: int | None
    """In the slot that was asked for."""
    feed_at: datetime


def _amounts(document: Document) -> tallies.Counters:
    """What a document contributes to its owner's channel."""
    if "deleted_at" in document:
        return {}
    counters = document.get("tally", {}).get("counters", {})
    return {name: counters.get(name, 0) for name in CARRIED}


SOURCE = Source(MEDIA, _amounts, fields=["tally.counters", "deleted_at"], outlives=True)


def channel(document: Document) -> Thing:
    return Thing(CHANNELS, document["owner_id"])


def indexes(*, tombstones: IndexModel) -> dict[str, list[IndexModel]]:
    return {
        MEDIA: [
            IndexModel([("owner_id", 1), ("_id", -1)], name="owner"),
            *(IndexModel([(FACETS, 1), (order, -1), ("_id", -1)], name=order) for order in (FEED_AT, *SCORES)),
            IndexModel("publish_at", sparse=True, name="schedule"),
            tombstones,
            DUE,
            OPEN,
        ]
    }


async def find(database: Database, media_id: UUID) -> Media | Tombstone | None:
    document = await database[MEDIA].find_one({"_id": media_id}, SHOWN)
    if document is None:
        return None
    return Tombstone() if "deleted_at" in document else media_of(document)


async def many(database: Database, ids: Sequence[UUID]) -> list[Media]:
    """The documents that have begun, in no particular order."""
    found = database[MEDIA].find({"_id": {"$in": list(ids)}, "begun": True}, SHOWN)
    return [media_of(document) async for document in found]


async def page(database: Database, owner_id: UUID, *, before: UUID | None, limit: int) -> list[Media]:
    """Documents of the owner that have begun, newest first, with ids below ``before``."""
    query: Document = {"owner_id": owner_id, "begun": True}
    if before is not None:
        query["_id"] = {"$lt": before}
    found = database[MEDIA].find(query, SHOWN).sort("_id", -1).limit(limit)
    return [media_of(document) async for document in found]


async def listed(
    database: Database, wanted: Sequence[str], *, by: str, after: tuple[Any, UUID] | None, limit: int
) -> list[tuple[Media, Any]]:
    """Published documents with all facets of ``wanted``, each with its value of ``by``: FEED_AT or one of SCORES.

    In descending order of this field and the id, below ``after``.
    """
    query = {FACETS: wanted[0] if len(wanted) == 1 else {"$all": list(wanted)}, **_below(by, after)}
    found = database[MEDIA].find(query, SHOWN).sort([(by, -1), ("_id", -1)]).limit(limit)
    return [(media_of(document), document[by]) async for document in found]


async def without_facets(database: Database, *, after: UUID, limit: int) -> list[Media]:
    """Published documents of releases before facets, by id."""
    query = {
        "_id": {"$gt": after},
        "state": str(State.READY),
        "visibility": str(Visibility.PUBLIC),
        FACETS: {"$exists": False},
    }
    found = database[MEDIA].find(query, SHOWN).sort("_id", 1).limit(limit)
    return [media_of(document) async for document in found]


async def ranked(database: Database, slot: str, *, after: tuple[datetime, UUID] | None, limit: int) -> list[Ranked]:
    """Published documents, last published first, below ``after``."""
    projection = {"tally.counters": True, "published_at": True, FEED_AT: True, slot: True}
    query = {FACETS: facets.ALL, **_below(FEED_AT, after)}
    found = database[MEDIA].find(query, projection).sort([(FEED_AT, -1), ("_id", -1)]).limit(limit)
    return [
        Ranked(document["_id"], _counters(document), document["published_at"], document.get(slot), document[FEED_AT])
        async for document in found
    ]


def _below(field: str, after: tuple[Any, UUID] | None) -> Document:
    if after is None:
        return {}
    value, media_id = after
    # The first range bounds the scan of the index, the second only skips equal values.
    return {field: {"$lte": value}, "$or": [{field: {"$lt": value}}, {"_id": {"$lt": media_id}}]}


async def due(database: Database, *, until: datetime, limit: int) -> list[Media]:
    """Documents to be published by ``until``, earliest first."""
    # The lower bound lets the stand-in for MongoDB use the index.
    query = {"publish_at": {"$gte": EARLIEST, "$lte": until}}
    found = database[MEDIA].find(query, SHOWN).sort("publish_at", 1).limit(limit)
    return [media_of(document) async for document in found]


async def of_owners(
    database: Database, owner_ids: Sequence[UUID], *, after: tuple[datetime, UUID] | None, limit: int
) -> list[tuple[Media, datetime]]:
    """As listed by FEED_AT, of some owners: at most OWNERS, because MongoDB merges that many ranges of an index."""
    query = {FACETS: {"$in": [facets.of_owner(owner_id) for owner_id in owner_ids]}, **_below(FEED_AT, after)}
    found = database[MEDIA].find(query, SHOWN).sort([(FEED_AT, -1), ("_id", -1)]).limit(limit)
    return [(media_of(document), document[FEED_AT]) async for document in found]


async def insert(database: Database, media: Media, events: Sequence[Event]) -> bool:
    """False if the id exists already, also as a tombstone."""
    try:
        await database[MEDIA].insert_one({"_id": media.id, **document_of(media), OUTBOX: entries(events)})
    except DuplicateKeyError:
        return False
    return True


async def update(database: Database, media: Media, *, expected_version: int, events: Sequence[Event]) -> bool:
    """False if the document no longer has the expected version."""
    change: Document = {name: {"$literal": value} for name, value in document_of(media).items()}
    for name in (FACETS, FEED_AT, "publish_at"):
        change.setdefault(name, "$$REMOVE")
    if media.published and media.published_at:  # later only popularity.py changes them, so that lists are stable
        score = popularity(media.counters, media.published_at)
        change |= {slot: {"$ifNull": [f"${slot}", score]} for slot in SCORES}
    if events:
        change[OUTBOX] = superseding(entries(events))
    result = await database[MEDIA].update_one({"_id": media.id, "version": expected_version}, [{"$set": change}])
    return result.matched_count == 1


async def pin(database: Database, media_id: UUID, comment_id: UUID | None, events: Sequence[Event]) -> None:
    # The version: a concurrent edit must not restore the former value.
    change: Document = {"pinned_comment_id": {"$literal": comment_id}, "version": {"$add": ["$version", 1]}}
    if events:
        change[OUTBOX] = superseding(entries(events))
    await database[MEDIA].update_one({"_id": media_id, "deleted_at": {"$exists": False}}, [{"$set": change}])


async def delete(database: Database, media_id: UUID, owner_id: UUID, *, at: datetime, event: Event) -> bool:
    """Replace the document, if any, by a tombstone. False if there is a tombstone already."""
    increase, to_set = tallies.changed(Thing(CHANNELS, owner_id))
    kept = {"id", "counters"}
    change: Document = {
        "$set": {"deleted_at": at, **to_set},
        "$inc": increase,
        "$unset": {
            **dict.fromkeys((FACETS, FEED_AT, *SCORES, "tally"), ""),
            **{item.name: "" for item in fields(Media) if item.name not in kept},
        },
        "$push": {OUTBOX: {"$each": entries([event])}},
    }
    try:
        await database[MEDIA].update_one({"_id": media_id, "deleted_at": {"$exists": False}}, change, upsert=True)
    except DuplicateKeyError:  # a tombstone does not match the filter, so the upsert tries to insert its id
        return False
    return True


async def ids_of(database: Database, owner_id: UUID) -> Sequence[UUID]:
    """Includes documents that have not begun."""
    return [document["_id"] async for document in database[MEDIA].find({"owner_id": owner_id}, {"_id": True})]


def document_of(media: Media) -> Document:
    """What is stored, without the id."""
    document = asdict(media) | {
        "tags": list(media.tags),
        "visibility": str(media.visibility),
        "state": str(media.state),
    }
    del document["id"], document["counters"]
    if media.publish_at is None:  # the index has only documents that are scheduled
        del document["publish_at"]
    if media.published:
        document |= {FACETS: facets.of(media), FEED_AT: media.published_at}
    return document


def media_of(document: dict[str, Any]) -> Media:
    # Documents of earlier releases lack newer fields.
    known = {item.name: document[item.name] for item in fields(Media) if item.name in document}
    return Media(
        **known
        | {
            "id": document["_id"],
            "tags": tuple(document["tags"]),
            "visibility": Visibility(document["visibility"]),
            "state": State(document["state"]),
            "counters": _counters(document),
        }
    )


def _counters(document: Document) -> Counters:
    counters = document.get("tally", {}).get("counters", {})
    return Counters(**{name: counters.get(name, 0) for name in CARRIED})
