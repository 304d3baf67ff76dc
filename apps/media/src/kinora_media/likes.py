"""The use cases of likes."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from kinora.events.media import MediaLiked, MediaUnliked
from kinora_kit.events import Event, event
from kinora_kit.identity import Caller
from kinora_media.catalogue import SERVICE, Catalogue
from kinora_media.comments import Comments
from kinora_media.domain import Comment, Mark, Media, Page, Position
from kinora_media.marks import Marked, Marks
from kinora_media.store.marks import COMMENT_LIKE, LIKE


@dataclass(frozen=True)
class Likes:
    marks: Marks
    catalogue: Catalogue
    comments: Comments

    async def switch(self, caller: Caller, media_id: UUID, *, on: bool) -> Media:
        """Like a document, or withdraw that."""
        media = await self.catalogue.get(caller, media_id)

        def events(like: Mark) -> list[Event]:
            kind = MediaLiked if on else MediaUnliked
            payload = kind(media_id=media_id, owner_id=media.owner_id, user_id=like.user_id, version=like.version)
            return [event(SERVICE, payload)]

        await self.marks.switch(caller, LIKE, media_id, on=on, events=events)
        return await self.catalogue.get(caller, media_id)

    async def switch_comment(self, caller: Caller, comment_id: UUID, *, on: bool) -> Comment:
        """As switch, for a comment."""
        await self.comments.get(caller, comment_id)
        await self.marks.switch(caller, COMMENT_LIKE, comment_id, on=on)
        return await self.comments.get(caller, comment_id)

    async def mine(self, caller: Caller, *, after: Position | None, limit: int) -> Page[Marked[Media]]:
        """The documents that the caller likes, last liked first, except those that are private now."""

        async def visible(ids: Sequence[UUID]) -> dict[UUID, Media]:
            return {media.id: media for media in await self.catalogue.many(caller, ids)}

        return await self.marks.page(caller, LIKE, visible, after=after, limit=limit)

    async def among(self, caller: Caller, ids: Sequence[UUID]) -> set[UUID]:
        """Those of the documents that the caller likes."""
        return await self.marks.among(caller, LIKE, ids)

    async def comments_among(self, caller: Caller, ids: Sequence[UUID]) -> set[UUID]:
        """Those of the comments that the caller likes."""
        return await self.marks.among(caller, COMMENT_LIKE, ids)
