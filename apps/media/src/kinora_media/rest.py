"""REST API of the catalogue; /media/feed, likes and comments are not implemented yet."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel

from kinora_kit.errors import InvalidInput
from kinora_kit.identity import OptionalCaller, SignedIn
from kinora_media.domain import Changes, Media, State, Visibility
from kinora_media.wiring import Wired

router = APIRouter(prefix="/media", tags=["media"])


class FailureOut(BaseModel):
    code: str
    detail: str


class MediaOut(BaseModel):
    id: UUID
    owner_id: UUID
    title: str
    description: str
    tags: tuple[str, ...]
    category: str
    visibility: Visibility
    state: State
    attributes: dict[str, Any]
    duration: float | None
    width: int | None
    height: int | None
    failure: FailureOut | None
    created_at: datetime
    updated_at: datetime


class MediaPage(BaseModel):
    items: list[MediaOut]
    next_cursor: str | None


def _out(media: Media) -> MediaOut:
    failure = FailureOut(code=media.failure_code, detail=media.failure_detail) if media.failure_code else None
    return MediaOut.model_validate(
        {name: getattr(media, name) for name in MediaOut.model_fields if name != "failure"} | {"failure": failure}
    )


def _cursor(media_id: UUID) -> str:
    return base64.urlsafe_b64encode(media_id.bytes).decode().rstrip("=")


def _before(cursor: str) -> UUID:
    try:
        return UUID(bytes=base64.urlsafe_b64decode(f"{cursor}=="))
    except (ValueError, binascii.Error):
        raise InvalidInput("The cursor is invalid; use next_cursor of the previous page") from None


@router.get("/{media_id:uuid}")
async def get(media_id: UUID, caller: OptionalCaller, wired: Wired) -> MediaOut:
    return _out(await wired.catalogue.get(caller, media_id))


@router.patch("/{media_id:uuid}")
async def edit(media_id: UUID, changes: Changes, caller: SignedIn, wired: Wired) -> MediaOut:
    return _out(await wired.catalogue.edit(caller, media_id, changes))


@router.delete("/{media_id:uuid}", status_code=204)
async def delete(media_id: UUID, caller: SignedIn, wired: Wired) -> None:
    await wired.catalogue.delete(caller, media_id)


@router.get("/users/{user_id:uuid}")
async def of_user(
    user_id: UUID,
    caller: OptionalCaller,
    wired: Wired,
    cursor: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9_-]{22}$")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> MediaPage:
    before = _before(cursor) if cursor else None
    # One more than the limit, to know whether there is another page.
    found = await wired.catalogue.page(caller, user_id, before=before, limit=limit + 1)
    items = found[:limit]
    return MediaPage(
        items=[_out(media) for media in items],
        next_cursor=_cursor(items[-1].id) if len(found) > limit else None,
    )
