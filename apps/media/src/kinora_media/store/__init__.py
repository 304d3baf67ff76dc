"""The only place with MongoDB queries, in modules by collection.

Each write changes one document and includes the events it causes, so no transaction is needed.
"""

from kinora_kit.mongo import OUTBOX_INDEX, IndexModel
from kinora_media.store import (
    channels,
    comments,
    drafts,
    history,
    impressions,
    marks,
    media,
    notifications,
    playlists,
    popularity,
    views,
)
from kinora_media.store.tallies import Tally

SECONDS_PER_DAY = 24 * 3600

TALLIES = (
    Tally(
        media.MEDIA,
        [*marks.sources(media.MEDIA), comments.SOURCE, views.SOURCE, history.SOURCE],
        parent=media.channel,
        fields=["owner_id"],
        carried=media.CARRIED,
    ),
    Tally(
        comments.COMMENTS,
        [*marks.sources(comments.COMMENTS), comments.SOURCE],
        parent=comments.parent,
        fields=["media_id", "parent_id"],
        carried=["replies"],
    ),
    Tally(
        channels.CHANNELS, [*marks.sources(channels.CHANNELS), media.SOURCE, playlists.SOURCE], creates=True, daily=True
    ),
)

OUTBOXES = (
    media.MEDIA,
    channels.CHANNELS,
    comments.COMMENTS,
    history.HISTORY,
    impressions.IMPRESSIONS,
    playlists.PLAYLISTS,
    views.VIEWS,
    *(kind.collection for kind in marks.KINDS),
)
"""Collections whose documents have events to publish."""


def indexes(*, tombstone_days: int) -> dict[str, list[IndexModel]]:
    """By collection."""
    tombstones = IndexModel(
        "deleted_at", expireAfterSeconds=tombstone_days * SECONDS_PER_DAY, sparse=True, name="tombstones"
    )
    declared = (
        media.indexes(tombstones=tombstones)
        | channels.indexes(tombstones=tombstones)
        | drafts.indexes()
        | marks.indexes()
        | comments.indexes()
        | history.indexes()
        | views.indexes()
        | playlists.indexes()
        | notifications.indexes()
        | impressions.indexes()
        | popularity.indexes()
    )
    return {name: [*found, *([OUTBOX_INDEX] if name in OUTBOXES else [])] for name, found in declared.items()}
