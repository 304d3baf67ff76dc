"""The only place with MongoDB queries, in modules by collection.

Each write changes one document and includes the events it causes, so no transaction is needed.
"""

from kinora_kit.mongo import Database, IndexModel
from kinora_media.store import media


def indexes(*, tombstone_days: int) -> dict[str, list[IndexModel]]:
    """By collection."""
    return media.indexes(tombstone_days=tombstone_days)


async def ensure_indexes(database: Database, *, tombstone_days: int) -> None:
    for collection, declared in indexes(tombstone_days=tombstone_days).items():
        await database[collection].create_indexes(declared)
