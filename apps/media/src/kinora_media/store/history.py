"""Watch histories: where each user is in each media document."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kinora_kit.events import Event
from kinora_kit.mongo import OUTBOX, Database, Document, DuplicateKeyError, IndexModel, superseding
from kinora_media.domain import Position, Visit
from kinora_media.store import tallies
from kinora_media.store.media import MEDIA
from kinora_media.store.outbox import entries
from kinora_media.store.tallies import DUE, Source, Thing

HISTORY = "history"

SOURCE = Source(HISTORY, lambda _: {}, fields=[], author="user_id")
"""Counts nothing: it is removed with its document and its user."""


def indexes() -> dict[str, list[IndexModel]]:
    return {
        HISTORY: [
            DUE,
            IndexModel([("user_id", 1), ("at", -1), ("_id", -1)], name="user"),
            IndexModel("media_id", name="media"),
        ],
    }


async def find(database: Database, user_id: UUID, media_id: UUID) -> Visit | None:
    document = await database[HISTORY].find_one({"_id": _key(user_id, media_id)})
    return None if document is None else _visit(document)


async def many(database: Database, user_id: UUID, ids: Sequence[UUID]) -> list[Visit]:
    """Of media documents, in no particular order."""
    found = database[HISTORY].find({"_id": {"$in": [_key(user_id, media_id) for media_id in ids]}})
    return [_visit(document) async for document in found]


async def page(database: Database, user_id: UUID, *, after: Position | None, limit: int) -> list[Visit]:
    """Last watched first, below ``after``."""
    query: Document = {"user_id": user_id}
    if after is not None:
        # The first range bounds the scan of the index, the second only skips equal times.
        below = {"_id": {"$lt": _key(user_id, after.id)}}
        query |= {"at": {"$lte": after.at}, "$or": [{"at": {"$lt": after.at}}, below]}
    found = database[HISTORY].find(query).sort([("at", -1), ("_id", -1)]).limit(limit)
    return [_visit(document) async for document in found]


async def save(database: Database, visit: Visit, events: Sequence[Event]) -> bool:
    """False unless its version is one above that of the stored visit, 1 if there is none."""
    key = _key(visit.user_id, visit.media_id)
    fields: Document = {"position": visit.position, "seconds": visit.seconds, "at": visit.at, "version": visit.version}
    if visit.version == 1:
        count = tallies.new(Thing(MEDIA, visit.media_id))
        document = {"_id": key, "user_id": visit.user_id, "media_id": visit.media_id, **fields, "count": count}
        try:
            await database[HISTORY].insert_one({**document, OUTBOX: entries(events)})
        except DuplicateKeyError:
            return False
        return True
    if events:
        fields[OUTBOX] = superseding(entries(events))
    current = {"_id": key, "version": visit.version - 1, "gone": {"$exists": False}}
    return (await database[HISTORY].update_one(current, [{"$set": fields}])).matched_count == 1


async def delete(database: Database, user_id: UUID, media_id: UUID) -> None:
    await database[HISTORY].delete_one({"_id": _key(user_id, media_id)})


async def delete_until(database: Database, user_id: UUID, at: datetime) -> None:
    """Delete a user's history up to a time."""
    await database[HISTORY].delete_many({"user_id": user_id, "at": {"$lte": at}})


async def delete_of_user(database: Database, user_id: UUID) -> None:
    await database[HISTORY].delete_many({"user_id": user_id})


async def delete_of(database: Database, media_id: UUID) -> None:
    """Delete the entries of a deleted document."""
    await database[HISTORY].delete_many({"media_id": media_id})


def _key(user_id: UUID, media_id: UUID) -> bytes:
    return media_id.bytes + user_id.bytes


def _visit(document: Document) -> Visit:
    return Visit(
        user_id=document["user_id"],
        media_id=document["media_id"],
        position=document["position"],
        seconds=document["seconds"],
        at=document["at"],
        version=document["version"],
    )
