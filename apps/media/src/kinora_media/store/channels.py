"""Channels: users as owners of videos, and their settings. A deleted account leaves a tombstone under its id."""

import contextlib
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from uuid import UUID

from kinora_kit.events import Event
from kinora_kit.mongo import OUTBOX, Database, Document, DuplicateKeyError, IndexModel, superseding
from kinora_media.domain import Channel, Dashboard, Day
from kinora_media.store.outbox import entries
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
            found[document["_id"]] = Channel(document["_id"], **document.get("tally", {}).get("counters", {}))
    return found


async def dashboard(database: Database, user_id: UUID) -> Dashboard:
    document = await database[CHANNELS].find_one({"_id": user_id}, {"tally.counters": True, "tally.days": True}) or {}
    found = document.get("tally", {})
    days = sorted(found.get("days", {}).items(), reverse=True)
    return Dashboard(
        channel=Channel(user_id, **found.get("counters", {})),
        days=[Day(date.fromisoformat(day), **changes) for day, changes in days],
    )


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


async def keeps_history(database: Database, user_id: UUID) -> bool:
    """Whether the user keeps a watch history: yes, unless it was switched off."""
    document = await database[CHANNELS].find_one({"_id": user_id}, {"history": True})
    return document is None or bool(document.get("history", True))


async def keep_history(database: Database, user_id: UUID, *, on: bool) -> None:
    await _update(database, user_id, {"$set": {"history": on}})


async def note(database: Database, user_id: UUID, events: Sequence[Event]) -> None:
    """Store events that concern a user, each instead of an earlier one of its type."""
    await _update(database, user_id, [{"$set": {OUTBOX: superseding(entries(events))}}])


async def _update(database: Database, user_id: UUID, change: Document | list[Document]) -> None:
    """Nothing happens if the account was deleted."""
    with contextlib.suppress(DuplicateKeyError):  # a tombstone does not match, so the upsert tries to insert its id
        await database[CHANNELS].update_one({"_id": user_id, "deleted_at": {"$exists": False}}, change, upsert=True)
