"""REST API of watching: views, retention, and the watch history."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, StrictBool

from kinora_kit.identity import OptionalCaller, SignedIn
from kinora_media import cursors
from kinora_media.domain import Heartbeat, Impressions
from kinora_media.rest.comments import IdempotencyKey
from kinora_media.rest.media import Limit, ListedMedia, listed
from kinora_media.watching import Viewer
from kinora_media.wiring import Wired

router = APIRouter(prefix="/media", tags=["watching"])

HistoryCursor = Annotated[str | None, Query(pattern=cursors.HISTORY)]


class VisitOut(BaseModel):
    media: ListedMedia
    position: float
    """Seconds: where to resume."""
    watched_at: datetime


class History(BaseModel):
    items: list[VisitOut]
    next_cursor: str | None


class Personalisation(BaseModel):
    enabled: StrictBool
    """Whether what the caller watches is kept, and used for recommendations."""


class Retention(BaseModel):
    parts: list[int]
    """How many views have watched each of 100 equal parts."""


@router.post("/{media_id:uuid}/views", status_code=204)
async def record(media_id: UUID, heartbeat: Heartbeat, caller: OptionalCaller, wired: Wired, request: Request) -> None:
    """Where the viewer is: send it every ten seconds, and at pauses and seeks.

    A view counts once per viewer and hour, after 10 s or half of a shorter video. The owner does not count.
    """
    address = request.client.host if request.client else ""
    await wired.watching.record(Viewer(caller, address), media_id, heartbeat)


@router.post("/impressions", status_code=204)
async def record_impressions(
    shown: Impressions, caller: OptionalCaller, wired: Wired, request: Request, idempotency_key: IdempotencyKey
) -> None:
    """Which videos were shown to the viewer, and where: for recommendations."""
    address = request.client.host if request.client else ""
    await wired.watching.record_impressions(Viewer(caller, address), shown, key=idempotency_key)


@router.get("/{media_id:uuid}/retention")
async def retention(media_id: UUID, caller: SignedIn, wired: Wired) -> Retention:
    """Which parts of the caller's own video are watched."""
    return Retention(parts=await wired.watching.retention(caller, media_id))


@router.get("/history")
async def history(caller: SignedIn, wired: Wired, cursor: HistoryCursor = None, limit: Limit = 20) -> History:
    """What the caller has watched, last watched first."""
    page = await wired.watching.history(caller, after=cursors.in_history(cursor) if cursor else None, limit=limit)
    media = await listed(wired.users, [media for media, _ in page.items])
    return History(
        items=[
            VisitOut(media=each, position=visit.position, watched_at=visit.at)
            for each, (_, visit) in zip(media, page.items, strict=True)
        ],
        next_cursor=cursors.of_visit(page.items[-1][1]) if page.more else None,
    )


@router.delete("/history", status_code=204)
async def clear(caller: SignedIn, wired: Wired) -> None:
    await wired.watching.clear(caller)


@router.delete("/{media_id:uuid}/history", status_code=204)
async def forget(media_id: UUID, caller: SignedIn, wired: Wired) -> None:
    """Remove one video from the caller's history."""
    await wired.watching.forget(caller, media_id)


@router.get("/personalisation")
async def personalisation(caller: SignedIn, wired: Wired) -> Personalisation:
    return Personalisation(enabled=await wired.watching.keeps_history(caller))


@router.put("/personalisation")
async def set_personalisation(wanted: Personalisation, caller: SignedIn, wired: Wired) -> Personalisation:
    """Whether what the caller watches is kept, and used for recommendations."""
    await wired.watching.keep_history(caller, on=wanted.enabled)
    return wanted
