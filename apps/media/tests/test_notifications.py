"""Notifications, written by the events of the outboxes, and read over REST as the gateway forwards it."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from kinora.events import auth, media
from kinora_kit.consumer import Handler
from kinora_kit.events import Event, event
from kinora_kit.ids import new_id
from kinora_kit.mongo import OUTBOX, Collection, Database
from kinora_kit.testing import eventually
from kinora_media import notifications
from kinora_media.clock import now
from kinora_media.domain import Notification, NotificationKind
from kinora_media.events import Reactions
from kinora_media.store import notifications as store
from kinora_media.store.comments import COMMENTS
from kinora_media.store.media import MEDIA
from kinora_media.store.notifications import NOTIFICATIONS

Call = Callable[..., Awaitable[httpx.Response]]
Begin = Callable[..., Awaitable[UUID]]
PATH = "/media/notifications"


class Inbox:
    """A user who reads notifications."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.user_id = new_id()

    async def items(self, **params: Any) -> list[Any]:
        answer = await self._call("GET", PATH, self.user_id, params=params)
        assert answer.status_code == 200, answer.text
        items: list[Any] = answer.json()["items"]
        return items

    async def kinds(self) -> list[str]:
        return [each["kind"] for each in await self.items()]

    async def unread(self) -> int:
        count: int = (await self._call("GET", f"{PATH}/unread", self.user_id)).json()["count"]
        return count


@dataclass
class Stage:
    call: Call
    begin: Begin
    handle: Handler
    """Of the consumer of media's own events."""
    database: Database

    @property
    def stored(self) -> Collection:
        return self.database[NOTIFICATIONS]

    def inbox(self) -> Inbox:
        return Inbox(self.call)

    async def emitted(self, kind: str, collection: str, document_id: UUID) -> Event:
        """The pending event of a document."""
        document: Any = await self.database[collection].find_one({"_id": document_id})
        return Event.model_validate_json(next(each["event"] for each in document[OUTBOX] if each["type"] == kind))

    async def publish(self, owner_id: UUID, *, handled: bool = True) -> tuple[UUID, Event]:
        """A new video, and its event."""
        media_id = await self.begin(owner_id, visibility="public", ready=True)
        published = await self.emitted("media.published", MEDIA, media_id)
        if handled:
            await self.handle(published)
        return media_id, published

    async def comment(self, media_id: UUID, author_id: UUID, parent_id: UUID | None = None) -> UUID:
        body = {"body": "Hello", "parent_id": str(parent_id) if parent_id else None}
        path, headers = f"/media/{media_id}/comments", {"Idempotency-Key": new_id().hex}
        answer = await self.call("POST", path, author_id, json=body, headers=headers)
        comment_id = UUID(answer.json()["id"])
        await self.handle(await self.emitted("comment.posted", COMMENTS, comment_id))
        return comment_id

    async def subscribe(self, user_id: UUID, channel_id: UUID) -> None:
        assert (await self.call("PUT", f"/media/users/{channel_id}/subscription", user_id)).status_code == 200


@pytest.fixture
def stage(call: Call, begin: Begin, reactions: Reactions, database: Database) -> Stage:
    return Stage(call, begin, reactions.to_media, database)


async def test_new_video_notifies_each_subscriber_once_though_killed_half_way(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "BATCH", 1)
    owner_id, subscribers, late = new_id(), [stage.inbox() for _ in range(4)], stage.inbox()
    for each in subscribers:
        await stage.subscribe(each.user_id, owner_id)
    media_id, published = await stage.publish(owner_id, handled=False)
    await stage.subscribe(late.user_id, owner_id)

    handling = asyncio.ensure_future(stage.handle(published))

    async def begun() -> bool:
        return await stage.stored.find_one({"media_id": media_id}) is not None

    await eventually(begun)
    handling.cancel()
    await asyncio.wait([handling])
    await stage.call("PUT", f"{PATH}/read", subscribers[0].user_id, json={"until": (now() + timedelta(1)).isoformat()})
    for _ in range(2):
        await stage.handle(published)
    for each in subscribers[1:]:
        (item,) = await each.items()
        assert (item["kind"], item["read"], item["media"]["id"], item["comment"]) == (
            "video",
            False,
            str(media_id),
            None,
        )
        assert item["created_at"] == item["media"]["published_at"]
    assert await subscribers[0].kinds() == ["video"]
    assert await late.items() == [], "who subscribed after the publication has seen it there"


async def test_notification_of_a_video_is_shown_while_it_holds(stage: Stage) -> None:
    owner_id, mine = new_id(), stage.inbox()
    await stage.subscribe(mine.user_id, owner_id)
    media_id, _ = await stage.publish(owner_id)

    async def counts() -> tuple[int, int]:
        return len(await mine.items()), await mine.unread()

    assert await counts() == (1, 1)
    subscription, video = f"/media/users/{owner_id}/subscription", f"/media/{media_id}"
    for undone, done, more in (
        (("PUT", f"/media/users/{owner_id}/hidden"), ("DELETE", f"/media/users/{owner_id}/hidden"), {}),
        (("PUT", f"{video}/hidden"), ("DELETE", f"{video}/hidden"), {}),
        (("DELETE", subscription), ("PUT", subscription), {}),
        (("PATCH", video), ("PATCH", video), {"visibility": "private"}),
    ):
        by = owner_id if more else mine.user_id
        body = {"json": more} if more else {}
        assert (await stage.call(*undone, by, **body)).is_success
        assert await counts() == (0, 0), undone
        assert (await stage.call(*done, by, **({"json": {"visibility": "public"}} if more else {}))).is_success
        assert await counts() == (1, 1), done


async def test_reply_and_pin_notify_the_author_of_the_comment(stage: Stage) -> None:
    owner_id, author, other = new_id(), stage.inbox(), stage.inbox()
    media_id = await stage.begin(owner_id, visibility="public", ready=True)
    comment_id = await stage.comment(media_id, author.user_id)
    await stage.comment(media_id, author.user_id, comment_id)
    assert await author.items() == [], "a reply of one's own"
    reply_id = await stage.comment(media_id, other.user_id, comment_id)
    (item,) = await author.items()
    assert (item["kind"], item["comment"]["id"], item["media"]["id"]) == ("reply", str(reply_id), str(media_id))
    third = await stage.comment(media_id, owner_id, reply_id)
    assert (await author.kinds(), await other.kinds()) == (["reply", "reply"], ["reply"])

    pin = f"/media/{media_id}/comments/{comment_id}/pin"
    assert (await stage.call("PUT", pin, owner_id)).status_code == 200
    for _ in range(2):
        await stage.handle(await stage.emitted("comment.pinned", MEDIA, media_id))
    assert await author.kinds() == ["pin", "reply", "reply"]
    await stage.call("DELETE", pin, owner_id)
    assert await author.kinds() == ["reply", "reply"]

    assert (await stage.call("DELETE", f"/media/{media_id}/comments/{third}", owner_id)).status_code == 204
    assert (await author.kinds(), await other.kinds()) == (["reply"], [])
    posted = await stage.emitted("comment.posted", COMMENTS, third)
    await stage.handle(await stage.emitted("comment.deleted", COMMENTS, third))
    await stage.handle(posted)  # late
    assert await stage.stored.find_one({"subject_id": third}) is None


async def test_own_notifications_are_paged_read_and_deleted(stage: Stage) -> None:
    owner_id, mine, other = new_id(), stage.inbox(), stage.inbox()
    await stage.subscribe(mine.user_id, owner_id)
    events = [(await stage.publish(owner_id))[1] for _ in range(4)]
    pages: list[list[Any]] = []
    cursor: dict[str, str] = {}
    while not pages or cursor:
        answer = (await stage.call("GET", PATH, mine.user_id, params={"limit": 3} | cursor)).json()
        pages.append(answer["items"])
        cursor = {"cursor": answer["next_cursor"]} if answer["next_cursor"] else {}
    assert [len(page) for page in pages] == [3, 1]
    items = list(itertools.chain(*pages))
    assert items == sorted(items, key=lambda item: item["created_at"], reverse=True)

    newest, oldest = items[0]["id"], items[-1]
    for user_id, left in ((other.user_id, 0), (mine.user_id, 3), (mine.user_id, 3)):
        answer = await stage.call("PUT", f"{PATH}/read", user_id, json={"ids": [newest]})
        assert (answer.status_code, answer.json()) == (200, {"count": left})
    answer = await stage.call("PUT", f"{PATH}/read", mine.user_id, json={"until": oldest["created_at"]})
    assert answer.json() == {"count": 2}
    assert [item["read"] for item in await mine.items()] == [True, False, False, True]

    for user_id, status in ((other.user_id, 404), (mine.user_id, 204), (mine.user_id, 404)):
        assert (await stage.call("DELETE", f"{PATH}/{newest}", user_id)).status_code == status
    for each in events:
        await stage.handle(each)
    assert [item["id"] for item in await mine.items()] == [item["id"] for item in items[1:]]
    for wrong in ({}, {"ids": [], "until": oldest["created_at"]}, {"ids": [newest] * 101}, {"until": "2026-01-01"}):
        assert (await stage.call("PUT", f"{PATH}/read", mine.user_id, json=wrong)).status_code == 422
    assert (await stage.call("GET", PATH)).status_code == 401


async def test_deleted_account_and_deleted_video_leave_no_notification(stage: Stage, reactions: Reactions) -> None:
    owner_id, gone, kept = new_id(), stage.inbox(), stage.inbox()
    for each in (gone, kept):
        await stage.subscribe(each.user_id, owner_id)
    media_id, published = await stage.publish(owner_id)
    comment_id = await stage.comment(media_id, kept.user_id)
    reply_id = await stage.comment(media_id, gone.user_id, comment_id)
    posted = await stage.emitted("comment.posted", COMMENTS, reply_id)
    assert (await gone.kinds(), await kept.kinds()) == (["video"], ["reply", "video"])

    await reactions.to_auth(event("auth", auth.UserDeleted(user_id=gone.user_id)))
    # As left by an attempt that was killed while the account was deleted; the event is delivered again.
    news = [
        Notification(gone.user_id, NotificationKind.VIDEO, media_id, media_id, now()),
        Notification(kept.user_id, NotificationKind.REPLY, media_id, reply_id, now(), actor_id=gone.user_id),
    ]
    await store.insert(stage.database, news)
    for late in (published, posted):
        await stage.handle(late)
    assert await stage.stored.find_one({"user_id": gone.user_id}) is None
    assert await stage.stored.find_one({"actor_id": gone.user_id}) is None
    assert await kept.kinds() == ["video"]

    assert (await stage.call("DELETE", f"/media/{media_id}", owner_id)).status_code == 204
    assert await kept.items() == []
    deleted = media.MediaDeleted(media_id=media_id, owner_id=owner_id)
    for late in (event("media", deleted), published):
        await stage.handle(late)
    assert await stage.stored.find_one({"media_id": media_id}) is None
