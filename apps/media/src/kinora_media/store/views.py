"""Views: what each viewer has watched of a media document in each hour, without who it was.

They expire after VIEW_DAYS; the counters keep them.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from kinora_kit.events import Event
from kinora_kit.mongo import OUTBOX, Database, Document, DuplicateKeyError, IndexModel, superseding
from kinora_media.domain import View
from kinora_media.store import tallies
from kinora_media.store.media import MEDIA
from kinora_media.store.outbox import entries
from kinora_media.store.tallies import DUE, Source, Thing

VIEWS = "views"
SALTS = "view_salts"
VIEW_DAYS = 2
WATCHED = "watched"
"""Counters of those who watched a part, by its number: ``watched.7``."""


def _amounts(document: Document) -> tallies.Counters:
    if not document["counted"]:
        return {}
    bins = {f"{WATCHED}.{number}": 1 for number in document["bins"]}
    return bins if document["continued"] else {"views": 1, **bins}


SOURCE = Source(VIEWS, _amounts, fields=["counted", "continued", "bins"])


def indexes() -> dict[str, list[IndexModel]]:
    expired = IndexModel("expires_at", expireAfterSeconds=0, name="expired")
    return {VIEWS: [DUE, IndexModel("media_id", name="media"), expired], SALTS: [expired]}


async def salt(database: Database, day: str, proposed: bytes, *, until: datetime) -> bytes:
    """The salt of a day's viewers: the same for all processes."""
    try:
        await database[SALTS].insert_one({"_id": day, "salt": proposed, "expires_at": until})
    except DuplicateKeyError:
        document = await database[SALTS].find_one({"_id": day})
        if document is not None:
            found: bytes = document["salt"]
            return found
    return proposed


async def find(database: Database, view_id: bytes) -> View | None:
    document = await database[VIEWS].find_one({"_id": view_id})
    if document is None:
        return None
    return View(
        id=view_id,
        media_id=document["media_id"],
        position=document["position"],
        at=document["at"],
        seconds=document["seconds"],
        bins=frozenset(document["bins"]),
        counted=document["counted"],
        continued=document["continued"],
        version=document["count"]["version"],
    )


async def save(database: Database, view: View, events: Sequence[Event]) -> bool:
    """False unless its version is one above that of the stored view, 1 if there is none."""
    fields: Document = {
        "position": view.position,
        "at": view.at,
        "seconds": view.seconds,
        "bins": sorted(view.bins),
        "counted": view.counted,
        "continued": view.continued,
        "expires_at": view.at + timedelta(days=VIEW_DAYS),
    }
    thing = Thing(MEDIA, view.media_id)
    if view.version == 1:
        count = tallies.new(thing) if view.counted else tallies.idle()
        try:
            await database[VIEWS].insert_one(
                {"_id": view.id, "media_id": view.media_id, **fields, "count": count, OUTBOX: entries(events)}
            )
        except DuplicateKeyError:
            return False
        return True
    change = {**fields, "count.version": view.version}
    if view.counted:
        change |= {"count.tally": thing.collection, "count.due": thing.id}
    if events:
        change[OUTBOX] = superseding(entries(events))
    current = {"_id": view.id, "count.version": view.version - 1}
    return (await database[VIEWS].update_one(current, [{"$set": change}])).matched_count == 1


async def retention(database: Database, media_id: UUID, bins: int) -> list[int]:
    """How many views have watched each part."""
    document = await database[MEDIA].find_one({"_id": media_id}, {f"tally.counters.{WATCHED}": True})
    parts = (document or {}).get("tally", {}).get("counters", {}).get(WATCHED, {})
    return [parts.get(str(number), 0) for number in range(bins)]


async def delete_of(database: Database, media_id: UUID) -> None:
    """Delete the views of a deleted document."""
    await database[VIEWS].delete_many({"media_id": media_id})
