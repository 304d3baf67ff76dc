"""REST API of playlists."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from kinora_kit.commands import INTEGRAL
from kinora_kit.identity import OptionalCaller, SignedIn
from kinora_media import cursors
from kinora_media.domain import NewPlaylist, Page, Playlist, PlaylistChanges, PlaylistKind, Visibility
from kinora_media.rest.comments import IdempotencyKey
from kinora_media.rest.media import Limit, ListedMedia, listed
from kinora_media.wiring import Wired

router = APIRouter(prefix="/media", tags=["playlists"])

PlaylistCursor = Annotated[str | None, Query(pattern=cursors.PLAYLIST)]
ItemCursor = Annotated[str | None, Query(pattern=cursors.ITEM)]


class PlaylistOut(BaseModel):
    id: UUID
    owner_id: UUID
    title: str
    visibility: Visibility
    kind: PlaylistKind
    size: int
    """Of items, including those that the caller may not see."""
    created_at: datetime
    updated_at: datetime


class PlaylistPage(BaseModel):
    items: list[PlaylistOut]
    next_cursor: str | None


class ItemOut(BaseModel):
    media: ListedMedia
    added_at: datetime


class ItemPage(BaseModel):
    items: list[ItemOut]
    next_cursor: str | None


class Placing(BaseModel):
    index: Annotated[int, Field(ge=0, lt=1 << 31, strict=True), INTEGRAL] | None = None
    """From 0; null: at the end, or where it is."""


@router.get("/playlists")
async def mine(caller: SignedIn, wired: Wired, cursor: PlaylistCursor = None, limit: Limit = 20) -> PlaylistPage:
    """The caller's playlists, newest first."""
    before = cursors.in_playlists(cursor) if cursor else None
    return _page(await wired.playlists.of_user(caller, caller.user_id, before=before, limit=limit))


@router.get("/users/{user_id:uuid}/playlists")
async def of_user(
    user_id: UUID, caller: OptionalCaller, wired: Wired, cursor: PlaylistCursor = None, limit: Limit = 20
) -> PlaylistPage:
    """A user's playlists, newest first: all for that user, public ones for others."""
    before = cursors.in_playlists(cursor) if cursor else None
    return _page(await wired.playlists.of_user(caller, user_id, before=before, limit=limit))


@router.post("/playlists", status_code=201)
async def create(new: NewPlaylist, caller: SignedIn, wired: Wired, idempotency_key: IdempotencyKey) -> PlaylistOut:
    return _out(await wired.playlists.create(caller, new, key=idempotency_key))


@router.get("/playlists/watch-later")
async def watch_later(caller: SignedIn, wired: Wired) -> PlaylistOut:
    """The caller's playlist of what to watch later."""
    return _out(await wired.playlists.watch_later(caller))


@router.get("/playlists/{playlist_id:uuid}")
async def get(playlist_id: UUID, caller: OptionalCaller, wired: Wired) -> PlaylistOut:
    return _out(await wired.playlists.get(caller, playlist_id))


@router.patch("/playlists/{playlist_id:uuid}")
async def edit(playlist_id: UUID, changes: PlaylistChanges, caller: SignedIn, wired: Wired) -> PlaylistOut:
    return _out(await wired.playlists.edit(caller, playlist_id, changes))


@router.delete("/playlists/{playlist_id:uuid}", status_code=204)
async def delete(playlist_id: UUID, caller: SignedIn, wired: Wired) -> None:
    await wired.playlists.delete(caller, playlist_id)


@router.get("/playlists/{playlist_id:uuid}/items")
async def items(
    playlist_id: UUID, caller: OptionalCaller, wired: Wired, cursor: ItemCursor = None, limit: Limit = 20
) -> ItemPage:
    """In the playlist's order, without what the caller may not see."""
    after = cursors.in_items(cursor) if cursor else None
    page = await wired.playlists.items(caller, playlist_id, after=after, limit=limit)
    media = await listed(wired.users, [entry.media for entry in page.items])
    return ItemPage(
        items=[
            ItemOut(media=each, added_at=entry.item.added_at) for each, entry in zip(media, page.items, strict=True)
        ],
        next_cursor=cursors.of_item(page.items[-1].place) if page.more else None,
    )


@router.put("/playlists/{playlist_id:uuid}/items/{media_id:uuid}")
async def place(playlist_id: UUID, media_id: UUID, placing: Placing, caller: SignedIn, wired: Wired) -> PlaylistOut:
    """Add a video, or move it to `index`."""
    return _out(await wired.playlists.place(caller, playlist_id, media_id, index=placing.index))


@router.delete("/playlists/{playlist_id:uuid}/items/{media_id:uuid}")
async def remove(playlist_id: UUID, media_id: UUID, caller: SignedIn, wired: Wired) -> PlaylistOut:
    """No error if it is not an item."""
    return _out(await wired.playlists.remove(caller, playlist_id, media_id))


def _out(playlist: Playlist) -> PlaylistOut:
    return PlaylistOut(
        id=playlist.id,
        owner_id=playlist.owner_id,
        title=playlist.title,
        visibility=playlist.visibility,
        kind=playlist.kind,
        size=len(playlist.items),
        created_at=playlist.created_at,
        updated_at=playlist.updated_at,
    )


def _page(page: Page[Playlist]) -> PlaylistPage:
    return PlaylistPage(
        items=[_out(playlist) for playlist in page.items],
        next_cursor=cursors.of_playlist(page.items[-1]) if page.more else None,
    )
