"""Notifications of users. A dismissed one stays until it expires, so that a late event does not bring it back."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from kinora_kit.mongo import Database, Document, IndexModel, UpdateOne
from kinora_media.domain import Notification, NotificationKind, NotificationState, Position

NOTIFICATIONS = "notifications"
KEPT = timedelta(days=90)
"""Older ones are no news, and a user's number of them stays bounded."""


def indexes() -> dict[str, list[IndexModel]]:
    return {
        NOTIFICATIONS: [
            IndexModel([("user_id", 1), ("state", 1), ("at", -1), ("_id", -1)], name="user"),
            IndexModel([("subject_id", 1), ("_id", 1)], name="subject"),
            IndexModel("media_id", name="media"),
            IndexModel("actor_id", sparse=True, name="actor"),
            IndexModel("at", expireAfterSeconds=int(KEPT.total_seconds()), name="expiry"),
        ]
    }


async def insert(database: Database, notifications: Sequence[Notification]) -> None:
    """Those that exist already stay as they are."""
    writes = [UpdateOne({"_id": each.id}, {"$setOnInsert": _document(each)}, upsert=True) for each in notifications]
    await database[NOTIFICATIONS].bulk_write(writes, ordered=False)


async def many(database: Database, user_id: UUID, ids: Sequence[UUID]) -> list[Notification]:
    """A user's own, in no particular order."""
    query = {"_id": {"$in": list(ids)}, "user_id": user_id, "state": {"$ne": str(NotificationState.DISMISSED)}}
    return [_notification(document) async for document in database[NOTIFICATIONS].find(query)]


async def page(
    database: Database, user_id: UUID, states: Collection[NotificationState], *, after: Position | None, limit: int
) -> list[Notification]:
    """A user's own, newest first, below ``after``."""
    query: Document = {"user_id": user_id, "state": {"$in": sorted(map(str, states))}}
    if after is not None:
        # The first range bounds the scan of the index, the second only skips equal times.
        query |= {"at": {"$lte": after.at}, "$or": [{"at": {"$lt": after.at}}, {"_id": {"$lt": after.id}}]}
    found = database[NOTIFICATIONS].find(query).sort([("at", -1), ("_id", -1)]).limit(limit)
    return [_notification(document) async for document in found]


async def read(database: Database, user_id: UUID, ids: Sequence[UUID]) -> None:
    """Mark a user's own as read."""
    query = {"_id": {"$in": list(ids)}, "user_id": user_id, "state": str(NotificationState.UNREAD)}
    await database[NOTIFICATIONS].update_many(query, {"$set": {"state": str(NotificationState.READ)}})


async def read_until(database: Database, user_id: UUID, at: datetime) -> None:
    """Mark all of a user up to a time as read."""
    query = {"user_id": user_id, "state": str(NotificationState.UNREAD), "at": {"$lte": at}}
    await database[NOTIFICATIONS].update_many(query, {"$set": {"state": str(NotificationState.READ)}})


async def dismiss(database: Database, user_id: UUID, notification_id: UUID) -> bool:
    """False if the user has no such notification."""
    dismissed = str(NotificationState.DISMISSED)
    query = {"_id": notification_id, "user_id": user_id, "state": {"$ne": dismissed}}
    result = await database[NOTIFICATIONS].update_one(query, {"$set": {"state": dismissed}})
    return result.matched_count == 1


async def recipients(
    database: Database, subject_id: UUID, *, after: UUID | None, limit: int
) -> list[tuple[UUID, UUID]]:
    """The ids of a subject's notifications, in ascending order above ``after``, each with its recipient."""
    query: Document = {"subject_id": subject_id}
    if after is not None:
        query["_id"] = {"$gt": after}
    found = database[NOTIFICATIONS].find(query, {"user_id": True}).sort("_id", 1).limit(limit)
    return [(document["_id"], document["user_id"]) async for document in found]


async def delete(database: Database, ids: Sequence[UUID]) -> None:
    await database[NOTIFICATIONS].delete_many({"_id": {"$in": list(ids)}})


async def delete_of_subject(database: Database, subject_id: UUID) -> None:
    await database[NOTIFICATIONS].delete_many({"subject_id": subject_id})


async def delete_of_media(database: Database, media_id: UUID) -> None:
    """Of a deleted document and its comments."""
    await database[NOTIFICATIONS].delete_many({"media_id": media_id})


async def delete_of_user(database: Database, user_id: UUID) -> None:
    """Those that a deleted account received or caused."""
    await database[NOTIFICATIONS].delete_many({"user_id": user_id})
    await database[NOTIFICATIONS].delete_many({"actor_id": user_id})


def _document(notification: Notification) -> Document:
    document = {
        "user_id": notification.user_id,
        "kind": str(notification.kind),
        "media_id": notification.media_id,
        "subject_id": notification.subject_id,
        "at": notification.at,
        "state": str(notification.state),
    }
    return document | ({"actor_id": notification.actor_id} if notification.actor_id else {})


def _notification(document: Document) -> Notification:
    return Notification(
        user_id=document["user_id"],
        kind=NotificationKind(document["kind"]),
        media_id=document["media_id"],
        subject_id=document["subject_id"],
        at=document["at"],
        state=NotificationState(document["state"]),
        actor_id=document.get("actor_id"),
    )
