"""What is stored about a user, for the export of one's own data."""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from kinora_kit.export import PAGE_RECORDS, Exporter, Record
from kinora_kit.postgres import Pool
from kinora_video import store

KINDS = {"video": store.export_videos, "partial_upload": store.export_partials}
TABLES = {"videos", "renditions", "partials"}
"""Those of which the export has the rows."""
NOT_EXPORTED = {
    "parts": "how the encoding of a video is divided",
    "segments": "how the stored streams are divided",
    "outbox": "events that have not been published yet",
    "inbox": "ids of events",
    "schema_migrations": "of the schema",
}
"""The other tables, and why."""


def exporter(pool: Pool, *, page_records: int = PAGE_RECORDS) -> Exporter:
    return Exporter({name: partial(_page, pool, name) for name in KINDS}, page_records)


async def _page(pool: Pool, kind: str, user_id: UUID, after: str, limit: int) -> Sequence[tuple[str, Record]]:
    found = await KINDS[kind](pool, user_id, after=UUID(after) if after else None, limit=limit)
    return [(row["id"], row) for row in found]
