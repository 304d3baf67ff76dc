"""Views, retention and the watch history, over REST as the gateway forwards it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinora.events import auth
from kinora.events.media import HistoryCleared, ImpressionsRecorded, MediaDeleted, MediaWatched
from kinora_kit.events import Event, event
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.mongo import OUTBOX, Database
from kinora_kit.testing import eventually
from kinora_media.domain import SPEED, Heartbeat, View, watched
from kinora_media.events import Reactions
from kinora_media.store.history import HISTORY
from kinora_media.store.impressions import IMPRESSIONS
from kinora_media.store.tallies import Thing
from kinora_media.store.views import VIEWS
from kinora_media.use_cases import UseCases
from kinora_media.watching import Viewer

Call = Callable[..., Awaitable[httpx.Response]]
Begin = Callable[..., Awaitable[UUID]]

AT = datetime(2026, 1, 1, tzinfo=UTC)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 30)), max_size=20),
    st.one_of(st.none(), st.floats(0.5, 100)),
)
def test_nobody_watches_faster_than_twice_the_clock(
    heartbeats: list[tuple[float, float]], duration: float | None
) -> None:
    view, at = View(b"", new_id(), 0.0, AT), AT
    for position, elapsed in heartbeats:
        at += timedelta(seconds=elapsed)
        before, view = view, watched(view, position=position, at=at, duration=duration)
        assert before.seconds <= view.seconds <= SPEED * (at - AT).total_seconds() + 1e-6
        assert before.bins <= view.bins <= set(range(100))
        assert view.counted >= before.counted


def test_retention_has_the_parts_between_two_heartbeats() -> None:
    view = View(b"", new_id(), 10.0, AT)
    view = watched(view, position=20.0, at=AT + timedelta(seconds=10), duration=100.0)
    assert view.bins == set(range(10, 21))
    sought = watched(view, position=80.0, at=AT + timedelta(seconds=12), duration=100.0)
    assert (sought.bins, sought.seconds) == (view.bins, view.seconds)


async def age(database: Database, media_id: UUID, seconds: float) -> None:
    """Let time pass for what was watched of a document."""
    step = {"$set": {"at": {"$dateSubtract": {"startDate": "$at", "unit": "second", "amount": seconds}}}}
    for collection in (VIEWS, HISTORY):
        await database[collection].update_many({"media_id": media_id}, [step])


@pytest.fixture
def watch(call: Call, database: Database) -> Callable[..., Awaitable[None]]:
    """``watch(media_id, user_id, *positions)``: heartbeats, each ten seconds after the one before."""

    async def send(media_id: UUID, user_id: UUID | None, *positions: float, final: bool = False) -> None:
        for position in positions:
            await age(database, media_id, 10)
            body = {"position": position, "final": final}
            answer = await call("POST", f"/media/{media_id}/views", user_id, json=body)
            assert answer.status_code == 204, answer.text

    return send


Watch = Callable[..., Awaitable[None]]


async def views(call: Call, media_id: UUID) -> int:
    count: int = (await call("GET", f"/media/{media_id}")).json()["counters"]["views"]
    return count


async def has(call: Call, media_id: UUID, count: int) -> bool:
    return await views(call, media_id) == count


async def settled(use_cases: UseCases, media_id: UUID) -> None:
    await use_cases.likes.marks.tallies.settle(Thing("media", media_id))


async def test_view_counts_once_per_viewer_and_hour(
    call: Call, begin: Begin, watch: Watch, use_cases: UseCases, database: Database
) -> None:
    media_id, viewer = await begin(new_id(), visibility="public"), new_id()
    await watch(media_id, viewer, 0, 8)
    await settled(use_cases, media_id)
    assert await views(call, media_id) == 0
    await watch(media_id, viewer, 16, 24, 32)
    await watch(media_id, new_id(), 0, 10)
    await watch(media_id, None, 0, 10)
    await eventually(lambda: has(call, media_id, 3))
    kept = [document async for document in database[VIEWS].find({"media_id": media_id})]
    assert len(kept) == 3
    assert str(viewer) not in str(kept)
    published = [entry["type"] for document in kept for entry in document[OUTBOX]]
    assert published == ["media.viewed"] * 3


async def test_short_video_counts_at_its_half(call: Call, begin: Begin, watch: Watch) -> None:
    media_id = await begin(new_id(), visibility="public", ready=True)  # 10 s
    await watch(media_id, new_id(), 0, 5)
    await eventually(lambda: has(call, media_id, 1))


async def test_view_of_the_owner_does_not_count(call: Call, begin: Begin, watch: Watch, use_cases: UseCases) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id, visibility="public")
    await watch(media_id, owner_id, 0, 10, 20)
    await settled(use_cases, media_id)
    assert await views(call, media_id) == 0


async def test_seeking_is_not_watching(call: Call, begin: Begin, watch: Watch, use_cases: UseCases) -> None:
    media_id, viewer = await begin(new_id(), visibility="public"), new_id()
    await watch(media_id, viewer, 0, 500, 900, 10)
    await settled(use_cases, media_id)
    assert await views(call, media_id) == 0
    private = await begin(new_id())
    assert (await call("POST", f"/media/{private}/views", viewer, json={"position": 1})).status_code == 404
    for position in (-1, 1e9, "NaN", None):
        answer = await call("POST", f"/media/{media_id}/views", viewer, json={"position": position})
        assert answer.status_code == 422, position


async def test_view_goes_on_over_the_hour(
    begin: Begin, use_cases: UseCases, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    media_id = await begin(new_id(), visibility="public")
    viewer = Viewer(Caller(new_id()), "")
    at = datetime(2026, 11, 28, 9, 59, 30, tzinfo=UTC)
    for step in range(8):  # until 10:00:40
        monkeypatch.setattr("kinora_media.watching.now", lambda now=at + timedelta(seconds=10 * step): now)
        await use_cases.watching.record(viewer, media_id, Heartbeat(position=10.0 * step))
    await eventually(lambda: has(call, media_id, 1))
    monkeypatch.setattr("kinora_media.watching.now", lambda: at + timedelta(hours=2))
    await use_cases.watching.record(viewer, media_id, Heartbeat(position=0))
    monkeypatch.setattr("kinora_media.watching.now", lambda: at + timedelta(hours=2, seconds=10))
    await use_cases.watching.record(viewer, media_id, Heartbeat(position=10))
    await eventually(lambda: has(call, media_id, 2))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("not an address", "not an address", True),
    ],
)
def test_anonymous_viewers_are_told_apart_by_network(one: str, other: str, same: bool) -> None:
    assert (Viewer(None, one).name == Viewer(None, other).name) == same
    assert Viewer(Caller(new_id()), one).name != Viewer(None, one).name


async def test_retention_is_shown_to_the_owner_only(call: Call, begin: Begin, watch: Watch) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id, visibility="public", ready=True)  # 10 s
    await watch(media_id, new_id(), 0, 5)
    await watch(media_id, None, 2, 9)
    expected = [1] * 20 + [2] * 31 + [1] * 40 + [0] * 9

    async def shown() -> bool:
        answer = await call("GET", f"/media/{media_id}/retention", owner_id)
        return bool(answer.json() == {"parts": expected})

    await eventually(shown)
    assert (await call("GET", f"/media/{media_id}/retention", new_id())).json()["code"] == "not_the_owner"


async def test_history_resumes_and_is_removed(call: Call, begin: Begin, watch: Watch, database: Database) -> None:
    user_id, ids = new_id(), [await begin(new_id(), visibility="public", ready=True) for _ in range(3)]
    for media_id in ids:
        await watch(media_id, user_id, 0, 4)
    await watch(ids[0], user_id, 7, final=True)
    seen: list[Any] = []
    cursor: dict[str, str] = {}
    while not seen or cursor:
        page = (await call("GET", "/media/history", user_id, params={"limit": 2} | cursor)).json()
        seen += [(item["media"]["id"], item["position"]) for item in page["items"]]
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
    assert {media_id for media_id, _ in seen} == set(map(str, ids))
    assert dict(seen)[str(ids[0])] == 7
    (said,) = await emitted(database, ids[0], user_id)
    assert (said.share, said.position, said.final) == (0.7, 7, True)

    assert (await call("DELETE", f"/media/{ids[0]}/history", user_id)).status_code == 204
    assert len((await call("GET", "/media/history", user_id)).json()["items"]) == 2
    assert (await call("DELETE", "/media/history", user_id)).status_code == 204
    assert (await call("GET", "/media/history", user_id)).json() == {"items": [], "next_cursor": None}
    channel = await database["channels"].find_one({"_id": user_id})
    assert channel is not None
    (cleared,) = [Event.model_validate_json(entry["event"]) for entry in channel[OUTBOX]]
    assert cleared.read(HistoryCleared).user_id == user_id


async def emitted(database: Database, media_id: UUID, user_id: UUID) -> list[MediaWatched]:
    document = await database[HISTORY].find_one({"media_id": media_id, "user_id": user_id})
    assert document is not None
    return [Event.model_validate_json(entry["event"]).read(MediaWatched) for entry in document[OUTBOX]]


async def test_switched_off_history_keeps_nothing_new(call: Call, begin: Begin, watch: Watch) -> None:
    user_id, media_id = new_id(), await begin(new_id(), visibility="public")
    assert (await call("GET", "/media/personalisation", user_id)).json() == {"enabled": True}
    for enabled in (False, False):
        answer = await call("PUT", "/media/personalisation", user_id, json={"enabled": enabled})
        assert answer.json() == (await call("GET", "/media/personalisation", user_id)).json() == {"enabled": enabled}
    await watch(media_id, user_id, 0, 10)
    assert (await call("GET", "/media/history", user_id)).json()["items"] == []
    await eventually(lambda: has(call, media_id, 1))
    await call("PUT", "/media/personalisation", user_id, json={"enabled": True})
    await watch(media_id, user_id, 20)
    assert len((await call("GET", "/media/history", user_id)).json()["items"]) == 1


async def test_late_process_clears_what_another_left(database: Database, reactions: Reactions, begin: Begin) -> None:
    """``clear`` emits its event before it deletes."""
    user_id, media_id = new_id(), await begin(new_id(), visibility="public")
    key = media_id.bytes + user_id.bytes
    visit = {"_id": key, "user_id": user_id, "media_id": media_id, "position": 0.0, "seconds": 0.0, "version": 1}
    await database[HISTORY].insert_one({**visit, "at": AT})
    cleared = HistoryCleared(user_id=user_id, at=AT)
    await reactions.to_media(event("media", cleared))
    assert await database[HISTORY].find_one({"_id": key}) is None
    await database[HISTORY].insert_one({**visit, "at": AT + timedelta(seconds=1)})
    await reactions.to_media(event("media", cleared))
    assert await database[HISTORY].find_one({"_id": key}) is not None


async def test_deleted_account_keeps_its_views_but_no_history(
    call: Call, begin: Begin, watch: Watch, database: Database, reactions: Reactions
) -> None:
    user_id, media_id = new_id(), await begin(new_id(), visibility="public")
    await watch(media_id, user_id, 0, 10)
    await eventually(lambda: has(call, media_id, 1))
    await reactions.to_auth(event("auth", auth.UserDeleted(user_id=user_id)))
    await watch(media_id, user_id, 20)  # its player did not know

    async def gone() -> bool:
        return not await database[HISTORY].count_documents({"user_id": user_id})

    await eventually(gone)
    assert await views(call, media_id) == 1


async def test_deleted_media_leaves_no_view(
    call: Call, begin: Begin, watch: Watch, database: Database, reactions: Reactions
) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id, visibility="public")
    await watch(media_id, new_id(), 0, 10)
    await call("DELETE", f"/media/{media_id}", owner_id)
    await reactions.to_media(event("media", MediaDeleted(media_id=media_id, owner_id=owner_id)))
    for collection in (VIEWS, HISTORY):
        assert not await database[collection].count_documents({"media_id": media_id})


async def test_impressions_are_recorded_once_and_name_the_user_only_with_personalisation(
    call: Call, database: Database
) -> None:
    media_id, users = new_id(), [new_id(), new_id(), None]
    assert (await call("PUT", "/media/personalisation", users[1], json={"enabled": False})).is_success
    shown = {"media_id": str(media_id), "surface": "feed", "position": 3}
    for user_id in [*users, *users]:
        headers = {"Idempotency-Key": f"key-{media_id}"}
        body = {"impressions": [shown]}
        answer = await call("POST", "/media/impressions", user_id, json=body, headers=headers)
        assert answer.status_code == 204, answer.text
    found = []
    async for document in database[IMPRESSIONS].find():
        (pending,) = document[OUTBOX]
        recorded = Event.model_validate_json(pending["event"]).read(ImpressionsRecorded)
        if recorded.impressions[0].media_id == media_id:
            found.append(recorded.user_id)
            assert (recorded.impressions[0].surface, recorded.impressions[0].position) == ("feed", 3)
    assert sorted(found, key=str) == sorted([users[0], None, None], key=str)
    wrong = [{**shown, "media_id": "x"}], [{**shown, "surface": "x"}], [{**shown, "position": -1}]
    for impressions in ([], [shown] * 101, *wrong):
        body, headers = {"impressions": impressions}, {"Idempotency-Key": "k"}
        answer = await call("POST", "/media/impressions", json=body, headers=headers)
        assert answer.status_code == 422, impressions
