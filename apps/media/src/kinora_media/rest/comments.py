"""REST API of comments."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query
from pydantic import BaseModel, ConfigDict

from kinora_kit.identity import OptionalCaller, SignedIn
from kinora_media import cursors
from kinora_media.domain import Comment, CommentOrder, Key, Page, Words
from kinora_media.rest.media import Limit
from kinora_media.users import User, Users, names
from kinora_media.wiring import Wired

router = APIRouter(prefix="/media/{media_id:uuid}/comments", tags=["comments"])

CommentCursor = Annotated[str | None, Query(pattern=f"{cursors.COMMENT}|{cursors.TOP_COMMENT}")]
ReplyCursor = Annotated[str | None, Query(pattern=cursors.REPLY)]
IdempotencyKey = Annotated[
    Key,
    Header(
        description="Chosen by the client, such as a UUID: repeated requests with the same key return the same comment."
    ),
]


async def _comment_id(media_id: UUID, comment_id: UUID, wired: Wired) -> UUID:
    await wired.comments.check(comment_id, media_id)
    return comment_id


CommentId = Annotated[UUID, Depends(_comment_id)]
"""Of a comment of the media document in the path."""


class CommentOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    media_id: UUID
    author_id: UUID | None
    parent_id: UUID | None
    body: str
    created_at: datetime
    edited_at: datetime | None
    likes: int
    replies: int
    pinned: bool


class ListedComment(CommentOut):
    author: User | None
    """Null if the comment was deleted, and while the names of users are unavailable."""


class CommentPage(BaseModel):
    items: list[ListedComment]
    next_cursor: str | None


class NewComment(Words):
    parent_id: UUID | None = None


@router.get("")
async def comments(
    media_id: UUID,
    caller: OptionalCaller,
    wired: Wired,
    *,
    order: CommentOrder = CommentOrder.NEWEST,
    cursor: CommentCursor = None,
    limit: Limit = 20,
) -> CommentPage:
    """Comments without replies. One without an author was deleted, and stays for its replies."""
    if order is CommentOrder.TOP:
        after = cursors.in_top_comments(cursor) if cursor else None
        page = await wired.comments.top(caller, media_id, after=after, limit=limit)
        return await _page(wired.users, page, cursors.of_top_comment(page.items[-1]) if page.more else None)
    before = cursors.in_comments(cursor) if cursor else None
    page = await wired.comments.newest(caller, media_id, before=before, limit=limit)
    return await _page(wired.users, page, cursors.of_comment(page.items[-1]) if page.more else None)


@router.post("", status_code=201)
async def post(
    media_id: UUID, new: NewComment, caller: SignedIn, wired: Wired, idempotency_key: IdempotencyKey
) -> CommentOut:
    """Post a comment, or with ``parent_id`` a reply."""
    comment = await wired.comments.post(caller, media_id, new, parent_id=new.parent_id, key=idempotency_key)
    return CommentOut.model_validate(comment)


@router.get("/{comment_id:uuid}/replies")
async def replies(
    comment_id: CommentId,
    caller: OptionalCaller,
    wired: Wired,
    cursor: ReplyCursor = None,
    limit: Limit = 20,
) -> CommentPage:
    """Oldest first."""
    after = cursors.in_replies(cursor) if cursor else None
    page = await wired.comments.replies(caller, comment_id, after=after, limit=limit)
    return await _page(wired.users, page, cursors.of_reply(page.items[-1]) if page.more else None)


@router.patch("/{comment_id:uuid}")
async def edit(comment_id: CommentId, words: Words, caller: SignedIn, wired: Wired) -> CommentOut:
    """By its author."""
    return CommentOut.model_validate(await wired.comments.edit(caller, comment_id, words))


@router.delete("/{comment_id:uuid}", status_code=204)
async def delete(comment_id: CommentId, caller: SignedIn, wired: Wired) -> None:
    """By its author or the video's owner. Its replies stay."""
    await wired.comments.delete(caller, comment_id)


@router.put("/{comment_id:uuid}/pin")
async def pin(comment_id: CommentId, caller: SignedIn, wired: Wired) -> CommentOut:
    """Show one comment before all others, by the video's owner."""
    return CommentOut.model_validate(await wired.comments.pin(caller, comment_id, pinned=True))


@router.delete("/{comment_id:uuid}/pin")
async def unpin(comment_id: CommentId, caller: SignedIn, wired: Wired) -> CommentOut:
    return CommentOut.model_validate(await wired.comments.pin(caller, comment_id, pinned=False))


@router.put("/{comment_id:uuid}/like")
async def like(comment_id: CommentId, caller: SignedIn, wired: Wired) -> CommentOut:
    return CommentOut.model_validate(await wired.likes.switch_comment(caller, comment_id, on=True))


@router.delete("/{comment_id:uuid}/like")
async def unlike(comment_id: CommentId, caller: SignedIn, wired: Wired) -> CommentOut:
    """No error if there is none."""
    return CommentOut.model_validate(await wired.likes.switch_comment(caller, comment_id, on=False))


async def _page(users: Users, page: Page[Comment], next_cursor: str | None) -> CommentPage:
    found = await names(users, [each.author_id for each in page.items])
    return CommentPage(
        items=[
            ListedComment(
                **dict(CommentOut.model_validate(each)), author=found.get(each.author_id) if each.author_id else None
            )
            for each in page.items
        ],
        next_cursor=next_cursor,
    )
