"""The only place with MongoDB queries, in modules by collection.

Each write changes one document and includes the events it causes, so no transaction is needed.
"""

from kinora_kit.mongo import Database, IndexModel
from kinora_media.store import channels, comments, drafts, likes, media, popularity
from kinora_media.store.tallies import Tally

SECONDS_PER_DAY = 24 * 3600

TALLIES = (
    Tally(
        media.MEDIA,
        [likes.source(media.MEDIA), comments.SOURCE],
        parent=media.channel,
        fields=["owner_id"],
        carried=media.CARRIED,
    ),
    Tally(
        comments.COMMENTS,
        [likes.source(comments.COMMENTS), comments.SOURCE],
        parent=comments.parent,
        fields=["media_id", "parent_id"],
        carried=["replies"],
    ),
    Tally(channels.CHANNELS, [media.SOURCE], creates=True, daily=True),
)

OUTBOXES = (media.MEDIA, likes.OF_MEDIA, comments.COMMENTS)
"""Collections whose documents have events to publish."""


def indexes(*, tombstone_days: int) -> dict[str, list[IndexModel]]:
    """By collection."""
    tombstones = IndexModel(
        "deleted_at", expireAfterSeconds=tombstone_days * SECONDS_PER_DAY, sparse=True, name="tombstones"
    )
    return (
        media.indexes(tombstones=tombstones)
        | channels.indexes(tombstones=tombstones)
        | drafts.indexes()
        | likes.indexes()
        | comments.indexes()
        | popularity.indexes()
    )


async def ensure_indexes(database: Database, *, tombstone_days: int) -> None:
    for collection, declared in indexes(tombstone_days=tombstone_days).items():
        await database[collection].create_indexes(declared)
