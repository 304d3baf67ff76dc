"""Epochs of popularity (docs/adr/0022-popularity.md): one document, whose lease is timed by the server's clock."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from pymongo import ReturnDocument

from kinora_kit.mongo import Database, Document, IndexModel, UpdateOne
from kinora_media.store.media import MEDIA, SCORES

POPULARITY = "popularity"
_ID = "epoch"
_NOW: Document = {"$toLong": "$$NOW"}
"""In milliseconds, because the stand-in for MongoDB compares dates wrongly in expressions."""


@dataclass(frozen=True)
class Epoch:
    """``building``: the scores of the next one are being written, over those of the previous one."""

    number: int = 0
    building: bool = False

    @property
    def slot(self) -> str:
        """The field with the scores of this epoch."""
        return SCORES[self.number % len(SCORES)]

    def serves(self, number: int) -> bool:
        """Whether a list that began in an epoch can be continued."""
        return number == self.number or (number == self.number - 1 and not self.building)


@dataclass(frozen=True)
class Lease:
    """Of the one process that builds an epoch. ``until``: milliseconds since 1970."""

    holder: UUID
    building: Epoch
    until: int


def indexes() -> dict[str, list[IndexModel]]:
    return {POPULARITY: []}


async def current(database: Database) -> Epoch:
    found = await database[POPULARITY].find_one({"_id": _ID})
    return Epoch(found["number"], found["building"]) if found else Epoch()


async def claim(database: Database, holder: UUID, *, age_ms: int, lease_ms: int) -> Lease | None:
    """Begin to build the next epoch, or go on where a process died.

    None if the current epoch is younger than ``age_ms``, or another process holds the lease.
    """
    new = {"number": 0, "building": False, "holder": None, "until": 0, "since": 0}
    await database[POPULARITY].update_one({"_id": _ID}, {"$setOnInsert": new}, upsert=True)
    old = {"$or": ["$building", {"$lte": [{"$add": ["$since", age_ms]}, _NOW]}]}
    free = {"$and": [old, {"$lte": ["$until", _NOW]}]}
    taken = {"building": True, "holder": {"$literal": holder}, "until": {"$add": [_NOW, lease_ms]}}
    return await _change(database, holder, free, taken)


async def extend(database: Database, lease: Lease, *, lease_ms: int) -> Lease | None:
    """None if it has expired."""
    return await _change(database, lease.holder, _held(lease), {"until": {"$add": [_NOW, lease_ms]}})


async def flip(database: Database, lease: Lease) -> bool:
    """Let the epoch that was built be the current one. False if the lease has expired."""
    finished = {"number": lease.building.number, "building": False, "until": 0, "since": _NOW}
    return await _change(database, lease.holder, _held(lease), finished) is not None


async def write(database: Database, lease: Lease, scores: Mapping[UUID, int]) -> None:
    """Write scores of the epoch that is being built; without effect once the lease has expired.

    The server compares with its clock when it writes, so a process that was suspended changes no score of an epoch that
    another one has completed in the meantime.
    """
    slot = lease.building.slot
    operations = [
        UpdateOne({"_id": media_id}, [{"$set": {slot: {"$cond": [{"$lt": [_NOW, lease.until]}, score, f"${slot}"]}}}])
        for media_id, score in scores.items()
    ]
    if operations:
        await database[MEDIA].bulk_write(operations, ordered=False)


def _held(lease: Lease) -> Document:
    return {"$and": [{"$eq": ["$holder", {"$literal": lease.holder}]}, {"$lt": [_NOW, "$until"]}]}


async def _change(database: Database, holder: UUID, condition: Document, values: Document) -> Lease | None:
    """Set ``values`` where ``condition`` holds, and return the lease; otherwise None."""
    change = {name: {"$cond": ["$allowed", value, f"${name}"]} for name, value in values.items()}
    found = await database[POPULARITY].find_one_and_update(
        {"_id": _ID}, [{"$set": {"allowed": condition}}, {"$set": change}], return_document=ReturnDocument.AFTER
    )
    if found is None or not found["allowed"]:
        return None
    return Lease(holder, Epoch(found["number"] + 1), found["until"])
