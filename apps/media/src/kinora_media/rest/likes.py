"""REST API of likes."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from kinora_kit.identity import SignedIn
from kinora_media import cursors
from kinora_media.rest.media import Limit, MediaOut, MediaPage, listed, media_out
from kinora_media.wiring import Wired

router = APIRouter(prefix="/media", tags=["likes"])

MarkCursor = Annotated[str | None, Query(pattern=cursors.MARK)]


@router.put("/{media_id:uuid}/like")
async def like(media_id: UUID, caller: SignedIn, wired: Wired) -> MediaOut:
    """Like a video; the response has the new counters."""
    return media_out(await wired.likes.switch(caller, media_id, on=True))


@router.delete("/{media_id:uuid}/like")
async def unlike(media_id: UUID, caller: SignedIn, wired: Wired) -> MediaOut:
    """Withdraw a like; no error if there is none."""
    return media_out(await wired.likes.switch(caller, media_id, on=False))


@router.get("/likes")
async def liked(caller: SignedIn, wired: Wired, cursor: MarkCursor = None, limit: Limit = 20) -> MediaPage:
    """The videos that the caller likes, last liked first."""
    page = await wired.likes.mine(caller, after=cursors.in_marks(cursor) if cursor else None, limit=limit)
    return MediaPage(
        items=await listed(wired.users, [each.thing for each in page.items]),
        next_cursor=cursors.of_mark(page.items[-1].mark) if page.more else None,
    )
