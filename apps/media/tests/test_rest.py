from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import grpc
import httpx
import pytest

from kinora.events import video
from kinora_kit.errors import DomainError, Unavailable
from kinora_kit.events import Event, event
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.mongo import Collection, Database
from kinora_media import cursors
from kinora_media.catalogue import ATTEMPTS, Catalogue
from kinora_media.clock import in_milliseconds
from kinora_media.domain import Changes, Media
from kinora_media.errors import ChangedMeanwhile
from kinora_media.events import Reactions
from kinora_media.facets import Filters
from kinora_media.store import media as store
from kinora_media.store.drafts import DRAFTS
from kinora_media.use_cases import UseCases

if TYPE_CHECKING:
    from conftest import Streams

Call = Callable[..., Awaitable[httpx.Response]]
Begin = Callable[..., Awaitable[UUID]]


async def test_get_media_returns_the_whole_document_to_its_owner(call: Call, begin: Begin) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id, ready=True)
    answer = await call("GET", f"/media/{media_id}", owner_id)
    assert answer.status_code == 200
    document = answer.json()
    assert document.pop("created_at").endswith("Z")
    assert document.pop("updated_at").endswith("Z")
    assert document == {
        "id": str(media_id),
        "owner_id": str(owner_id),
        "title": "Title",
        "description": "",
        "tags": [],
        "category": "",
        "language": "",
        "visibility": "private",
        "state": "ready",
        "attributes": {},
        "duration": 10.0,
        "width": 1920,
        "height": 1080,
        "failure": None,
        "publish_at": None,
        "published_at": None,
        "comments_enabled": True,
        "pinned_comment_id": None,
        "counters": {"views": 0, "likes": 0, "comments": 0},
    }


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_private_media_is_404_for_others(call: Call, begin: Begin, method: str) -> None:
    private, nothing = await begin(new_id()), new_id()
    answers = [
        await call(method, f"/media/{media_id}", new_id(), json={"title": "Mine"} if method == "PATCH" else None)
        for media_id in (private, nothing)
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert [answer.json()["code"] for answer in answers] == ["media_not_found"] * 2


@pytest.mark.parametrize("visibility", ["unlisted", "public"])
async def test_get_media_returns_unlisted_and_public_documents_to_anyone(
    call: Call, begin: Begin, visibility: str
) -> None:
    media_id = await begin(new_id(), visibility=visibility)
    assert (await call("GET", f"/media/{media_id}")).status_code == 200
    assert (await call("GET", f"/media/{media_id}", new_id())).status_code == 200


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_patch_and_delete_are_403_for_others_and_401_for_anonymous(call: Call, begin: Begin, method: str) -> None:
    media_id = await begin(new_id(), visibility="public")
    body = {"title": "Mine"} if method == "PATCH" else None
    stranger = await call(method, f"/media/{media_id}", new_id(), json=body)
    assert (stranger.status_code, stranger.json()["code"]) == (403, "not_the_owner")
    nobody = await call(method, f"/media/{media_id}", json=body)
    assert (nobody.status_code, nobody.json()["code"]) == (401, "not_signed_in")
    assert (await call("GET", f"/media/{media_id}")).json()["title"] == "Title"


async def test_patch_media_changes_only_the_given_fields(call: Call, begin: Begin) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id)
    changes = {"description": "More", "tags": ["A", "b "], "attributes": {"camera": {"iso": 100, "f": 1.8}}}
    answer = await call("PATCH", f"/media/{media_id}", owner_id, json=changes)
    assert answer.status_code == 200
    after = (await call("GET", f"/media/{media_id}", owner_id)).json()
    assert answer.json() == after
    assert after["title"] == "Title"
    assert (after["description"], after["tags"], after["attributes"]) == ("More", ["a", "b"], changes["attributes"])


@pytest.mark.parametrize("body", [{"title": None}, {"state": "ready"}, {"tags": "a"}, [], None])
async def test_patch_media_rejects_an_invalid_body(call: Call, begin: Begin, body: object) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id)
    answer = await call("PATCH", f"/media/{media_id}", owner_id, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


async def test_patch_media_without_changes_writes_nothing(call: Call, begin: Begin, documents: Collection) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id)
    before = await documents.find_one({"_id": media_id})
    assert (await call("PATCH", f"/media/{media_id}", owner_id, json={"title": "Title"})).status_code == 200
    assert (await call("PATCH", f"/media/{media_id}", owner_id, json={})).status_code == 200
    assert await documents.find_one({"_id": media_id}) == before


LATEST = datetime.max.replace(tzinfo=UTC)
CREATION = {
    "filename": "a.mp4",
    "size": 9,
    "title": "Mine",
    "description": "More",
    "tags": ["A"],
    "category": "music",
    "language": "en",
    "visibility": "unlisted",
    "attributes": {"camera": {"iso": 100}},
}


def started(video_id: UUID, owner_id: UUID, draft_id: UUID | None) -> Event:
    ids = {"video_id": video_id, "owner_id": owner_id, "draft_id": draft_id}
    return event("video", video.UploadStarted(**ids, title="Title", filename="a.mp4", size=9, visibility="private"))


async def test_post_media_creates_an_upload_whose_document_has_all_fields(
    call: Call, reactions: Reactions, streams: Streams
) -> None:
    owner_id = new_id()
    answer = await call("POST", "/media", owner_id, json=CREATION)
    [(media_id, draft)] = streams.created
    url = f"http://uploads.test/{media_id}"
    assert (answer.status_code, answer.headers["location"]) == (201, url)
    assert answer.json() == {"id": str(media_id), "upload_url": url}
    assert (await call("GET", f"/media/{media_id}", owner_id)).status_code == 404, "not before the upload exists"
    handle = reactions.to_video
    await handle(event("video", video.Ready(video_id=media_id, owner_id=owner_id, duration=9, width=9, height=9)))
    begun = started(media_id, owner_id, draft.id)
    await handle(begun)
    given = {name: value for name, value in CREATION.items() if name not in ("filename", "size")} | {"tags": ["a"]}
    document = (await call("GET", f"/media/{media_id}", owner_id)).json()
    assert {name: document[name] for name in given} == given
    assert document["state"] == "ready"
    await call("PATCH", f"/media/{media_id}", owner_id, json={"title": "Edited"})
    await handle(begun)
    assert (await call("GET", f"/media/{media_id}", owner_id)).json()["title"] == "Edited", "redelivered"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"title": " "}, "title"),
        ({"size": -1}, "size"),
        ({"filename": ""}, "filename"),
        ({"category": "unknown"}, "category"),
        ({"publish_at": "2020-01-01T00:00:00Z"}, "publish_at"),
        ({"publish_at": (datetime.now(UTC) + timedelta(days=1)).isoformat()}, "publish_at"),  # and unlisted
        ({"owner_id": str(new_id())}, "owner_id"),
    ],
)
async def test_post_media_names_invalid_fields_before_an_upload_exists(
    call: Call, streams: Streams, wrong: dict[str, object], field: str
) -> None:
    answer = await call("POST", "/media", new_id(), json=CREATION | wrong)
    assert (answer.status_code, [each["field"] for each in answer.json()["errors"]]) == (422, [field])
    assert streams.created == []


async def test_draft_is_deleted_with_the_video_and_with_the_account(
    call: Call, use_cases: UseCases, reactions: Reactions, streams: Streams, database: Database
) -> None:
    owner_id = new_id()
    for _ in range(3):
        assert (await call("POST", "/media", owner_id, json=CREATION)).status_code == 201
    (media_id, draft), (again, _), _ = streams.created
    for each in (media_id, again):  # the upload was created twice
        await reactions.to_video(started(each, owner_id, draft.id))
        assert (await call("GET", f"/media/{each}", owner_id)).json()["title"] == "Mine"
    assert (await call("DELETE", f"/media/{again}", owner_id)).status_code == 204
    left = [document["_id"] async for document in database[DRAFTS].find({"owner_id": owner_id})]
    assert left == [other.id for _, other in streams.created[1:]]
    await use_cases.belongings.remove_of_user(owner_id)
    assert await database[DRAFTS].find_one({"owner_id": owner_id}) is None


async def test_uploads_cannot_take_the_draft_of_another_user(
    call: Call, reactions: Reactions, streams: Streams
) -> None:
    assert (await call("POST", "/media", new_id(), json=CREATION)).status_code == 201
    [(_, draft)] = streams.created
    media_id, other = new_id(), new_id()
    await reactions.to_video(started(media_id, other, draft.id))
    assert (await call("GET", f"/media/{media_id}", other)).json()["title"] == "Title"


async def test_categories_are_listed_and_a_removed_one_is_kept(call: Call, begin: Begin, documents: Collection) -> None:
    listed = (await call("GET", "/media/categories")).json()
    assert listed == {"items": [{"id": "music", "name": "Music"}, {"id": "film", "name": "Film and animation"}]}
    owner_id = new_id()
    media_id = await begin(owner_id)
    await documents.update_one({"_id": media_id}, {"$set": {"category": "radio"}})
    for category, status in (("radio", 200), ("film", 200), ("radio", 422), ("", 200)):
        answer = await call("PATCH", f"/media/{media_id}", owner_id, json={"category": category})
        assert answer.status_code == status, category
        assert status == 200 or [each["field"] for each in answer.json()["errors"]] == ["category"]


async def test_scheduled_video_is_published_once_at_its_time(
    call: Call, catalogue: Catalogue, begin: Begin, documents: Collection
) -> None:
    owner_id = new_id()
    due, later, cancelled = [await begin(owner_id, ready=True) for _ in range(3)]
    for media_id in (due, later, cancelled):
        at = datetime.now(UTC) + timedelta(days=1)
        answer = await call("PATCH", f"/media/{media_id}", owner_id, json={"publish_at": at.isoformat()})
        assert datetime.fromisoformat(answer.json()["publish_at"]) == in_milliseconds(at)
    answer = await call("PATCH", f"/media/{cancelled}", owner_id, json={"visibility": "private"})
    assert answer.json()["publish_at"] is None
    answer = await call("PATCH", f"/media/{later}", owner_id, json={"title": "Later"})
    assert answer.json()["publish_at"], "other edits keep it"
    await documents.update_one({"_id": due}, {"$set": {"publish_at": datetime.now(UTC)}})
    before = await documents.find_one({"_id": due})
    await asyncio.gather(*(catalogue.publish_due() for _ in range(4)))
    assert before is not None
    shown = (await call("GET", f"/media/{due}")).json()
    assert (shown["visibility"], shown["publish_at"]) == ("public", None)
    after = await documents.find_one({"_id": due})
    assert after is not None
    assert after["version"] == before["version"] + 1
    assert [entry["type"] for entry in after["outbox"][-2:]] == ["media.updated", "media.published"]
    for hidden in (later, cancelled):
        assert (await call("GET", f"/media/{hidden}")).status_code == 404


async def test_public_video_cannot_be_scheduled(call: Call, begin: Begin) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id, visibility="public", ready=True)
    at = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    refused = await call("PATCH", f"/media/{media_id}", owner_id, json={"publish_at": at})
    assert (refused.status_code, [each["field"] for each in refused.json()["errors"]]) == (422, ["publish_at"])
    both = {"publish_at": at, "visibility": "private"}
    assert (await call("PATCH", f"/media/{media_id}", owner_id, json=both)).json()["publish_at"]
    assert (await call("GET", f"/media/{media_id}")).status_code == 404


async def test_edit_gives_up_after_too_many_concurrent_changes(
    catalogue: Catalogue, documents: Collection, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id)
    find, reads = store.find, 0

    async def then_changed(database: Database, media_id: UUID) -> Media | store.Tombstone | None:
        """A concurrent change after every read."""
        nonlocal reads
        found, reads = await find(database, media_id), reads + 1
        change = {"$set": {"title": f"Title {reads}"}, "$inc": {"version": 1}}
        await documents.update_one({"_id": media_id}, change)
        return found

    monkeypatch.setattr(store, "find", then_changed)
    with pytest.raises(ChangedMeanwhile) as refused:
        await catalogue.edit(Caller(owner_id), media_id, Changes(title="Mine"))
    assert (refused.value.status, refused.value.code) == (409, "changed_meanwhile")
    assert reads == ATTEMPTS


async def test_deleted_media_is_404_and_not_listed(call: Call, begin: Begin) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id, visibility="public", ready=True)
    assert (await call("DELETE", f"/media/{media_id}", owner_id)).status_code == 204
    assert (await call("GET", f"/media/{media_id}", owner_id)).status_code == 404
    assert (await call("DELETE", f"/media/{media_id}", owner_id)).status_code == 404
    assert (await call("GET", f"/media/users/{owner_id}", owner_id)).json()["items"] == []


async def test_patch_visibility_updates_the_stream_before_responding(
    call: Call, begin: Begin, streams: Streams
) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id, visibility="public", ready=True)
    assert (await call("PATCH", f"/media/{media_id}", owner_id, json={"title": "Other"})).status_code == 200
    assert streams.shown == [], "only an edit of the visibility calls video"
    assert (await call("PATCH", f"/media/{media_id}", owner_id, json={"visibility": "private"})).status_code == 200
    [(shown, visibility, version)] = streams.shown
    assert (shown, visibility) == (media_id, "private")
    assert (await call("PATCH", f"/media/{media_id}", owner_id, json={"visibility": "unlisted"})).status_code == 200
    assert streams.shown[1] == (media_id, "unlisted", version + 1), "the higher version wins in any order"


NOT_CONNECTED = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())


@pytest.mark.parametrize("error", [Unavailable(), NOT_CONNECTED])
async def test_patch_visibility_is_503_until_the_stream_is_updated(
    call: Call, begin: Begin, streams: Streams, error: Exception
) -> None:
    owner_id = new_id()
    media_id = await begin(owner_id, visibility="public", ready=True)
    streams.error = error
    refused = await call("PATCH", f"/media/{media_id}", owner_id, json={"visibility": "private"})
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert int(refused.headers["retry-after"]) > 0
    streams.error = None
    assert (await call("PATCH", f"/media/{media_id}", owner_id, json={"visibility": "private"})).status_code == 200
    assert [(shown, visibility) for shown, visibility, _ in streams.shown] == [(media_id, "private")], "retried"


async def test_delete_closes_the_stream_before_responding(call: Call, begin: Begin, streams: Streams) -> None:
    owner_id, stranger = new_id(), new_id()
    media_id = await begin(owner_id, visibility="public", ready=True)
    streams.error = Unavailable()
    assert (await call("DELETE", f"/media/{media_id}", owner_id)).status_code == 503
    assert (await call("GET", f"/media/{media_id}", owner_id)).status_code == 404
    assert (await call("DELETE", f"/media/{media_id}", owner_id)).status_code == 503, "the stream is still open"
    streams.error = DomainError("Only the owner may", status=403, code="not_the_owner")
    assert (await call("DELETE", f"/media/{media_id}", stranger)).status_code == 404
    streams.error = DomainError("Expired", status=401, code="invalid_token")
    assert (await call("DELETE", f"/media/{media_id}", owner_id)).status_code == 401
    assert streams.dropped == []
    streams.error = None
    assert (await call("DELETE", f"/media/{media_id}", owner_id)).status_code == 404
    assert streams.dropped == [media_id]


async def test_pages_are_newest_first_without_gaps_or_duplicates(call: Call, begin: Begin) -> None:
    owner_id = new_id()
    made = [str(await begin(owner_id)) for _ in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    sizes = []
    while True:
        params = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = (await call("GET", f"/media/users/{owner_id}", owner_id, params=params)).json()
        seen += [item["id"] for item in page["items"]]
        sizes.append(len(page["items"]))
        await begin(owner_id)  # new documents do not shift the pages
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    assert sizes == [3, 3, 1]


async def walk(call: Call, path: str, **params: str) -> list[str]:
    """The ids of all pages."""
    ids: list[str] = []
    while True:
        page = (await call("GET", path, params=params)).json()
        ids += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            return ids
        params["cursor"] = page["next_cursor"]


async def test_feed_has_published_videos_of_all_last_published_first(call: Call, begin: Begin) -> None:
    owner_id, other = new_id(), new_id()
    first = await begin(owner_id, visibility="public", ready=True)
    await begin(owner_id, visibility="unlisted", ready=True)
    await begin(owner_id, visibility="public")
    late = await begin(owner_id, ready=True)
    second = await begin(other, visibility="public", ready=True)
    for visibility in ("public", "private", "public"):  # its place is that of the first time
        assert (await call("PATCH", f"/media/{late}", owner_id, json={"visibility": visibility})).status_code == 200
        listed = await walk(call, "/media/feed", limit="100")
        expected = [late, second, first] if visibility == "public" else [second, first]
        assert listed[: len(expected)] == [str(media_id) for media_id in expected]
    assert (await call("DELETE", f"/media/{second}", other)).status_code == 204
    assert (await walk(call, "/media/feed", limit="100"))[:2] == [str(late), str(first)]


async def test_feed_has_each_of_those_published_at_once(call: Call, begin: Begin, documents: Collection) -> None:
    owner_id, at = new_id(), datetime(2001, 2, 3, tzinfo=UTC)
    ids = [await begin(owner_id, visibility="public", ready=True) for _ in range(5)]
    await documents.update_many({"owner_id": owner_id}, {"$set": {"published_at": at, store.FEED_AT: at}})
    after = cursors.of_newest(at + timedelta(milliseconds=1), ids[0], Filters().facets() or [])
    assert await walk(call, "/media/feed", cursor=after, limit="2") == [str(media_id) for media_id in reversed(ids)]


@pytest.mark.parametrize(
    "cursor",
    [
        cursors.of_own(Media(new_id(), new_id(), datetime.now(UTC), datetime.now(UTC))),
        cursors.of_newest(datetime.now(UTC), new_id(), ["g:tag"]),
        cursors.of_popular(0, 0, new_id(), ["*"]),
        "n" * 58,
        "n",
        "n" + "é" * 56,
        "$ne",
    ],
    ids=["of one's own", "of another tag", "of another order", "long", "short", "not ASCII", "an operator"],
)
async def test_feed_rejects_cursors_that_it_did_not_return(call: Call, cursor: str) -> None:
    answer = await call("GET", "/media/feed", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


async def test_feed_is_complete_after_the_latest_possible_cursor(call: Call, begin: Begin) -> None:
    media_id = await begin(new_id(), visibility="public", ready=True)
    page = (await call("GET", "/media/feed", params={"cursor": cursors.of_newest(LATEST, new_id(), ["*"])})).json()
    assert page["items"][0]["id"] == str(media_id)


async def test_others_list_only_public_and_ready_documents(call: Call, begin: Begin) -> None:
    owner_id = new_id()
    await begin(owner_id, visibility="public")
    await begin(owner_id, visibility="unlisted", ready=True)
    await begin(owner_id, ready=True)
    published = await begin(owner_id, visibility="public", ready=True)
    for other in (None, new_id()):
        page = (await call("GET", f"/media/users/{owner_id}", other)).json()
        assert [item["id"] for item in page["items"]] == [str(published)]
    assert len((await call("GET", f"/media/users/{owner_id}", owner_id)).json()["items"]) == 4


@pytest.mark.parametrize("params", [{"cursor": "x"}, {"cursor": "é" * 22}, {"limit": "0"}, {"limit": "101"}])
async def test_list_rejects_invalid_cursors_and_limits(call: Call, params: dict[str, str]) -> None:
    answer = await call("GET", f"/media/users/{new_id()}", params=params)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


async def test_get_media_with_an_invalid_id_is_404(call: Call) -> None:
    assert (await call("GET", "/media/not-an-id")).status_code == 404
