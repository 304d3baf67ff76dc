"""Channels: users as owners of videos. A deleted account leaves a tombstone under its id."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from kinora_kit.mongo import Database, IndexModel
from kinora_media.domain import Channel
from kinora_media.store.tallies import OPEN

CHANNELS = "channels"


def indexes(*, tombstones: IndexModel) -> dict[str, list[IndexModel]]:
    return {CHANNELS: [OPEN, tombstones]}


async def many(database: Database, user_ids: Sequence[UUID]) -> dict[UUID, Channel]:
    """By user; without those whose accounts were deleted."""
    found = {user_id: Channel(user_id) for user_id in user_ids}
    async for document in database[CHANNELS].find(
        {"_id": {"$in": list(user_ids)}}, {"tally.counters": True, "deleted_at": True}
    ):
        if "deleted_at" in document:
            del found[document["_id"]]
        else:
            found[document["_id"]] = Channel(document["_id"], **document["tally"]["counters"])
    return found


async def delete(database: Database, user_id: UUID, *, at: datetime) -> None:
    """Replace the channel by a tombstone."""
    await database[CHANNELS].replace_one({"_id": user_id}, {"deleted_at": at}, upsert=True)


async def deleted(database: Database, user_ids: Iterable[UUID]) -> set[UUID]:
    """Those whose accounts were deleted."""
    ids = list(user_ids)
    if not ids:
        return set()
    found = database[CHANNELS].find({"_id": {"$in": ids}, "deleted_at": {"$exists": True}}, {"_id": True})
    return {document["_id"] async for document in found}
