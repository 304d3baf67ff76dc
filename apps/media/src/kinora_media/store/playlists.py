"""Playlists, each with its items in one document."""

from collections.abc import Sequence
from uuid import UUID

from kinora_kit.events import Event
from kinora_kit.mongo import OUTBOX, Database, Document, DuplicateKeyError, IndexModel
from kinora_media.domain import Item, Playlist, PlaylistKind, Visibility
from kinora_media.store import tallies
from kinora_media.store.channels import CHANNELS
from kinora_media.store.outbox import entries
from kinora_media.store.tallies import DUE, Source, Thing

PLAYLISTS = "playlists"

SOURCE = Source(PLAYLISTS, lambda _: {}, fields=[], author="owner_id")
"""Counts nothing: it is removed with its owner."""


def indexes() -> dict[str, list[IndexModel]]:
    return {
        PLAYLISTS: [
            DUE,
            IndexModel([("owner_id", 1), ("_id", -1)], name="owner"),
            IndexModel([("key", 1), ("owner_id", 1)], unique=True, name="key"),
            IndexModel("items.media_id", name="media"),
        ]
    }


async def find(database: Database, playlist_id: UUID) -> Playlist | None:
    document = await database[PLAYLISTS].find_one({"_id": playlist_id, "gone": {"$exists": False}})
    return None if document is None else _playlist(document)


async def many(database: Database, ids: Sequence[UUID]) -> list[Playlist]:
    """In no particular order."""
    found = database[PLAYLISTS].find({"_id": {"$in": list(ids)}, "gone": {"$exists": False}})
    return [_playlist(document) async for document in found]


async def page(database: Database, owner_id: UUID, *, public: bool, before: UUID | None, limit: int) -> list[Playlist]:
    """Newest first, with ids below ``before``; ``public``: only public ones."""
    query: Document = {"owner_id": owner_id, "gone": {"$exists": False}}
    if public:
        query["visibility"] = str(Visibility.PUBLIC)
    if before is not None:
        query["_id"] = {"$lt": before}
    found = database[PLAYLISTS].find(query).sort("_id", -1).limit(limit)
    return [_playlist(document) async for document in found]


async def ids_of(database: Database, owner_id: UUID, *, limit: int) -> list[UUID]:
    found = database[PLAYLISTS].find({"owner_id": owner_id}, {"_id": True}).limit(limit)
    return [document["_id"] async for document in found]


async def with_key(database: Database, owner_id: UUID, key: str) -> Playlist | None:
    """What its owner created with a key."""
    document = await database[PLAYLISTS].find_one({"owner_id": owner_id, "key": key})
    return None if document is None else _playlist(document)


async def insert(database: Database, playlist: Playlist, *, key: str) -> bool:
    """False if its owner has used ``key`` already."""
    count = tallies.new(Thing(CHANNELS, playlist.owner_id))
    try:
        await database[PLAYLISTS].insert_one(
            {"_id": playlist.id, "owner_id": playlist.owner_id, "key": key, **_fields(playlist), "count": count}
        )
    except DuplicateKeyError:
        return False
    return True


async def update(database: Database, playlist: Playlist, events: Sequence[Event]) -> bool:
    """False unless its version is one above that of the stored playlist."""
    change: Document = {"$set": _fields(playlist)}
    if events:
        change["$push"] = {OUTBOX: {"$each": entries(events)}}
    current = {"_id": playlist.id, "version": playlist.version - 1, "gone": {"$exists": False}}
    return (await database[PLAYLISTS].update_one(current, change)).matched_count == 1


async def delete(database: Database, playlist_id: UUID) -> None:
    await database[PLAYLISTS].delete_one({"_id": playlist_id})


async def delete_of_user(database: Database, owner_id: UUID) -> None:
    await database[PLAYLISTS].delete_many({"owner_id": owner_id})


async def remove_media(database: Database, media_id: UUID) -> None:
    """Remove a deleted document from all playlists."""
    change = {"$pull": {"items": {"media_id": media_id}}, "$inc": {"version": 1}}
    await database[PLAYLISTS].update_many({"items.media_id": media_id}, change)


def _fields(playlist: Playlist) -> Document:
    return {
        "title": playlist.title,
        "visibility": str(playlist.visibility),
        "kind": str(playlist.kind),
        "items": [{"media_id": item.media_id, "added_at": item.added_at} for item in playlist.items],
        "created_at": playlist.created_at,
        "updated_at": playlist.updated_at,
        "version": playlist.version,
    }


def _playlist(document: Document) -> Playlist:
    return Playlist(
        id=document["_id"],
        owner_id=document["owner_id"],
        title=document["title"],
        visibility=Visibility(document["visibility"]),
        kind=PlaylistKind(document["kind"]),
        items=tuple(Item(item["media_id"], item["added_at"]) for item in document["items"]),
        created_at=document["created_at"],
        updated_at=document["updated_at"],
        version=document["version"],
    )
