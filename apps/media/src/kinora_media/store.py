"""The only place with MongoDB queries.

Each write changes one document and includes the events it causes, so no transaction is needed. Writes use optimistic
locking by version. A deleted document leaves a tombstone under its id.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from kinora.events.media import EXCHANGE, MediaDeleted, MediaUpdated
from kinora_kit.events import Event
from kinora_kit.mongo import OUTBOX, Collection, Database, Document, DuplicateKeyError, pending, superseding
from kinora_media.domain import Media, State, Visibility

SECONDS_PER_DAY = 24 * 3600

# Retried until a queue accepts them: if they were lost, video would serve private videos and keep deleted ones.
_MANDATORY = frozenset({MediaDeleted.type, MediaUpdated.type})


@dataclass(frozen=True)
class Tombstone:
    """Remains of a deleted document, so that late events do not recreate it."""


class Store:
    def __init__(self, database: Database, *, tombstone_days: int) -> None:
        self.media: Collection = database["media"]
        self._deleted_owners: Collection = database["deleted_owners"]
        self._tombstone_seconds = tombstone_days * SECONDS_PER_DAY

    async def ensure_indexes(self) -> None:
        await self.media.create_index([("owner_id", 1), ("_id", -1)], name="owner")
        for collection in (self.media, self._deleted_owners):
            await collection.create_index(
                "deleted_at", expireAfterSeconds=self._tombstone_seconds, sparse=True, name="tombstones"
            )

    async def find(self, media_id: UUID) -> Media | Tombstone | None:
        document = await self.media.find_one({"_id": media_id})
        if document is None:
            return None
        return Tombstone() if "deleted_at" in document else _media(document)

    async def many(self, ids: Sequence[UUID]) -> list[Media]:
        """The documents that have begun, in no particular order."""
        found = self.media.find({"_id": {"$in": list(ids)}, "begun": True})
        return [_media(document) async for document in found]

    async def page(self, owner_id: UUID, *, published: bool, before: UUID | None, limit: int) -> list[Media]:
        """Documents of the owner that have begun, newest first, with ids below ``before``.

        ``published``: only ready and public ones.
        """
        query: Document = {"owner_id": owner_id, "begun": True}
        if published:
            query |= {"state": str(State.READY), "visibility": str(Visibility.PUBLIC)}
        if before is not None:
            query["_id"] = {"$lt": before}
        found = self.media.find(query).sort("_id", -1).limit(limit)
        return [_media(document) async for document in found]

    async def insert(self, media: Media, events: Sequence[Event]) -> bool:
        """False if the id exists already, also as a tombstone."""
        try:
            await self.media.insert_one({"_id": media.id, **_document(media), OUTBOX: _entries(events)})
        except DuplicateKeyError:
            return False
        return True

    async def update(self, media: Media, *, expected_version: int, events: Sequence[Event]) -> bool:
        """False if the document no longer has the expected version."""
        change: Document = {name: {"$literal": value} for name, value in _document(media).items()}
        if events:
            change[OUTBOX] = superseding(_entries(events))
        result = await self.media.update_one({"_id": media.id, "version": expected_version}, [{"$set": change}])
        return result.matched_count == 1

    async def delete(self, media_id: UUID, *, at: datetime, event: Event) -> bool:
        """Replace the document, if any, by a tombstone. False if there is a tombstone already."""
        change: Document = {
            "$set": {"deleted_at": at},
            "$unset": {item.name: "" for item in fields(Media) if item.name != "id"},
            "$push": {OUTBOX: {"$each": _entries([event])}},
        }
        try:
            await self.media.update_one({"_id": media_id, "deleted_at": {"$exists": False}}, change, upsert=True)
        except DuplicateKeyError:  # a tombstone does not match the filter, so the upsert tries to insert its id
            return False
        return True

    async def ids_of(self, owner_id: UUID) -> Sequence[UUID]:
        """Includes documents that have not begun."""
        return [document["_id"] async for document in self.media.find({"owner_id": owner_id}, {"_id": True})]

    async def mark_owner_deleted(self, owner_id: UUID, *, at: datetime) -> None:
        await self._deleted_owners.update_one({"_id": owner_id}, {"$set": {"deleted_at": at}}, upsert=True)

    async def owner_is_deleted(self, owner_id: UUID) -> bool:
        return await self._deleted_owners.find_one({"_id": owner_id}) is not None


def _entries(events: Sequence[Event]) -> list[Document]:
    return [pending(event, exchange=EXCHANGE, mandatory=event.type in _MANDATORY) for event in events]


def _document(media: Media) -> Document:
    """Without the id."""
    document = asdict(media) | {
        "tags": list(media.tags),
        "visibility": str(media.visibility),
        "state": str(media.state),
    }
    del document["id"]
    return document


def _media(document: dict[str, Any]) -> Media:
    known = {item.name: document[item.name] for item in fields(Media) if item.name != "id"}
    return Media(
        **known
        | {
            "id": document["_id"],
            "tags": tuple(document["tags"]),
            "visibility": Visibility(document["visibility"]),
            "state": State(document["state"]),
        }
    )
