"""The use cases of comments."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from kinora.events.media import CommentDeleted, CommentPinned, CommentPosted
from kinora_kit.errors import InvalidInput
from kinora_kit.events import event
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.mongo import Database, Relay
from kinora_media.catalogue import ATTEMPTS, MAX_BATCH, SERVICE, Catalogue, visible
from kinora_media.clock import now
from kinora_media.domain import Comment, CommentOrder, Media, Page, Thread, TopPosition, Words
from kinora_media.errors import ChangedMeanwhile, CommentNotFound, CommentsDisabled, NotTheAuthor, NotTheOwner
from kinora_media.pages import Pages
from kinora_media.store import comments as store
from kinora_media.tallies import Tallies


@dataclass(frozen=True)
class Comments:
    """Whoever sees a media document sees its comments."""

    database: Database
    relay: Relay
    tallies: Tallies
    catalogue: Catalogue
    pages: Pages

    async def get(self, caller: Caller | None, comment_id: UUID) -> Comment:
        comment, media = await self._find(caller, comment_id)
        return _shown(comment, media)

    async def many(self, caller: Caller | None, ids: Sequence[UUID]) -> list[Comment]:
        """The comments that the caller may see, in no particular order."""
        if len(ids) > MAX_BATCH:
            raise InvalidInput(f"At most {MAX_BATCH} ids per request")
        found = await store.many(self.database, ids)
        of = {media.id: media for media in await self.catalogue.many(caller, list({each.media_id for each in found}))}
        return [_shown(each, of[each.media_id]) for each in found if each.media_id in of]

    async def newest(self, caller: Caller | None, media_id: UUID, *, before: UUID | None, limit: int) -> Page[Comment]:
        find = partial(store.newest, self.database, media_id, before=before, limit=limit + 1)
        return await self._page(caller, media_id, find, limit, first=None if before else CommentOrder.NEWEST)

    async def top(
        self, caller: Caller | None, media_id: UUID, *, after: TopPosition | None, limit: int
    ) -> Page[Comment]:
        find = partial(store.top, self.database, media_id, after=after, limit=limit + 1)
        return await self._page(caller, media_id, find, limit, first=None if after else CommentOrder.TOP)

    async def _page(
        self,
        caller: Caller | None,
        media_id: UUID,
        find: Callable[[], Awaitable[list[Comment]]],
        limit: int,
        *,
        first: CommentOrder | None,
    ) -> Page[Comment]:
        """``first``: the order, if it is a first page."""

        async def query() -> Thread:
            media = await self.catalogue.find(media_id)
            return Thread(media, _page(media, await find(), limit))

        thread = await (self.pages.comments(media_id, first, limit, query) if first else query())
        visible(thread.media, caller)
        return thread.comments

    async def replies(
        self, caller: Caller | None, comment_id: UUID, *, after: UUID | None, limit: int
    ) -> Page[Comment]:
        """Oldest first."""
        comment, media = await self._find(caller, comment_id, removed=True)
        return _page(media, await store.replies(self.database, comment, after=after, limit=limit + 1), limit)

    async def post(self, caller: Caller, media_id: UUID, words: Words, *, parent_id: UUID | None, key: str) -> Comment:
        """Post a comment, or with ``parent_id`` a reply to one, or to the same one as another reply.

        ``key``: chosen by the client; a repeated request with the same one returns the same comment.
        """
        media = await self.catalogue.get(caller, media_id)
        if not media.comments_enabled:
            raise CommentsDisabled
        answered_id = parent_id
        if parent_id is not None:
            parent, _ = await self._find(caller, parent_id)
            if parent.media_id != media_id:
                raise CommentNotFound
            parent_id = parent.parent_id or parent.id
        comment = Comment(
            id=new_id(),
            media_id=media_id,
            owner_id=media.owner_id,
            author_id=caller.user_id,
            parent_id=parent_id,
            body=words.body,
            created_at=now(),
        )
        posted = event(SERVICE, CommentPosted(**_about(comment), author_id=caller.user_id, answered_id=answered_id))
        saved = await store.insert(self.database, comment, key=key, events=[posted])
        if saved is None:
            raise ChangedMeanwhile
        self.relay.wake()
        await self.tallies.settle(store.thing(saved))
        await self.pages.comments_changed(media_id)
        return _shown(saved, media)

    async def edit(self, caller: Caller, comment_id: UUID, words: Words) -> Comment:
        for _ in range(ATTEMPTS):
            comment, media = await self._find(caller, comment_id)
            if comment.author_id != caller.user_id:
                raise NotTheAuthor
            if comment.body == words.body:
                return _shown(comment, media)
            edited = replace(comment, body=words.body, edited_at=now(), version=comment.version + 1)
            if await store.edit(self.database, edited):
                await self.pages.comments_changed(media.id)
                return _shown(edited, media)
        raise ChangedMeanwhile

    async def delete(self, caller: Caller, comment_id: UUID) -> None:
        """By its author or the media's owner. Replies stay."""
        comment, media = await self._find(caller, comment_id)
        if caller.user_id not in (comment.author_id, media.owner_id):
            raise NotTheAuthor
        deleted = event(SERVICE, CommentDeleted(**_about(comment)))
        if await store.remove(self.database, comment, at=now(), events=[deleted]):
            self.relay.wake()
        await self.tallies.settle(store.thing(comment))
        await self.pages.comments_changed(media.id)

    async def pin(self, caller: Caller, comment_id: UUID, *, pinned: bool) -> Comment:
        """Show one comment before all others, by the media's owner."""
        comment, media = await self._find(caller, comment_id)
        if media.owner_id != caller.user_id:
            raise NotTheOwner
        if comment.parent_id is not None:
            raise InvalidInput("A reply cannot be pinned")
        if pinned != (media.pinned_comment_id == comment_id):
            events = [event(SERVICE, CommentPinned(**_about(comment)))] if pinned else []
            media = await self.catalogue.pin(media, comment_id if pinned else None, events)
        await self.pages.comments_changed(media.id)
        return _shown(comment, media)

    async def check(self, comment_id: UUID, media_id: UUID) -> None:
        """Raises CommentNotFound unless it is a comment of that document."""
        comment = await store.find(self.database, comment_id)
        if comment is None or comment.media_id != media_id:
            raise CommentNotFound

    async def _find(self, caller: Caller | None, comment_id: UUID, *, removed: bool = False) -> tuple[Comment, Media]:
        """``removed``: also a deleted comment, which stays for its replies."""
        comment = await store.find(self.database, comment_id)
        if comment is None or (comment.author_id is None and not removed):
            raise CommentNotFound
        found = await self.catalogue.many(caller, [comment.media_id])
        if not found:
            raise CommentNotFound
        return comment, found[0]


def _about(comment: Comment) -> dict[str, UUID | None]:
    return {
        "comment_id": comment.id,
        "media_id": comment.media_id,
        "owner_id": comment.owner_id,
        "parent_id": comment.parent_id,
    }


def _shown(comment: Comment, media: Media) -> Comment:
    return replace(comment, pinned=True) if comment.id == media.pinned_comment_id else comment


def _page(media: Media, found: Sequence[Comment], limit: int) -> Page[Comment]:
    return Page([_shown(each, media) for each in found[:limit]], more=len(found) > limit)
