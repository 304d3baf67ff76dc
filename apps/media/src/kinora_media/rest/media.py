"""REST API of the catalogue."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict

from kinora_kit.identity import OptionalCaller, SignedIn
from kinora_media import cursors
from kinora_media.domain import Changes, Creation, Listed, Media, Page, Sort, State, Visibility
from kinora_media.facets import Filters
from kinora_media.users import User, Users, names
from kinora_media.wiring import Wired

router = APIRouter(prefix="/media", tags=["media"])

Cursor = Annotated[str | None, Query(pattern=cursors.LISTED)]
Limit = Annotated[int, Query(ge=1, le=100)]


class FailureOut(BaseModel):
    code: str
    detail: str


class CountersOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    views: int
    likes: int
    comments: int


class MediaOut(BaseModel):
    id: UUID
    owner_id: UUID
    title: str
    description: str
    tags: tuple[str, ...]
    category: str
    language: str
    visibility: Visibility
    state: State
    attributes: dict[str, Any]
    duration: float | None
    width: int | None
    height: int | None
    failure: FailureOut | None
    created_at: datetime
    updated_at: datetime
    publish_at: datetime | None
    published_at: datetime | None
    comments_enabled: bool
    pinned_comment_id: UUID | None
    counters: CountersOut


class ListedMedia(MediaOut):
    owner: User | None
    """Null while the names of users are unavailable."""


class UploadOut(BaseModel):
    id: UUID
    upload_url: str


class CategoryOut(BaseModel):
    id: str
    name: str


class Categories(BaseModel):
    items: list[CategoryOut]


class MediaPage(BaseModel):
    items: list[ListedMedia]
    next_cursor: str | None


def media_out(media: Media) -> MediaOut:
    failure = FailureOut(code=media.failure_code, detail=media.failure_detail) if media.failure_code else None
    return MediaOut.model_validate(
        {name: getattr(media, name) for name in MediaOut.model_fields if name != "failure"} | {"failure": failure}
    )


async def listed(users: Users, media: Sequence[Media]) -> list[ListedMedia]:
    """With their owners' names."""
    found = await names(users, [each.owner_id for each in media])
    return [ListedMedia(**dict(media_out(each)), owner=found.get(each.owner_id)) for each in media]


async def media_page(users: Users, page: Page[Listed]) -> MediaPage:
    items = await listed(users, [each.media for each in page.items])
    return MediaPage(items=items, next_cursor=page.items[-1].cursor if page.more else None)


class Search(Filters):
    sort: Sort = Sort.NEWEST
    cursor: Cursor = None
    limit: Limit = 20


CREATED: dict[int | str, dict[str, Any]] = {
    201: {"headers": {"Location": {"description": "The tus resource for the bytes", "schema": {"type": "string"}}}}
}


@router.post("", status_code=201, responses=CREATED)
async def create(creation: Creation, caller: SignedIn, wired: Wired, response: Response) -> UploadOut:
    """Create an upload and its document. Then send the bytes to `upload_url` (tus 1.0)."""
    upload = await wired.catalogue.create(caller, creation)
    response.headers["Location"] = upload.url
    return UploadOut(id=upload.id, upload_url=upload.url)


@router.get("/categories")
async def categories(wired: Wired) -> Categories:
    """What `category` can be, in the order to show them."""
    return Categories(items=[CategoryOut(id=id_, name=name) for id_, name in wired.catalogue.categories.items()])


@router.get("")
async def search(search: Annotated[Search, Query()], wired: Wired) -> MediaPage:
    """The ready and public videos that match all filters. 410 for a cursor that has expired: begin again."""
    return await media_page(
        wired.users, await wired.lists.search(search, search.sort, cursor=search.cursor, limit=search.limit)
    )


@router.get("/feed")
async def feed(wired: Wired, cursor: Cursor = None, limit: Limit = 20) -> MediaPage:
    """The ready and public videos of all users, last published first."""
    return await media_page(wired.users, await wired.lists.search(Filters(), Sort.NEWEST, cursor=cursor, limit=limit))


@router.get("/{media_id:uuid}")
async def get(media_id: UUID, caller: OptionalCaller, wired: Wired) -> MediaOut:
    return media_out(await wired.catalogue.get(caller, media_id))


@router.patch("/{media_id:uuid}")
async def edit(media_id: UUID, changes: Changes, caller: SignedIn, wired: Wired) -> MediaOut:
    return media_out(await wired.catalogue.edit(caller, media_id, changes))


@router.delete("/{media_id:uuid}", status_code=204)
async def delete(media_id: UUID, caller: SignedIn, wired: Wired) -> None:
    await wired.catalogue.delete(caller, media_id)


@router.get("/users/{user_id:uuid}")
async def of_user(
    user_id: UUID, caller: OptionalCaller, wired: Wired, cursor: Cursor = None, limit: Limit = 20
) -> MediaPage:
    """A user's videos, newest first: all for that user, ready and public ones for others."""
    return await media_page(wired.users, await wired.lists.of_user(caller, user_id, cursor=cursor, limit=limit))
