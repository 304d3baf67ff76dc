"""What is stored about a user, by kind of record, for the export of one's own data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from bson import json_util
from bson.binary import UuidRepresentation

from kinora_kit.mongo import OUTBOX, Database, Document
from kinora_media.domain import NotificationState
from kinora_media.store.channels import CHANNELS
from kinora_media.store.comments import COMMENTS
from kinora_media.store.drafts import DRAFTS
from kinora_media.store.history import HISTORY
from kinora_media.store.marks import KINDS as MARKS
from kinora_media.store.media import FACETS, MEDIA, SCORES
from kinora_media.store.notifications import NOTIFICATIONS
from kinora_media.store.playlists import PLAYLISTS

_INTERNAL = dict.fromkeys((OUTBOX, "count", "tally.batch", "tally.open", "tally.version", FACETS, *SCORES), False)
MILLISECOND = timedelta(milliseconds=1)
POSITION = json_util.JSONOptions(uuid_representation=UuidRepresentation.STANDARD, tz_aware=True)


@dataclass(frozen=True)
class Kind:
    """Documents of a collection whose field ``user`` is the user's id, in the order of an index."""

    collection: str
    user: str
    order: tuple[str, ...]
    """The fields of the index after ``user`` and ``where``: one that identifies a document, or a time before it.
    Ascending, so that what changes meanwhile is not skipped. None for the only document of a user."""
    where: Mapping[str, object] = field(default_factory=dict)


KINDS = {
    "channel": Kind(CHANNELS, "_id", ()),
    "media": Kind(MEDIA, "owner_id", ("_id",)),
    "draft": Kind(DRAFTS, "owner_id", ("_id",)),
    "comment": Kind(COMMENTS, "author_id", ("key",)),
    "playlist": Kind(PLAYLISTS, "owner_id", ("_id",)),
    **{
        f"{state}_notifications": Kind(NOTIFICATIONS, "user_id", ("at", "_id"), {"state": str(state)})
        for state in NotificationState
    },
    "history": Kind(HISTORY, "user_id", ("at", "_id")),
    **{mark.collection: Kind(mark.collection, "user_id", ("at", "_id"), {"on": True}) for mark in MARKS},
    **{
        f"{mark.collection}_withdrawn": Kind(mark.collection, "user_id", ("at", "_id"), {"on": False}) for mark in MARKS
    },
}

NOT_EXPORTED = {
    "views": "names no user: viewers are hashed with a salt that is deleted after two days",
    "view_salts": "names no user",
    "impressions": "names no user: the ids are hashed with a daily salt",
    "popularity": "names no user",
}
"""The collections without a kind, and why."""


async def page(database: Database, kind: Kind, user_id: UUID, after: str, limit: int) -> list[tuple[str, Document]]:
    """Documents with their positions, after the position ``after``."""
    query: Document = {kind.user: user_id, **kind.where}
    if after and not kind.order:
        return []
    if after:
        query |= _above(dict(zip(kind.order, json_util.loads(after, json_options=POSITION), strict=True)))
    found = (
        database[kind.collection]
        .find(query, _INTERNAL)
        .sort([(name, 1) for name in kind.order or ["_id"]])
        .limit(limit)
    )
    return [(_position(kind, document), _record(document)) async for document in found]


def _above(position: dict[str, Any]) -> Document:
    last, value = position.popitem()
    above: Document = {last: {"$gt": value}}
    for name, at in position.items():
        # The first range bounds the scan of the index, the second only skips equal times. In milliseconds, as stored:
        # with a descending index, the stand-in for MongoDB takes $gte for $gt.
        above = {name: {"$gt": at - MILLISECOND}, "$or": [{name: {"$gt": at}}, above]}
    return above


def _position(kind: Kind, document: Document) -> str:
    return json_util.dumps([document[name] for name in kind.order], json_options=POSITION)


def _record(document: Document) -> Document:
    """With its id, if that is more than the ids that the document has anyway."""
    document_id = document.pop("_id")
    return {"id": document_id, **document} if isinstance(document_id, UUID) else document
