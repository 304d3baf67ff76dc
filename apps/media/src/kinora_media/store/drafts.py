"""What the owner said of a video before its upload was created.

A draft may describe several videos: creating an upload may be repeated, and one of them stays unused. It is deleted
with any of its videos, or by the store some days later.
"""

from datetime import timedelta
from uuid import UUID

from kinora_kit.mongo import Database, IndexModel
from kinora_media.domain import Media
from kinora_media.store.media import document_of, media_of

DRAFTS = "drafts"
KEPT = timedelta(days=7)
"""``video.upload_started`` follows within milliseconds; longer only during an outage of the broker."""


def indexes() -> dict[str, list[IndexModel]]:
    return {
        DRAFTS: [
            IndexModel([("owner_id", 1), ("_id", 1)], name="owner"),
            IndexModel("video_ids", sparse=True, name="videos"),
            IndexModel("created_at", expireAfterSeconds=int(KEPT.total_seconds()), name="expiry"),
        ]
    }


async def insert(database: Database, draft: Media) -> None:
    await database[DRAFTS].insert_one({"_id": draft.id, **document_of(draft)})


async def use(database: Database, draft_id: UUID, owner_id: UUID, video_id: UUID) -> Media | None:
    """The draft, which describes this video from now on. None if it is another user's: uploads may name any."""
    document = await database[DRAFTS].find_one_and_update(
        {"_id": draft_id, "owner_id": owner_id}, {"$addToSet": {"video_ids": video_id}}
    )
    return None if document is None else media_of(document)


async def delete_of_video(database: Database, video_id: UUID) -> None:
    await database[DRAFTS].delete_many({"video_ids": video_id})


async def delete_of(database: Database, owner_id: UUID) -> None:
    await database[DRAFTS].delete_many({"owner_id": owner_id})
