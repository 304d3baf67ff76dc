"""Likes of media documents and of comments. A like that was withdrawn stays, so that its version never restarts."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from kinora_kit.events import Event
from kinora_kit.mongo import OUTBOX, Database, Document, DuplicateKeyError, IndexModel, superseding
from kinora_media.domain import Like, Position
from kinora_media.store import tallies
from kinora_media.store.comments import COMMENTS
from kinora_media.store.media import MEDIA, entries
from kinora_media.store.tallies import DUE, Source, Thing

OF_MEDIA = "likes"
OF_COMMENTS = "comment_likes"
_OF = {MEDIA: OF_MEDIA, COMMENTS: OF_COMMENTS}


def source(collection: str) -> Source:
    def amounts(document: Document) -> tallies.Counters:
        return {"likes": 1} if document["on"] else {}

    return Source(_OF[collection], amounts, fields=["on"], author="user_id")


def indexes() -> dict[str, list[IndexModel]]:
    of_user = IndexModel([("user_id", 1), ("on", 1), ("at", -1), ("_id", -1)], name="user")
    of_thing = IndexModel([("thing_id", 1)], name="thing")
    return {OF_MEDIA: [DUE, of_user, of_thing], OF_COMMENTS: [DUE, of_user, of_thing]}


async def find(database: Database, user_id: UUID, thing: Thing) -> Like | None:
    document = await database[_OF[thing.collection]].find_one({"_id": _key(user_id, thing.id)})
    return None if document is None else _like(document)


async def liked(database: Database, user_id: UUID, collection: str, ids: Iterable[UUID]) -> set[UUID]:
    """The ids of those that the user likes."""
    keys = [_key(user_id, thing_id) for thing_id in ids]
    found = database[_OF[collection]].find({"_id": {"$in": keys}, "on": True}, {"thing_id": True})
    return {document["thing_id"] async for document in found}


async def page(database: Database, user_id: UUID, *, after: Position | None, limit: int) -> list[Like]:
    """The user's likes of media documents, newest first, below ``after``."""
    query: Document = {"user_id": user_id, "on": True}
    if after is not None:
        # The first range bounds the scan of the index, the second only skips equal times.
        below = {"_id": {"$lt": _key(user_id, after.id)}}
        query |= {"at": {"$lte": after.at}, "$or": [{"at": {"$lt": after.at}}, below]}
    found = database[OF_MEDIA].find(query).sort([("at", -1), ("_id", -1)]).limit(limit)
    return [_like(document) async for document in found]


async def save(database: Database, collection: str, like: Like, events: Sequence[Event]) -> bool:
    """Save a like of a document in ``collection``, with the events that it causes.

    False unless its version is one above that of the stored like, 1 if there is none.
    """
    likes, key, thing = database[_OF[collection]], _key(like.user_id, like.thing_id), Thing(collection, like.thing_id)
    if like.version == 1:
        document = {"_id": key, "user_id": like.user_id, "thing_id": like.thing_id, "on": like.on, "at": like.at}
        try:
            await likes.insert_one({**document, "count": tallies.new(thing), OUTBOX: entries(events)})
        except DuplicateKeyError:
            return False
        return True
    change = {
        "on": like.on,
        "at": like.at,
        "count.version": like.version,
        "count.due": like.thing_id,
        OUTBOX: superseding(entries(events)),
    }
    current = {"_id": key, "count.version": like.version - 1, "gone": {"$exists": False}}
    return (await likes.update_one(current, [{"$set": change}])).matched_count == 1


async def remove_of_user(database: Database, user_id: UUID) -> None:
    """Remove the likes of a deleted account; the counters follow."""
    change = {"gone": True, "count.version": {"$add": ["$count.version", 1]}, "count.due": "$thing_id"}
    for collection in _OF.values():
        await database[collection].update_many({"user_id": user_id, "gone": {"$exists": False}}, [{"$set": change}])


async def delete_of(database: Database, collection: str, ids: Sequence[UUID]) -> None:
    """Delete the likes of deleted documents."""
    await database[_OF[collection]].delete_many({"thing_id": {"$in": list(ids)}})


def _key(user_id: UUID, thing_id: UUID) -> bytes:
    return thing_id.bytes + user_id.bytes


def _like(document: Document) -> Like:
    return Like(
        user_id=document["user_id"],
        thing_id=document["thing_id"],
        on=document["on"],
        at=document["at"],
        version=document["count"]["version"],
    )
