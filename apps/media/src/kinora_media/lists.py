"""Lists of media documents. Their cursors are valid only for the list that they come from; see cursors.py."""

from dataclasses import dataclass
from uuid import UUID

from kinora_kit.identity import Caller
from kinora_kit.mongo import Database
from kinora_media import cursors
from kinora_media.domain import Listed, Page, Sort
from kinora_media.errors import CursorExpired
from kinora_media.facets import ALL, Filters
from kinora_media.pages import Pages
from kinora_media.store import media as store
from kinora_media.store import popularity
from kinora_media.store.media import FEED_AT
from kinora_media.store.popularity import Epoch


@dataclass(frozen=True)
class Lists:
    database: Database
    pages: Pages

    async def of_user(self, caller: Caller | None, owner_id: UUID, *, cursor: str | None, limit: int) -> Page[Listed]:
        """Newest first: all documents for the owner, ready and public ones for others."""
        if caller is None or caller.user_id != owner_id:
            return await self.search(Filters(owner=owner_id), Sort.NEWEST, cursor=cursor, limit=limit)
        before = cursors.in_own(cursor) if cursor else None
        # One more than the limit, to know whether there is another page.
        found = await store.page(self.database, owner_id, before=before, limit=limit + 1)
        return Page([Listed(media, cursors.of_own(media)) for media in found[:limit]], more=len(found) > limit)

    async def search(self, filters: Filters, sort: Sort, *, cursor: str | None, limit: int) -> Page[Listed]:
        """The ready and public documents that match the filters. Raises InvalidInput, CursorExpired."""
        wanted = filters.facets()
        if wanted is None:
            return Page([], more=False)
        if sort is Sort.POPULAR:
            return await self._popular(wanted, cursor=cursor, limit=limit)
        if cursor is None and wanted == [ALL]:
            return await self.pages.feed(limit, lambda: self._newest(wanted, cursor=None, limit=limit))
        return await self._newest(wanted, cursor=cursor, limit=limit)

    async def _newest(self, wanted: list[str], *, cursor: str | None, limit: int) -> Page[Listed]:
        after = cursors.in_newest(cursor, wanted) if cursor else None
        found = await store.listed(self.database, wanted, by=FEED_AT, after=after, limit=limit + 1)
        items = [Listed(media, cursors.of_newest(at, media.id, wanted)) for media, at in found[:limit]]
        return Page(items, more=len(found) > limit)

    async def _popular(self, wanted: list[str], *, cursor: str | None, limit: int) -> Page[Listed]:
        """In the order of the epoch in which the list began, so that its pages have each document once."""
        current = await popularity.current(self.database)
        number, after = cursors.in_popular(cursor, wanted) if cursor else (current.number, None)
        if not current.serves(number):
            raise CursorExpired
        by = Epoch(number).slot
        found = await store.listed(self.database, wanted, by=by, after=after, limit=limit + 1)
        if not (await popularity.current(self.database)).serves(number):  # overwritten meanwhile
            raise CursorExpired
        items = [Listed(media, cursors.of_popular(number, score, media.id, wanted)) for media, score in found[:limit]]
        return Page(items, more=len(found) > limit)
