"""Playlists, over REST as the gateway forwards it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinora.events import auth
from kinora.events.media import MediaDeleted
from kinora_kit.events import Event, event
from kinora_kit.ids import new_id
from kinora_kit.mongo import OUTBOX, Database
from kinora_kit.testing import eventually
from kinora_media import playlists
from kinora_media.domain import Playlist, Visibility, placed, without
from kinora_media.events import Reactions
from kinora_media.store.playlists import PLAYLISTS

Call = Callable[..., Awaitable[httpx.Response]]
Begin = Callable[..., Awaitable[UUID]]

AT = datetime(2026, 1, 1, tzinfo=UTC)
IDS = [UUID(int=number) for number in range(6)]


@given(st.lists(st.tuples(st.sampled_from(IDS), st.one_of(st.none(), st.integers(0, 8)), st.booleans())))
def test_items_are_ordered_like_a_list(operations: list[tuple[UUID, int | None, bool]]) -> None:
    playlist = Playlist(new_id(), new_id(), "", Visibility.PRIVATE, AT, AT)
    model: list[UUID] = []
    for media_id, index, adds in operations:
        if not adds:
            playlist = without(playlist, media_id)
            model = [each for each in model if each != media_id]
        else:
            playlist = placed(playlist, media_id, at=AT, index=index)
            if media_id not in model or index is not None:
                model = [each for each in model if each != media_id]
                model.insert(len(model) if index is None else index, media_id)
        assert [item.media_id for item in playlist.items] == model


async def create(call: Call, owner_id: UUID, **more: Any) -> dict[str, Any]:
    body = {"title": "Playlist", **more}
    answer = await call("POST", "/media/playlists", owner_id, json=body, headers={"Idempotency-Key": new_id().hex})
    assert answer.status_code == 201, answer.text
    playlist: dict[str, Any] = answer.json()
    return playlist


async def items(call: Call, playlist_id: str, user_id: UUID | None) -> list[str]:
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await call("GET", f"/media/playlists/{playlist_id}/items", user_id, params={"limit": 2} | cursor)
        assert page.status_code == 200, page.text
        seen += [item["media"]["id"] for item in page.json()["items"]]
        if not page.json()["next_cursor"]:
            return seen
        cursor = {"cursor": page.json()["next_cursor"]}


async def test_items_are_added_moved_and_removed(call: Call, begin: Begin, database: Database) -> None:
    owner_id = new_id()
    playlist = await create(call, owner_id)
    made = [str(await begin(new_id(), visibility="public")) for _ in range(5)]
    path = f"/media/playlists/{playlist['id']}/items"
    for media_id in (*made, made[0]):
        answer = await call("PUT", f"{path}/{media_id}", owner_id, json={})
    assert answer.json()["size"] == 5
    assert await items(call, playlist["id"], owner_id) == made
    await call("PUT", f"{path}/{made[4]}", owner_id, json={"index": 1})
    await call("PUT", f"{path}/{made[0]}", owner_id, json={"index": 99})
    assert await items(call, playlist["id"], owner_id) == [made[4], *made[1:4], made[0]]
    for _ in range(2):
        assert (await call("DELETE", f"{path}/{made[2]}", owner_id)).json()["size"] == 4
    assert await items(call, playlist["id"], owner_id) == [made[4], made[1], made[3], made[0]]
    document = await database[PLAYLISTS].find_one({"_id": UUID(playlist["id"])})
    assert document is not None
    said = [Event.model_validate_json(entry["event"]) for entry in document[OUTBOX]]
    assert [one.type for one in said] == [*["playlist.item_added"] * 5, "playlist.item_removed"]


async def test_page_continues_after_its_last_item_was_removed(call: Call, begin: Begin) -> None:
    owner_id = new_id()
    playlist = await create(call, owner_id)
    made = [str(await begin(new_id(), visibility="public")) for _ in range(4)]
    path = f"/media/playlists/{playlist['id']}/items"
    for media_id in made:
        await call("PUT", f"{path}/{media_id}", owner_id, json={})
    first = (await call("GET", path, owner_id, params={"limit": 2})).json()
    await call("DELETE", f"{path}/{made[1]}", owner_id)
    rest = (await call("GET", path, owner_id, params={"cursor": first["next_cursor"]})).json()
    assert [item["media"]["id"] for item in rest["items"]] == made[2:]


async def test_playlist_follows_its_visibility_and_that_of_its_items(call: Call, begin: Begin) -> None:
    owner_id, stranger = new_id(), new_id()
    playlist = await create(call, owner_id)
    own, public = await begin(owner_id), await begin(new_id(), visibility="public")
    path = f"/media/playlists/{playlist['id']}"
    for media_id in (own, public):
        await call("PUT", f"{path}/items/{media_id}", owner_id, json={})
    assert (await call("GET", path, stranger)).json()["code"] == "playlist_not_found"
    assert (await call("PUT", f"{path}/items/{public}", stranger, json={})).status_code == 404
    edited = await call("PATCH", path, owner_id, json={"visibility": "public", "title": "Shared"})
    assert (edited.json()["title"], edited.json()["visibility"]) == ("Shared", "public")
    assert await items(call, playlist["id"], None) == [str(public)]
    assert await items(call, playlist["id"], owner_id) == [str(own), str(public)]
    for method, body in (("PATCH", {"title": "Mine"}), ("DELETE", None)):
        assert (await call(method, path, stranger, json=body)).json()["code"] == "not_the_owner"
    assert (await call("DELETE", f"{path}/items/{public}", stranger)).json()["code"] == "not_the_owner"
    hidden = await create(call, owner_id, visibility="unlisted")
    for user_id, seen in ((owner_id, [hidden["id"], playlist["id"]]), (stranger, [playlist["id"]])):
        page = (await call("GET", f"/media/users/{owner_id}/playlists", user_id)).json()
        assert [each["id"] for each in page["items"]] == seen
    assert (await call("GET", f"/media/playlists/{hidden['id']}", stranger)).status_code == 200
    assert [(await call("DELETE", path, owner_id)).status_code for _ in range(2)] == [204, 404]


async def test_watch_later_is_private_and_built_in(call: Call, begin: Begin) -> None:
    user_id, media_id = new_id(), await begin(new_id(), visibility="public")
    first, second = [(await call("GET", "/media/playlists/watch-later", user_id)).json() for _ in range(2)]
    assert first == second
    path = f"/media/playlists/{first['id']}"
    assert (await call("PUT", f"{path}/items/{media_id}", user_id, json={})).json()["size"] == 1
    for answer in (
        await call("PATCH", path, user_id, json={"visibility": "public"}),
        await call("DELETE", path, user_id),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert (await call("GET", path, new_id())).status_code == 404
    assert [each["kind"] for each in (await call("GET", "/media/playlists", user_id)).json()["items"]] == [
        "watch_later"
    ]


async def test_repeated_create_returns_the_same_playlist(call: Call) -> None:
    owner_id, body = new_id(), {"title": "Once"}
    headers = {"Idempotency-Key": "once"}
    made = [(await call("POST", "/media/playlists", owner_id, json=body, headers=headers)).json() for _ in range(2)]
    assert made[0] == made[1]
    other = (await call("POST", "/media/playlists", new_id(), json=body, headers=headers)).json()
    assert other["id"] != made[0]["id"]


async def test_playlists_and_items_are_limited(call: Call, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playlists, "MAX_PLAYLISTS", 1)
    monkeypatch.setattr(playlists, "MAX_ITEMS", 1)
    owner_id = new_id()
    playlist = await create(call, owner_id)
    refused = await call("POST", "/media/playlists", owner_id, json={"title": "x"}, headers={"Idempotency-Key": "x"})
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_playlists")
    path = f"/media/playlists/{playlist['id']}/items"
    answers = [
        await call("PUT", f"{path}/{await begin(new_id(), visibility='public')}", owner_id, json={}) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 409]
    assert answers[1].json()["code"] == "playlist_full"


async def test_deletions_leave_nothing_in_playlists(
    call: Call, begin: Begin, database: Database, reactions: Reactions
) -> None:
    owner_id, leaving = new_id(), new_id()
    media_id = await begin(owner_id, visibility="public")
    kept, gone = await create(call, new_id(), visibility="public"), await create(call, leaving)
    document = await database[PLAYLISTS].find_one({"_id": UUID(kept["id"])})
    assert document is not None
    await call("PUT", f"/media/playlists/{kept['id']}/items/{media_id}", document["owner_id"], json={})
    await reactions.to_media(event("media", MediaDeleted(media_id=media_id, owner_id=owner_id)))
    assert (await call("GET", f"/media/playlists/{kept['id']}")).json()["size"] == 0
    await reactions.to_auth(event("auth", auth.UserDeleted(user_id=leaving)))
    assert await database[PLAYLISTS].find_one({"_id": UUID(gone["id"])}) is None
    await create(call, leaving)  # its request was on the way

    async def none_left() -> bool:
        return not await database[PLAYLISTS].count_documents({"owner_id": leaving})

    await eventually(none_left)
