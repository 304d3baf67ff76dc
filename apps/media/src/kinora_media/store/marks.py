"""What users switch on and off for things: likes, subscriptions, what they do not want to see.

A mark that was switched off stays, so that its version never restarts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kinora_kit.events import Event
from kinora_kit.mongo import OUTBOX, Database, Document, DuplicateKeyError, IndexModel, superseding
from kinora_media.domain import Mark, Position
from kinora_media.store import tallies
from kinora_media.store.channels import CHANNELS
from kinora_media.store.comments import COMMENTS
from kinora_media.store.media import MEDIA
from kinora_media.store.outbox import entries
from kinora_media.store.tallies import DUE, Source, Thing


@dataclass(frozen=True)
class Kind:
    collection: str
    things: str
    """The collection of what is marked."""
    counter: str = ""
    """The counter of the thing that has the number of marks, if any."""

    @property
    def source(self) -> Source:
        def amounts(document: Document) -> tallies.Counters:
            return {self.counter: 1} if self.counter and document["on"] else {}

        return Source(self.collection, amounts, fields=["on"], author="user_id")


LIKE = Kind("likes", MEDIA, "likes")
COMMENT_LIKE = Kind("comment_likes", COMMENTS, "likes")
SUBSCRIPTION = Kind("subscriptions", CHANNELS, "subscribers")
NOT_INTERESTED = Kind("not_interested", MEDIA)
HIDDEN_CHANNEL = Kind("hidden_channels", CHANNELS)
KINDS = (LIKE, COMMENT_LIKE, SUBSCRIPTION, NOT_INTERESTED, HIDDEN_CHANNEL)


def sources(things: str) -> list[Source]:
    """Of marks of the documents in a collection: they are removed with them, and with their users, also if nothing is
    counted."""
    return [kind.source for kind in KINDS if kind.things == things]


def indexes() -> dict[str, list[IndexModel]]:
    of_user = IndexModel([("user_id", 1), ("on", 1), ("at", -1), ("_id", -1)], name="user")
    of_thing = IndexModel([("thing_id", 1), ("on", 1), ("_id", 1)], name="thing")
    return {kind.collection: [DUE, of_user, of_thing] for kind in KINDS}


async def find(database: Database, kind: Kind, user_id: UUID, thing_id: UUID) -> Mark | None:
    document = await database[kind.collection].find_one({"_id": _key(user_id, thing_id)})
    return None if document is None else _mark(document)


async def among(database: Database, kind: Kind, user_id: UUID, ids: Iterable[UUID]) -> set[UUID]:
    """The ids of those things that the user has marked."""
    keys = [_key(user_id, thing_id) for thing_id in ids]
    found = database[kind.collection].find({"_id": {"$in": keys}, "on": True}, {"thing_id": True})
    return {document["thing_id"] async for document in found}


async def page(database: Database, kind: Kind, user_id: UUID, *, after: Position | None, limit: int) -> list[Mark]:
    """What the user has marked, last marked first, below ``after``."""
    query: Document = {"user_id": user_id, "on": True}
    if after is not None:
        # The first range bounds the scan of the index, the second only skips equal times.
        below = {"_id": {"$lt": _key(user_id, after.id)}}
        query |= {"at": {"$lte": after.at}, "$or": [{"at": {"$lt": after.at}}, below]}
    found = database[kind.collection].find(query).sort([("at", -1), ("_id", -1)]).limit(limit)
    return [_mark(document) async for document in found]


async def things(database: Database, kind: Kind, user_id: UUID, *, limit: int) -> list[UUID]:
    """The ids of what the user has marked, in no particular order."""
    found = database[kind.collection].find({"user_id": user_id, "on": True}, {"thing_id": True}).limit(limit)
    return [document["thing_id"] async for document in found]


async def users(
    database: Database, kind: Kind, thing_id: UUID, *, until: datetime, after: UUID | None, limit: int
) -> list[UUID]:
    """Who has marked a thing up to a time, in the order of their ids, above ``after``."""
    above = {} if after is None else {"_id": {"$gt": _key(after, thing_id)}}
    query = {"thing_id": thing_id, "on": True, "at": {"$lte": until}, **above}
    found = database[kind.collection].find(query, {"user_id": True}).sort("_id", 1).limit(limit)
    return [document["user_id"] async for document in found]


async def save(database: Database, kind: Kind, mark: Mark, events: Sequence[Event]) -> bool:
    """Save a mark with the events that it causes.

    False unless its version is one above that of the stored mark, 1 if there is none.
    """
    marks, key = database[kind.collection], _key(mark.user_id, mark.thing_id)
    if mark.version == 1:
        document = {"_id": key, "user_id": mark.user_id, "thing_id": mark.thing_id, "on": mark.on, "at": mark.at}
        count = tallies.new(Thing(kind.things, mark.thing_id))
        try:
            await marks.insert_one({**document, "count": count, OUTBOX: entries(events)})
        except DuplicateKeyError:
            return False
        return True
    change = {
        "on": mark.on,
        "at": mark.at,
        "count.version": mark.version,
        "count.due": mark.thing_id,
        OUTBOX: superseding(entries(events)),
    }
    current = {"_id": key, "count.version": mark.version - 1, "gone": {"$exists": False}}
    return (await marks.update_one(current, [{"$set": change}])).matched_count == 1


async def remove_of_user(database: Database, user_id: UUID) -> None:
    """Remove the marks of a deleted account; the counters follow."""
    change = {"gone": True, "count.version": {"$add": ["$count.version", 1]}, "count.due": "$thing_id"}
    for kind in KINDS:
        await database[kind.collection].update_many(
            {"user_id": user_id, "gone": {"$exists": False}}, [{"$set": change}]
        )


async def delete_of(database: Database, things: str, ids: Sequence[UUID]) -> None:
    """Delete the marks of deleted documents of a collection."""
    for kind in KINDS:
        if kind.things == things:
            await database[kind.collection].delete_many({"thing_id": {"$in": list(ids)}})


def _key(user_id: UUID, thing_id: UUID) -> bytes:
    return thing_id.bytes + user_id.bytes


def _mark(document: Document) -> Mark:
    return Mark(
        user_id=document["user_id"],
        thing_id=document["thing_id"],
        on=document["on"],
        at=document["at"],
        version=document["count"]["version"],
    )
