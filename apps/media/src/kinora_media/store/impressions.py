"""Which impressions were recorded, so that a repeated request records none twice. Nothing of a user is stored, except
in the event until the broker has it."""

from datetime import datetime, timedelta
from uuid import UUID

from kinora_kit.events import Event
from kinora_kit.mongo import OUTBOX, Database, DuplicateKeyError, IndexModel
from kinora_media.store.outbox import entries

IMPRESSIONS = "impressions"
KEPT = timedelta(days=1)
"""How long a client may repeat a request."""


def indexes() -> dict[str, list[IndexModel]]:
    expiry = IndexModel("created_at", expireAfterSeconds=int(KEPT.total_seconds()), name="expiry")
    return {IMPRESSIONS: [expiry]}


async def insert(database: Database, batch_id: UUID, event: Event, *, at: datetime) -> bool:
    """False if it was recorded already."""
    try:
        await database[IMPRESSIONS].insert_one({"_id": batch_id, "created_at": at, OUTBOX: entries([event])})
    except DuplicateKeyError:
        return False
    return True
