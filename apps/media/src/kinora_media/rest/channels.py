"""REST API of channels: subscriptions, and hiding."""

from datetime import date
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from kinora_kit.identity import SignedIn
from kinora_media import cursors
from kinora_media.rest.likes import MarkCursor
from kinora_media.rest.media import Limit, MediaPage, media_page
from kinora_media.store.tallies import DAYS
from kinora_media.users import User, names
from kinora_media.wiring import Wired

router = APIRouter(prefix="/media", tags=["channels"])


SubscribedCursor = Annotated[str | None, Query(pattern=cursors.SUBSCRIBED)]


class ChannelOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    user_id: UUID
    subscribers: int
    views: int


class Totals(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    subscribers: int
    views: int
    likes: int
    comments: int


class DayOut(Totals):
    """How the totals changed on a day (UTC), deletions included."""

    date: date


class DashboardOut(BaseModel):
    totals: Totals
    days: list[DayOut]
    """Latest first; days without a change are missing."""
    uploads: MediaPage
    """The caller's videos in all states, newest first; more: GET /media/users/{id}."""
    subscriptions: MediaPage
    """What is new in the caller's subscriptions; more: GET /media/subscriptions/media."""


class ListedChannel(ChannelOut):
    user: User | None
    """Null while the names of users are unavailable."""


class ChannelPage(BaseModel):
    items: list[ListedChannel]
    next_cursor: str | None


@router.get("/dashboard")
async def dashboard(caller: SignedIn, wired: Wired, days: Annotated[int, Query(ge=1, le=DAYS)] = 30) -> DashboardOut:
    """The caller's own channel."""
    found = await wired.subscriptions.dashboard(caller, days=days)
    uploads = await wired.lists.of_user(caller, caller.user_id, cursor=None, limit=20)
    subscribed = await wired.subscriptions.media(caller, cursor=None, limit=20)
    return DashboardOut(
        totals=Totals.model_validate(found.channel),
        days=[DayOut.model_validate(day) for day in found.days],
        uploads=await media_page(wired.users, uploads),
        subscriptions=await media_page(wired.users, subscribed),
    )


@router.put("/users/{user_id:uuid}/subscription")
async def subscribe(user_id: UUID, caller: SignedIn, wired: Wired) -> ChannelOut:
    """Subscribe to a user's videos; the response has the new counters."""
    return ChannelOut.model_validate(await wired.subscriptions.switch(caller, user_id, on=True))


@router.delete("/users/{user_id:uuid}/subscription")
async def unsubscribe(user_id: UUID, caller: SignedIn, wired: Wired) -> ChannelOut:
    """No error if there is no subscription."""
    return ChannelOut.model_validate(await wired.subscriptions.switch(caller, user_id, on=False))


@router.get("/subscriptions")
async def subscriptions(caller: SignedIn, wired: Wired, cursor: MarkCursor = None, limit: Limit = 20) -> ChannelPage:
    """The channels that the caller subscribes to, last subscribed first."""
    page = await wired.subscriptions.mine(caller, after=cursors.in_marks(cursor) if cursor else None, limit=limit)
    found = await names(wired.users, [each.thing.user_id for each in page.items])
    return ChannelPage(
        items=[
            ListedChannel(**dict(ChannelOut.model_validate(each.thing)), user=found.get(each.thing.user_id))
            for each in page.items
        ],
        next_cursor=cursors.of_mark(page.items[-1].mark) if page.more else None,
    )


@router.get("/subscriptions/media")
async def media(caller: SignedIn, wired: Wired, cursor: SubscribedCursor = None, limit: Limit = 20) -> MediaPage:
    """The ready and public videos of these channels, last published first."""
    return await media_page(wired.users, await wired.subscriptions.media(caller, cursor=cursor, limit=limit))


@router.put("/{media_id:uuid}/hidden", status_code=204)
async def hide_media(media_id: UUID, caller: SignedIn, wired: Wired) -> None:
    """Do not recommend this video to the caller."""
    await wired.hiding.switch_media(caller, media_id, on=True)


@router.delete("/{media_id:uuid}/hidden", status_code=204)
async def unhide_media(media_id: UUID, caller: SignedIn, wired: Wired) -> None:
    await wired.hiding.switch_media(caller, media_id, on=False)


@router.put("/users/{user_id:uuid}/hidden", status_code=204)
async def hide_channel(user_id: UUID, caller: SignedIn, wired: Wired) -> None:
    """Recommend nothing of this channel to the caller."""
    await wired.hiding.switch_channel(caller, user_id, on=True)


@router.delete("/users/{user_id:uuid}/hidden", status_code=204)
async def unhide_channel(user_id: UUID, caller: SignedIn, wired: Wired) -> None:
    await wired.hiding.switch_channel(caller, user_id, on=False)
