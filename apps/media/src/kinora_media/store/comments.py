"""Comments and replies. A deleted comment loses its author and text, and stays for its replies."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kinora_kit.events import Event
from kinora_kit.mongo import OUTBOX, Database, Document, DuplicateKeyError, IndexModel, superseding
from kinora_media.domain import Comment, TopPosition
from kinora_media.store import tallies
from kinora_media.store.media import MEDIA
from kinora_media.store.outbox import entries
from kinora_media.store.tallies import DUE, OPEN, Source, Thing

COMMENTS = "comments"

_LIKES = "tally.counters.likes"
_SHOWN = {"$or": [{"removed_at": {"$exists": False}}, {"tally.counters.replies": {"$gt": 0}}]}


def _amounts(document: Document) -> tallies.Counters:
    own = 0 if "removed_at" in document else 1
    if document["parent_id"]:
        return {"replies": own}
    return {"comments": own + document["tally"]["counters"]["replies"]}


SOURCE = Source(COMMENTS, _amounts, fields=["parent_id", "removed_at", "tally.counters"], author="author_id")


def thing(comment: Comment) -> Thing:
    """Where it counts: a reply in its comment, which counts in its media document."""
    return Thing(COMMENTS, comment.parent_id) if comment.parent_id else Thing(MEDIA, comment.media_id)


def parent(document: Document) -> Thing:
    """As thing."""
    if document["parent_id"]:
        return Thing(COMMENTS, document["parent_id"])
    return Thing(MEDIA, document["media_id"])


def indexes() -> dict[str, list[IndexModel]]:
    of_thread = [("media_id", 1), ("parent_id", 1)]
    return {
        COMMENTS: [
            IndexModel([*of_thread, ("_id", -1)], name="newest"),
            IndexModel([*of_thread, (_LIKES, -1), ("_id", -1)], name="top"),
            IndexModel([("author_id", 1), ("key", 1)], unique=True, sparse=True, name="author"),
            DUE,
            OPEN,
        ]
    }


async def find(database: Database, comment_id: UUID) -> Comment | None:
    document = await database[COMMENTS].find_one({"_id": comment_id, "gone": {"$exists": False}})
    return None if document is None else _comment(document)


async def many(database: Database, ids: Sequence[UUID]) -> list[Comment]:
    """In no particular order."""
    found = database[COMMENTS].find({"_id": {"$in": list(ids)}, "gone": {"$exists": False}})
    return [_comment(document) async for document in found]


async def newest(database: Database, media_id: UUID, *, before: UUID | None, limit: int) -> list[Comment]:
    """Comments without replies, newest first, with ids below ``before``."""
    below = {} if before is None else {"_id": {"$lt": before}}
    query = {"media_id": media_id, "parent_id": None, **below, **_SHOWN}
    found = database[COMMENTS].find(query).sort("_id", -1).limit(limit)
    return [_comment(document) async for document in found]


async def top(database: Database, media_id: UUID, *, after: TopPosition | None, limit: int) -> list[Comment]:
    """Comments without replies, most liked first, below ``after``."""
    query: Document = {"media_id": media_id, "parent_id": None, "$and": [_SHOWN]}
    if after is not None:
        # The first range bounds the scan of the index, the second only skips equal numbers.
        query |= {_LIKES: {"$lte": after.likes}, "$or": [{_LIKES: {"$lt": after.likes}}, {"_id": {"$lt": after.id}}]}
    found = database[COMMENTS].find(query).sort([(_LIKES, -1), ("_id", -1)]).limit(limit)
    return [_comment(document) async for document in found]


async def replies(database: Database, comment: Comment, *, after: UUID | None, limit: int) -> list[Comment]:
    """Oldest first, with ids above ``after``."""
    above = {} if after is None else {"_id": {"$gt": after}}
    query = {"media_id": comment.media_id, "parent_id": comment.id, "removed_at": {"$exists": False}, **above}
    found = database[COMMENTS].find(query).sort("_id", 1).limit(limit)
    return [_comment(document) async for document in found]


async def insert(database: Database, comment: Comment, *, key: str, events: Sequence[Event]) -> Comment | None:
    """The comment; the earlier one if its author has used ``key`` already, None if that was deleted meanwhile."""
    document = {
        "_id": comment.id,
        "media_id": comment.media_id,
        "owner_id": comment.owner_id,
        "author_id": comment.author_id,
        "parent_id": comment.parent_id,
        "key": key,
        "body": comment.body,
        "created_at": comment.created_at,
        "edited_at": comment.edited_at,
        "version": comment.version,
        "tally": {"counters": {"likes": 0, "replies": 0}},
        "count": tallies.new(thing(comment)),
        OUTBOX: entries(events),
    }
    try:
        await database[COMMENTS].insert_one(document)
    except DuplicateKeyError:
        found = await database[COMMENTS].find_one({"author_id": comment.author_id, "key": key})
        return None if found is None else _comment(found)
    return comment


async def edit(database: Database, comment: Comment) -> bool:
    """Save text and time of the edit. False if the comment was changed concurrently."""
    changes = {"body": comment.body, "edited_at": comment.edited_at, "version": comment.version}
    current = {"_id": comment.id, "version": comment.version - 1, "removed_at": {"$exists": False}}
    return (await database[COMMENTS].update_one(current, {"$set": changes})).matched_count == 1


_EMPTIED = {"author_id": "$$REMOVE", "key": "$$REMOVE", "body": "", "edited_at": None}


async def remove(database: Database, comment: Comment, *, at: datetime, events: Sequence[Event]) -> bool:
    """Remove author and text. False if that happened already."""
    change = {
        **_EMPTIED,
        "removed_at": at,
        "count.version": {"$add": ["$count.version", 1]},
        "count.due": comment.parent_id or comment.media_id,
        OUTBOX: superseding(entries(events)),
    }
    current = {"_id": comment.id, "removed_at": {"$exists": False}}
    return (await database[COMMENTS].update_one(current, [{"$set": change}])).matched_count == 1


async def remove_of_user(database: Database, user_id: UUID, *, at: datetime) -> None:
    """Remove the comments of a deleted account; the counters follow."""
    change: Document = {
        **_EMPTIED,
        "removed_at": at,
        "count.version": {"$add": ["$count.version", 1]},
        "count.due": {"$ifNull": ["$parent_id", "$media_id"]},
        OUTBOX: [],
    }
    await database[COMMENTS].update_many({"author_id": user_id}, [{"$set": change}])


async def ids_of(database: Database, media_id: UUID, *, limit: int) -> list[UUID]:
    found = database[COMMENTS].find({"media_id": media_id}, {"_id": True}).limit(limit)
    return [document["_id"] async for document in found]


async def delete(database: Database, ids: Sequence[UUID]) -> None:
    await database[COMMENTS].delete_many({"_id": {"$in": list(ids)}})


def _comment(document: Document) -> Comment:
    counters = document["tally"]["counters"]
    return Comment(
        id=document["_id"],
        media_id=document["media_id"],
        owner_id=document["owner_id"],
        author_id=document.get("author_id"),
        parent_id=document["parent_id"],
        body=document["body"],
        created_at=document["created_at"],
        edited_at=document["edited_at"],
        version=document["version"],
        likes=counters["likes"],
        replies=counters["replies"],
    )
