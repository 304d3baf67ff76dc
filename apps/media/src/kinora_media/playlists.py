"""The use cases of playlists; "watch later" is one of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID, uuid5

from kinora.events.media import PlaylistItemAdded, PlaylistItemRemoved
from kinora_kit.errors import InvalidInput
from kinora_kit.events import Event, event
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.mongo import Database, Relay
from kinora_media.catalogue import ATTEMPTS, MAX_BATCH, SERVICE, Catalogue
from kinora_media.clock import now
from kinora_media.domain import (
    MAX_ITEMS,
    Item,
    Media,
    NewPlaylist,
    Page,
    Place,
    Playlist,
    PlaylistChanges,
    PlaylistKind,
    Visibility,
    placed,
    without,
)
from kinora_media.errors import (
    ChangedMeanwhile,
    NotTheOwner,
    PlaylistFull,
    PlaylistNotFound,
    TooManyPlaylists,
)
from kinora_media.store import playlists as store
from kinora_media.store.channels import CHANNELS
from kinora_media.store.tallies import Thing
from kinora_media.tallies import Tallies

MAX_PLAYLISTS = 200
WATCH_LATER = "Watch later"
_NAMESPACE = UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")  # of object identifiers: RFC 9562, section 6.6


@dataclass(frozen=True)
class Entry:
    media: Media
    item: Item
    place: Place


@dataclass(frozen=True)
class Playlists:
    database: Database
    relay: Relay
    tallies: Tallies
    catalogue: Catalogue

    async def get(self, caller: Caller | None, playlist_id: UUID) -> Playlist:
        playlist = await store.find(self.database, playlist_id)
        if playlist is None or not playlist.visible_to(caller.user_id if caller else None):
            raise PlaylistNotFound
        return playlist

    async def many(self, caller: Caller | None, ids: Sequence[UUID]) -> list[Playlist]:
        """The playlists that the caller may see, in no particular order."""
        if len(ids) > MAX_BATCH:
            raise InvalidInput(f"At most {MAX_BATCH} ids per request")
        user_id = caller.user_id if caller else None
        return [playlist for playlist in await store.many(self.database, ids) if playlist.visible_to(user_id)]

    async def of_user(
        self, caller: Caller | None, owner_id: UUID, *, before: UUID | None, limit: int
    ) -> Page[Playlist]:
        """Newest first: all for the owner, public ones for others."""
        others = caller is None or caller.user_id != owner_id
        found = await store.page(self.database, owner_id, public=others, before=before, limit=limit + 1)
        return Page(found[:limit], more=len(found) > limit)

    async def items(self, caller: Caller | None, playlist_id: UUID, *, after: Place | None, limit: int) -> Page[Entry]:
        """The documents that the caller may see, in the playlist's order."""
        playlist = await self.get(caller, playlist_id)
        start = 0
        if after is not None:  # of an item that was removed since, the next one is at its index
            index = playlist.index(after.media_id)
            start = after.index if index is None else index + 1
        found: list[Entry] = []
        for first in range(start, len(playlist.items), MAX_BATCH):
            part = playlist.items[first : first + MAX_BATCH]
            media = {each.id: each for each in await self.catalogue.many(caller, [item.media_id for item in part])}
            found += [
                Entry(media[item.media_id], item, Place(first + offset, item.media_id))
                for offset, item in enumerate(part)
                if item.media_id in media
            ]
            if len(found) > limit:
                break
        return Page(found[:limit], more=len(found) > limit)

    async def create(self, caller: Caller, new: NewPlaylist, *, key: str) -> Playlist:
        """``key``: chosen by the client; a repeated request with the same one returns the same playlist."""
        return await self._insert(
            caller, Playlist(new_id(), caller.user_id, new.title, new.visibility, now(), now()), key
        )

    async def watch_later(self, caller: Caller) -> Playlist:
        """The caller's, created at the first call."""
        playlist_id = uuid5(_NAMESPACE, f"watch later {caller.user_id}")
        found = await store.find(self.database, playlist_id)
        if found is not None:
            return found
        playlist = Playlist(
            playlist_id, caller.user_id, WATCH_LATER, Visibility.PRIVATE, now(), now(), PlaylistKind.WATCH_LATER
        )
        return await self._insert(caller, playlist, key=" watch later")  # no client's key has a space

    async def _insert(self, caller: Caller, playlist: Playlist, key: str) -> Playlist:
        if earlier := await store.with_key(self.database, caller.user_id, key):
            return earlier
        if len(await store.ids_of(self.database, caller.user_id, limit=MAX_PLAYLISTS)) == MAX_PLAYLISTS:
            raise TooManyPlaylists
        if not await store.insert(self.database, playlist, key=key):
            raise ChangedMeanwhile
        self.tallies.wake(Thing(CHANNELS, caller.user_id))
        return playlist

    async def edit(self, caller: Caller, playlist_id: UUID, changes: PlaylistChanges) -> Playlist:
        def edited(playlist: Playlist) -> Playlist:
            _check_custom(playlist)
            return replace(playlist, **{name: getattr(changes, name) for name in changes.model_fields_set})

        return await self._change(caller, playlist_id, edited)

    async def delete(self, caller: Caller, playlist_id: UUID) -> None:
        playlist = await self._own(caller, playlist_id)
        _check_custom(playlist)
        await store.delete(self.database, playlist_id)

    async def place(self, caller: Caller, playlist_id: UUID, media_id: UUID, *, index: int | None) -> Playlist:
        """Add a document, or with ``index`` move it there. None: at the end, or where it is."""
        await self.catalogue.get(caller, media_id)

        def change(playlist: Playlist) -> Playlist:
            after = placed(playlist, media_id, at=now(), index=index)
            if len(after.items) > MAX_ITEMS:
                raise PlaylistFull
            return after

        playlist = await self._change(caller, playlist_id, change, media_id)
        if not await self.catalogue.many(caller, [media_id]):  # deleted meanwhile, perhaps before it was an item
            return await self.remove(caller, playlist_id, media_id)
        return playlist

    async def remove(self, caller: Caller, playlist_id: UUID, media_id: UUID) -> Playlist:
        return await self._change(caller, playlist_id, lambda playlist: without(playlist, media_id), media_id)

    async def _change(
        self, caller: Caller, playlist_id: UUID, change: Callable[[Playlist], Playlist], media_id: UUID | None = None
    ) -> Playlist:
        """``media_id``: of the item that may be added or removed."""
        for _ in range(ATTEMPTS):
            before = await self._own(caller, playlist_id)
            after = change(before)
            if after == before:
                return before
            after = replace(after, updated_at=now(), version=before.version + 1)
            if await store.update(self.database, after, _events(before, after, media_id)):
                self.relay.wake()
                return after
        raise ChangedMeanwhile

    async def _own(self, caller: Caller, playlist_id: UUID) -> Playlist:
        playlist = await self.get(caller, playlist_id)
        if playlist.owner_id != caller.user_id:
            raise NotTheOwner
        return playlist


def _check_custom(playlist: Playlist) -> None:
    if playlist.kind is not PlaylistKind.CUSTOM:
        raise InvalidInput("This playlist is built in: it cannot be edited or deleted")


def _events(before: Playlist, after: Playlist, media_id: UUID | None) -> list[Event]:
    if media_id is None or len(before.items) == len(after.items):
        return []
    kind = PlaylistItemAdded if len(after.items) > len(before.items) else PlaylistItemRemoved
    payload = kind(playlist_id=after.id, media_id=media_id, user_id=after.owner_id, version=after.version)
    return [event(SERVICE, payload)]
