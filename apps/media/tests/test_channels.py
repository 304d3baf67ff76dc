"""Subscriptions and hiding, over REST as the gateway forwards it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest

from kinora.events import auth
from kinora.events.media import ChannelSubscribed, RecommendationDismissed
from kinora_kit.events import Event, event
from kinora_kit.ids import new_id
from kinora_kit.mongo import OUTBOX, Database
from kinora_kit.testing import eventually
from kinora_media import subscriptions
from kinora_media.events import Reactions
from kinora_media.store.channels import CHANNELS
from kinora_media.store.marks import HIDDEN_CHANNEL, KINDS, NOT_INTERESTED, SUBSCRIPTION, Kind

if TYPE_CHECKING:
    from conftest import People

Call = Callable[..., Awaitable[httpx.Response]]
Begin = Callable[..., Awaitable[UUID]]


def path(channel_id: UUID, what: str = "subscription") -> str:
    return f"/media/users/{channel_id}/{what}"


async def emitted(database: Database, kind: Kind, user_id: UUID) -> list[Event]:
    document = await database[kind.collection].find_one({"user_id": user_id})
    assert document is not None
    return [Event.model_validate_json(entry["event"]) for entry in document[OUTBOX]]


async def test_subscribe_and_unsubscribe_are_idempotent_and_counted(call: Call, database: Database) -> None:
    channel_id, user_id = new_id(), new_id()
    await call("PUT", path(channel_id), new_id())
    for method, subscribers in (("PUT", 2), ("PUT", 2), ("DELETE", 1), ("DELETE", 1), ("PUT", 2)):
        answer = await call(method, path(channel_id), user_id)
        assert answer.json() == {"user_id": str(channel_id), "subscribers": subscribers, "views": 0}
    subscribed, unsubscribed = sorted(await emitted(database, SUBSCRIPTION, user_id), key=lambda one: one.type)
    assert (subscribed.type, unsubscribed.type) == ("channel.subscribed", "channel.unsubscribed")
    assert subscribed.read(ChannelSubscribed).version == 3


async def test_subscribe_rejects_unknown_and_own_channels(call: Call, people: People) -> None:
    unknown, user_id = new_id(), new_id()
    people.unknown.add(unknown)
    answer = await call("PUT", path(unknown), user_id)
    assert (answer.status_code, answer.json()["code"]) == (404, "channel_not_found")
    answer = await call("PUT", path(user_id), user_id)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert (await call("PUT", path(unknown))).status_code == 401


async def test_subscribe_is_limited(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "MAX_SUBSCRIPTIONS", 2)
    user_id, channels = new_id(), [new_id() for _ in range(3)]
    answers = [await call("PUT", path(channel_id), user_id) for channel_id in channels]
    assert [answer.status_code for answer in answers] == [200, 200, 409]
    assert answers[2].json()["code"] == "too_many_subscriptions"
    assert (await call("PUT", path(channels[0]), user_id)).status_code == 200


async def test_subscriptions_are_listed_last_subscribed_first(call: Call) -> None:
    user_id, channels = new_id(), [new_id() for _ in range(3)]
    for channel_id in channels:
        await call("PUT", path(channel_id), user_id)
    seen: list[Any] = []
    cursor: dict[str, str] = {}
    while not seen or cursor:
        page = (await call("GET", "/media/subscriptions", user_id, params={"limit": 2} | cursor)).json()
        seen += [item["user_id"] for item in page["items"]]
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
    assert seen == [str(channel_id) for channel_id in channels[::-1]]
    assert (await call("GET", "/media/subscriptions")).status_code == 401


async def test_subscribed_media_merges_channels_last_published_first(
    call: Call, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinora_media.store.media.OWNERS", 1)  # each channel is a query of its own
    user_id, channels = new_id(), [new_id() for _ in range(2)]
    for channel_id in channels:
        await call("PUT", path(channel_id), user_id)
    made = [await begin(channels[number % 2], visibility="public", ready=True) for number in range(5)]
    await begin(channels[0], visibility="private", ready=True)
    await begin(channels[0], visibility="public")
    await begin(new_id(), visibility="public", ready=True)
    seen: list[Any] = []
    cursor: dict[str, str] = {}
    while not seen or cursor:
        page = (await call("GET", "/media/subscriptions/media", user_id, params={"limit": 2} | cursor)).json()
        seen += [item["id"] for item in page["items"]]
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
    assert seen == [str(media_id) for media_id in made[::-1]]
    await call("DELETE", path(channels[1]), user_id)
    page = (await call("GET", "/media/subscriptions/media", user_id)).json()
    assert [item["id"] for item in page["items"]] == [str(media_id) for media_id in made[::-2]]


async def test_hiding_is_undoable_and_emitted(call: Call, begin: Begin, database: Database, people: People) -> None:
    user_id, channel_id = new_id(), new_id()
    media_id = await begin(channel_id, visibility="public")
    for target, kind in ((f"/media/{media_id}/hidden", NOT_INTERESTED), (path(channel_id, "hidden"), HIDDEN_CHANNEL)):
        for method, hidden in (("PUT", True), ("PUT", True), ("DELETE", False), ("DELETE", False)):
            assert (await call(method, target, user_id)).status_code == 204
            (dismissed,) = await emitted(database, kind, user_id)
            said = dismissed.read(RecommendationDismissed)
            assert (said.dismissed, said.user_id) == (hidden, user_id)
            assert (said.media_id or said.channel_id) in (media_id, channel_id)
    unknown = new_id()
    people.unknown.add(unknown)
    assert (await call("PUT", path(unknown, "hidden"), user_id)).json()["code"] == "channel_not_found"
    assert (await call("PUT", f"/media/{new_id()}/hidden", user_id)).json()["code"] == "media_not_found"


async def test_deleted_account_leaves_no_mark(
    call: Call, begin: Begin, database: Database, reactions: Reactions
) -> None:
    leaving, channel_id = new_id(), new_id()
    media_id = await begin(channel_id, visibility="public")
    await call("PUT", path(channel_id), new_id())
    fan = new_id()
    await call("PUT", path(leaving), fan)
    for target in (path(channel_id), path(channel_id, "hidden"), f"/media/{media_id}/hidden"):
        assert (await call("PUT", target, leaving)).status_code in (200, 204)
    await reactions.to_auth(event("auth", auth.UserDeleted(user_id=leaving)))
    # Requests that were on the way.
    await call("PUT", path(channel_id), leaving)
    assert (await call("PUT", path(leaving), fan)).json()["code"] == "channel_not_found"

    async def gone() -> bool:
        marks = [
            await database[kind.collection].count_documents({"$or": [{"user_id": leaving}, {"thing_id": leaving}]})
            for kind in KINDS
        ]
        channel = await database[CHANNELS].find_one({"_id": channel_id})
        return not any(marks) and channel is not None and channel["tally"]["counters"]["subscribers"] == 1

    await eventually(gone)


async def test_dashboard_has_totals_by_day_uploads_and_what_is_new(call: Call, begin: Begin) -> None:
    owner_id, fan, other = new_id(), new_id(), new_id()
    ready, draft = await begin(owner_id, visibility="public", ready=True), await begin(owner_id)
    new = await begin(other, visibility="public", ready=True)
    await call("PUT", path(owner_id), fan)
    await call("PUT", path(other), owner_id)
    for user_id in (fan, other):
        await call("PUT", f"/media/{ready}/like", user_id)
    totals = {"subscribers": 1, "views": 0, "likes": 2, "comments": 0}

    async def shown() -> bool:
        answer = (await call("GET", "/media/dashboard", owner_id)).json()
        assert [item["id"] for item in answer["uploads"]["items"]] == [str(draft), str(ready)]
        assert [item["id"] for item in answer["subscriptions"]["items"]] == [str(new)]
        today = [{"date": datetime.now(UTC).date().isoformat(), **totals}]
        return bool((answer["totals"], answer["days"]) == (totals, today))

    await eventually(shown)
    assert (await call("GET", "/media/dashboard")).status_code == 401
    assert (await call("GET", "/media/dashboard", owner_id, params={"days": 401})).status_code == 422
    empty = (await call("GET", "/media/dashboard", new_id())).json()
    assert (empty["totals"]["views"], empty["days"], empty["uploads"]["items"]) == (0, [], [])
