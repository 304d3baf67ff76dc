"""The use cases of likes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from kinora.events.media import MediaLiked, MediaUnliked
from kinora_kit.errors import InvalidInput
from kinora_kit.events import Event, event
from kinora_kit.identity import Caller
from kinora_kit.mongo import Database, Relay
from kinora_media.catalogue import ATTEMPTS, MAX_BATCH, SERVICE, Catalogue
from kinora_media.clock import now
from kinora_media.comments import Comments
from kinora_media.domain import Comment, Like, Liked, Media, Page, Position
from kinora_media.errors import ChangedMeanwhile
from kinora_media.store import likes as store
from kinora_media.store.comments import COMMENTS
from kinora_media.store.media import MEDIA
from kinora_media.store.tallies import Thing
from kinora_media.tallies import Tallies


@dataclass(frozen=True)
class Likes:
    database: Database
    relay: Relay
    tallies: Tallies
    catalogue: Catalogue
    comments: Comments

    async def switch(self, caller: Caller, media_id: UUID, *, on: bool) -> Media:
        """Like a document, or withdraw that. When this returns, the counter includes it, unless the store is slow."""
        media = await self.catalogue.get(caller, media_id)

        def events(like: Like) -> list[Event]:
            kind = MediaLiked if on else MediaUnliked
            about = {"media_id": media_id, "owner_id": media.owner_id, "user_id": like.user_id}
            return [event(SERVICE, kind(**about, version=like.version))]

        await self._switch(caller, Thing(MEDIA, media_id), on=on, events=events)
        return await self.catalogue.get(caller, media_id)

    async def switch_comment(self, caller: Caller, comment_id: UUID, *, on: bool) -> Comment:
        """As switch, for a comment."""
        await self.comments.get(caller, comment_id)
        await self._switch(caller, Thing(COMMENTS, comment_id), on=on, events=lambda _: [])
        return await self.comments.get(caller, comment_id)

    async def _switch(self, caller: Caller, thing: Thing, *, on: bool, events: Callable[[Like], list[Event]]) -> None:
        for _ in range(ATTEMPTS):
            before = await store.find(self.database, caller.user_id, thing)
            if on == (before is not None and before.on):
                break
            like = Like(caller.user_id, thing.id, on=on, at=now(), version=before.version + 1 if before else 1)
            if await store.save(self.database, thing.collection, like, events(like)):
                self.relay.wake()
                break
        else:
            raise ChangedMeanwhile
        await self.tallies.settle(thing)

    async def mine(self, caller: Caller, *, after: Position | None, limit: int) -> Page[Liked]:
        """The documents that the caller likes, last liked first, except those that are private now."""
        found: list[Liked] = []
        size = min(limit + 1, MAX_BATCH)
        while True:
            likes = await store.page(self.database, caller.user_id, after=after, limit=size)
            visible = {
                media.id: media for media in await self.catalogue.many(caller, [each.thing_id for each in likes])
            }
            found += [Liked(visible[each.thing_id], each.at) for each in likes if each.thing_id in visible]
            if len(found) > limit or len(likes) < size:
                return Page(found[:limit], more=len(found) > limit)
            after = Position(likes[-1].at, likes[-1].thing_id)

    async def among(self, caller: Caller, collection: str, ids: Sequence[UUID]) -> set[UUID]:
        """Those of the documents in ``collection`` that the caller likes."""
        if len(ids) > MAX_BATCH:
            raise InvalidInput(f"At most {MAX_BATCH} ids per request")
        return await store.liked(self.database, caller.user_id, collection, ids)
