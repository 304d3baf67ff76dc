"""What belongs to media documents and to users, and is removed with them."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kinora_kit.mongo import Database
from kinora_media.catalogue import Catalogue
from kinora_media.clock import now
from kinora_media.store import comments, history, marks, notifications, playlists, views
from kinora_media.store.channels import CHANNELS
from kinora_media.store.media import MEDIA

BATCH = 1000


@dataclass(frozen=True)
class Belongings:
    """Idempotent. What is written at the same time is removed when it is counted; see tallies.py."""

    database: Database
    catalogue: Catalogue

    async def remove_of_media(self, media_id: UUID) -> None:
        """After the document itself was removed."""
        await marks.delete_of(self.database, MEDIA, [media_id])
        await views.delete_of(self.database, media_id)
        await history.delete_of(self.database, media_id)
        await playlists.remove_media(self.database, media_id)
        while ids := await comments.ids_of(self.database, media_id, limit=BATCH):
            await marks.delete_of(self.database, comments.COMMENTS, ids)
            await comments.delete(self.database, ids)
        await notifications.delete_of_media(self.database, media_id)

    async def remove_history(self, user_id: UUID, until: datetime) -> None:
        await history.delete_until(self.database, user_id, until)

    async def remove_of_user(self, user_id: UUID) -> None:
        """Remove all documents of a user, including ones whose events have not arrived yet, and what they did."""
        await self.catalogue.remove_owner(user_id)
        await marks.delete_of(self.database, CHANNELS, [user_id])
        await marks.remove_of_user(self.database, user_id)
        await history.delete_of_user(self.database, user_id)
        await playlists.delete_of_user(self.database, user_id)
        await comments.remove_of_user(self.database, user_id, at=now())
        await notifications.delete_of_user(self.database, user_id)
