"""Comments and replies, over REST as the gateway forwards it."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest

from kinora.events import auth, media
from kinora_kit.events import Event, event
from kinora_kit.ids import new_id
from kinora_kit.mongo import OUTBOX, Database
from kinora_kit.testing import eventually
from kinora_media.events import Reactions
from kinora_media.store.comments import COMMENTS
from kinora_media.store.marks import COMMENT_LIKE

Call = Callable[..., Awaitable[httpx.Response]]
Begin = Callable[..., Awaitable[UUID]]
Post = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def post(call: Call) -> Post:
    """``post(media_id, author_id, body, key=..., **more)``: the new comment."""

    async def make(media_id: UUID, author_id: UUID, body: str, **more: Any) -> dict[str, Any]:
        headers = {"Idempotency-Key": more.pop("key", None) or new_id().hex}
        answer = await call(
            "POST", f"/media/{media_id}/comments", author_id, json={"body": body, **more}, **{"headers": headers}
        )
        assert answer.status_code == 201, answer.text
        comment: dict[str, Any] = answer.json()
        return comment

    return make


async def bodies(call: Call, media_id: UUID, **params: Any) -> list[str]:
    answer = await call("GET", f"/media/{media_id}/comments", params=params)
    assert answer.status_code == 200, answer.text
    return [comment["body"] for comment in answer.json()["items"]]


async def emitted(database: Database, comment_id: str) -> list[Event]:
    document = await database[COMMENTS].find_one({"_id": UUID(comment_id)})
    assert document is not None
    return [Event.model_validate_json(entry["event"]) for entry in document[OUTBOX]]


async def counters(call: Call, media_id: UUID) -> int:
    count: int = (await call("GET", f"/media/{media_id}")).json()["counters"]["comments"]
    return count


def without_author(listed: dict[str, Any]) -> dict[str, Any]:
    """As the response to the comment's author."""
    return {name: value for name, value in listed.items() if name != "author"}


async def test_comments_are_listed_newest_first_and_counted(call: Call, begin: Begin, post: Post) -> None:
    media_id = await begin(new_id(), visibility="public")
    made = [await post(media_id, new_id(), f"Comment {number}") for number in range(5)]
    assert await counters(call, media_id) == 5
    seen: list[Any] = []
    cursor: dict[str, str] = {}
    while not seen or cursor:
        page = (await call("GET", f"/media/{media_id}/comments", params={"limit": 2} | cursor)).json()
        seen += page["items"]
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
    assert [without_author(each) for each in seen] == made[::-1]


async def test_comments_are_listed_most_liked_first(call: Call, begin: Begin, post: Post) -> None:
    media_id = await begin(new_id(), visibility="public")
    made = [await post(media_id, new_id(), f"Comment {number}") for number in range(4)]
    for comment, likes in zip(made, (1, 3, 0, 1), strict=True):
        for _ in range(likes):
            path = f"/media/{media_id}/comments/{comment['id']}/like"
            assert (await call("PUT", path, new_id())).status_code == 200
    first = await call("GET", f"/media/{media_id}/comments", params={"order": "top", "limit": 2})
    assert [(each["body"], each["likes"]) for each in first.json()["items"]] == [("Comment 1", 3), ("Comment 3", 1)]
    cursor = first.json()["next_cursor"]
    assert await bodies(call, media_id, order="top", cursor=cursor) == ["Comment 0", "Comment 2"]
    # A cursor is valid for its own order only.
    wrong = await call("GET", f"/media/{media_id}/comments", params={"order": "newest", "cursor": cursor})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_input")


async def test_replies_belong_to_a_comment_and_are_listed_oldest_first(call: Call, begin: Begin, post: Post) -> None:
    media_id = await begin(new_id(), visibility="public")
    comment = await post(media_id, new_id(), "Comment")
    first = await post(media_id, new_id(), "First", parent_id=comment["id"])
    second = await post(media_id, new_id(), "Second", parent_id=first["id"])
    assert first["parent_id"] == second["parent_id"] == comment["id"]
    page = (await call("GET", f"/media/{media_id}/comments/{comment['id']}/replies")).json()
    assert [without_author(each) for each in page["items"]] == [first, second]
    assert page["next_cursor"] is None
    assert await bodies(call, media_id) == ["Comment"]
    (shown,) = (await call("GET", f"/media/{media_id}/comments")).json()["items"]
    assert shown["replies"] == 2
    await eventually(lambda: _count(call, media_id, 3))


async def _count(call: Call, media_id: UUID, count: int) -> bool:
    return await counters(call, media_id) == count


async def test_repeated_post_returns_the_same_comment(call: Call, begin: Begin, post: Post, database: Database) -> None:
    media_id, author_id = await begin(new_id(), visibility="public"), new_id()
    first, second = [await post(media_id, author_id, "Once", key="a-key") for _ in range(2)]
    assert first == second
    other = await post(media_id, new_id(), "Another author", key="a-key")
    assert other["id"] != first["id"]
    assert await counters(call, media_id) == 2
    (posted,) = await emitted(database, first["id"])
    assert posted.read(media.CommentPosted).author_id == author_id
    missing = await call("POST", f"/media/{media_id}/comments", author_id, json={"body": "No key"})
    assert missing.status_code == 422
    assert missing.json()["errors"][0]["field"] == "Idempotency-Key".lower()


async def test_comment_is_edited_by_its_author_only(call: Call, begin: Begin, post: Post) -> None:
    owner_id, author_id = new_id(), new_id()
    media_id = await begin(owner_id, visibility="public")
    comment = await post(media_id, author_id, "Befor")
    path = f"/media/{media_id}/comments/{comment['id']}"
    for someone, status, code in ((owner_id, 403, "not_the_author"), (None, 401, "not_signed_in")):
        refused = await call("PATCH", path, someone, json={"body": "Mine"})
        assert (refused.status_code, refused.json()["code"]) == (status, code)
    edited = (await call("PATCH", path, author_id, json={"body": " Before "})).json()
    assert (edited["body"], edited["edited_at"] is not None) == ("Before", True)
    assert edited == (await call("PATCH", path, author_id, json={"body": "Before"})).json()
    assert await bodies(call, media_id) == ["Before"]


@pytest.mark.parametrize("by", ["author", "owner"])
async def test_deleted_comment_keeps_its_thread(
    call: Call, begin: Begin, post: Post, database: Database, by: str
) -> None:
    people = {"author": new_id(), "owner": new_id()}
    media_id = await begin(people["owner"], visibility="public")
    comment = await post(media_id, people["author"], "Comment")
    reply = await post(media_id, new_id(), "Reply", parent_id=comment["id"])
    alone = await post(media_id, people["author"], "Alone")
    for each in (comment, alone):
        path = f"/media/{media_id}/comments/{each['id']}"
        assert (await call("DELETE", path, new_id())).json()["code"] == "not_the_author"
        assert [(await call("DELETE", path, people[by])).status_code for _ in range(2)] == [204, 404]
    (shown,) = (await call("GET", f"/media/{media_id}/comments")).json()["items"]
    assert (shown["id"], shown["author_id"], shown["body"]) == (comment["id"], None, "")
    replies = (await call("GET", f"/media/{media_id}/comments/{comment['id']}/replies")).json()
    assert [each["id"] for each in replies["items"]] == [reply["id"]]
    await eventually(lambda: _count(call, media_id, 1))
    assert [each.type for each in await emitted(database, comment["id"])] == ["comment.posted", "comment.deleted"]
    assert "author_id" not in (await database[COMMENTS].find_one({"_id": UUID(comment["id"])}) or {})


async def test_comments_follow_the_visibility_of_their_media(call: Call, begin: Begin, post: Post) -> None:
    owner_id, author_id = new_id(), new_id()
    media_id = await begin(owner_id, visibility="public")
    comment = await post(media_id, author_id, "Comment")
    await call("PATCH", f"/media/{media_id}", owner_id, json={"visibility": "private"})
    path = f"/media/{media_id}/comments"
    key = {"Idempotency-Key": "x"}
    for answer in (
        await call("GET", path, author_id),
        await call("POST", path, author_id, json={"body": "More"}, headers=key),
        await call("PATCH", f"{path}/{comment['id']}", author_id, json={"body": "More"}),
        await call("PUT", f"{path}/{comment['id']}/like", author_id),
        await call("GET", f"{path}/{comment['id']}/replies", author_id),
    ):
        assert answer.status_code == 404, answer.text
    other = await begin(owner_id, visibility="public")
    moved = await call("DELETE", f"/media/{other}/comments/{comment['id']}", author_id)
    assert moved.json()["code"] == "comment_not_found"


async def test_owner_switches_comments_off(call: Call, begin: Begin, post: Post) -> None:
    owner_id, author_id = new_id(), new_id()
    media_id = await begin(owner_id, visibility="public")
    await post(media_id, author_id, "Before")
    off = await call("PATCH", f"/media/{media_id}", owner_id, json={"comments_enabled": False})
    assert off.json()["comments_enabled"] is False
    key = {"Idempotency-Key": "x"}
    refused = await call("POST", f"/media/{media_id}/comments", author_id, json={"body": "After"}, headers=key)
    assert (refused.status_code, refused.json()["code"]) == (403, "comments_disabled")
    assert await bodies(call, media_id) == ["Before"]


async def test_owner_pins_one_comment(call: Call, begin: Begin, post: Post) -> None:
    owner_id, author_id = new_id(), new_id()
    media_id = await begin(owner_id, visibility="public")
    made = [await post(media_id, author_id, f"Comment {number}") for number in range(2)]
    paths = [f"/media/{media_id}/comments/{each['id']}/pin" for each in made]
    assert (await call("PUT", paths[0], author_id)).json()["code"] == "not_the_owner"
    for path in (*paths, paths[1]):
        assert (await call("PUT", path, owner_id)).json()["pinned"] is True
    assert (await call("GET", f"/media/{media_id}")).json()["pinned_comment_id"] == made[1]["id"]
    page = (await call("GET", f"/media/{media_id}/comments")).json()
    assert [each["pinned"] for each in page["items"]] == [True, False]
    assert (await call("DELETE", paths[0], owner_id)).json()["pinned"] is False
    assert (await call("GET", f"/media/{media_id}")).json()["pinned_comment_id"] == made[1]["id"]
    assert (await call("DELETE", paths[1], owner_id)).json()["pinned"] is False
    assert (await call("GET", f"/media/{media_id}")).json()["pinned_comment_id"] is None


@pytest.mark.parametrize("body", ["", "  ", "\u200b", "x" * 5001, None, 7])
async def test_post_comment_rejects_invalid_text(call: Call, begin: Begin, body: object) -> None:
    media_id = await begin(new_id(), visibility="public")
    answer = await call(
        "POST", f"/media/{media_id}/comments", new_id(), json={"body": body}, headers={"Idempotency-Key": "x"}
    )
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "body")


async def test_comment_keeps_emoji_and_scripts(call: Call, begin: Begin, post: Post) -> None:
    media_id = await begin(new_id(), visibility="public")
    text = "Schön 👩‍👩‍👧 \u200f\u05e9\u05dc\u05d5\u05dd\nمی‌روم"
    assert (await post(media_id, new_id(), text))["body"] == text


async def test_deleted_account_leaves_no_comment(
    call: Call, begin: Begin, post: Post, database: Database, reactions: Reactions
) -> None:
    media_id, leaving = await begin(new_id(), visibility="public"), new_id()
    comment = await post(media_id, leaving, "Comment")
    reply = await post(media_id, new_id(), "Reply", parent_id=comment["id"])
    await call("PUT", f"/media/{media_id}/comments/{reply['id']}/like", leaving)
    await reactions.to_auth(event("auth", auth.UserDeleted(user_id=leaving)))
    # Its request was on the way.
    await post(media_id, leaving, "Late")

    async def gone() -> bool:
        found = [document async for document in database[COMMENTS].find({"media_id": media_id})]
        likes = await database[COMMENT_LIKE.collection].count_documents({"thing_id": UUID(reply["id"])})
        return len(found) == 2 and str(leaving) not in str(found) and likes == 0

    await eventually(gone)
    await eventually(lambda: _count(call, media_id, 1))
    (shown,) = (await call("GET", f"/media/{media_id}/comments")).json()["items"]
    assert (shown["author_id"], shown["replies"]) == (None, 1)


async def test_deleted_media_leaves_no_comment(
    call: Call, begin: Begin, post: Post, database: Database, reactions: Reactions
) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id, visibility="public")
    comment = await post(media_id, new_id(), "Comment")
    await post(media_id, new_id(), "Reply", parent_id=comment["id"])
    await call("PUT", f"/media/{media_id}/comments/{comment['id']}/like", new_id())
    await call("DELETE", f"/media/{media_id}", owner_id)
    await reactions.to_media(event("media", media.MediaDeleted(media_id=media_id, owner_id=owner_id)))
    assert not await database[COMMENTS].count_documents({"media_id": media_id})
    assert not await database[COMMENT_LIKE.collection].count_documents({"thing_id": UUID(comment["id"])})
