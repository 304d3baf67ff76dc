"""Lists of published documents: search, filters, and popularity."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinora_kit import mongo
from kinora_kit.errors import Unavailable
from kinora_kit.ids import new_id
from kinora_kit.mongo import Collection, Database
from kinora_media import facets, store
from kinora_media.catalogue import Catalogue
from kinora_media.domain import Counters, Sort, popularity
from kinora_media.errors import CursorExpired
from kinora_media.facets import Filters
from kinora_media.lists import Lists
from kinora_media.pages import CachedPages
from kinora_media.popularity import Popularity
from kinora_media.store import popularity as epochs
from kinora_media.store.media import FACETS, FEED_AT, MEDIA, SCORES

if TYPE_CHECKING:
    from conftest import People

Call = Callable[..., Awaitable[httpx.Response]]
Begin = Callable[..., Awaitable[UUID]]
Publish = Callable[..., Awaitable[str]]
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def publish(call: Call, begin: Begin) -> Publish:
    async def make(title: str, *, owner_id: UUID | None = None, visibility: str = "public", **edit: object) -> str:
        owner_id = owner_id or new_id()
        media_id = await begin(owner_id, visibility=visibility, ready=True, title=title)
        if edit:
            assert (await call("PATCH", f"/media/{media_id}", owner_id, json=edit)).status_code == 200
        return str(media_id)

    return make


async def found(call: Call, **params: object) -> list[str]:
    answer = await call("GET", "/media", params=params)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


async def test_search_matches_all_words_without_case_and_diacritics(call: Call, publish: Publish) -> None:
    mark = new_id().hex
    first = await publish(f"Un ÉTÉ à Zürich, 2026! {mark}")
    second = await publish(f"un ete {mark}")
    await publish(f"Un été {mark}", visibility="unlisted")
    await publish(f"Un été {mark}", visibility="private")
    assert await found(call, query=mark) == [second, first], "last published first"
    assert await found(call, query=f"  ZURICH ,{mark} ete 2026") == [first]
    assert await found(call, query=f"\uff3a\uff35\uff32\uff29\uff23\uff28 {mark}") == [first], "full width"
    assert await found(call, query=f"zuri {mark}") == []


async def test_lists_filter_by_tag_category_and_owner(call: Call, publish: Publish) -> None:
    owner_id, tag = new_id(), new_id().hex
    both = await publish("One", owner_id=owner_id, tags=["Café", tag], category="music")
    other = await publish("Two", owner_id=owner_id, tags=[tag], category="film")
    foreign = await publish("One", tags=[tag], category="music")
    assert await found(call, tag=f" {tag.upper()} ") == [foreign, other, both]
    assert await found(call, tag=tag, category="music") == [foreign, both]
    assert await found(call, owner=owner_id) == [other, both]
    assert await found(call, owner=owner_id, query="one", category="music", tag="CAFÉ") == [both]
    assert await found(call, owner=owner_id, category="unknown") == []
    await call("PATCH", f"/media/{both}", owner_id, json={"tags": [], "title": "Three", "category": ""})
    assert await found(call, owner=owner_id, query="three") == [both]
    assert await found(call, owner=owner_id, category="music") == []
    assert await found(call, tag=tag, query="one") == [foreign]
    await call("DELETE", f"/media/{other}", owner_id)
    assert await found(call, owner=owner_id) == [both]


async def test_documents_of_earlier_releases_are_added_to_lists(
    call: Call, publish: Publish, catalogue: Catalogue, documents: Collection
) -> None:
    owner_id = new_id()
    media_id = await publish("Old", owner_id=owner_id)
    await publish("Private", owner_id=owner_id, visibility="private")
    before = await documents.find_one({"_id": UUID(media_id)})
    await documents.update_many({"owner_id": owner_id}, {"$unset": dict.fromkeys((FACETS, *SCORES), "")})
    assert await found(call, owner=owner_id) == []
    await catalogue.add_facets()
    assert await found(call, owner=owner_id) == [media_id]
    assert await documents.find_one({"_id": UUID(media_id)}) == before


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 200), (" ", 200), ("a", 200), ("\U0001f600", 200), ("-…!?", 200), ("a\0b", 400), ("x" * 10_000, 422)],
    ids=["empty", "space", "letter", "emoji", "punctuation", "NUL", "long"],
)
async def test_odd_queries_get_an_answer(call: Call, query: str, status: int) -> None:
    answer = await call("GET", "/media", params={"query": query})
    assert answer.status_code == status
    if query in ("\U0001f600", "-…!?"):
        assert answer.json()["items"] == [], "it has no words"


@given(st.text(max_size=200))
def test_words_of_words_are_the_same(title: str) -> None:
    tokens = facets.tokens(title)
    assert len(tokens) == len(set(tokens)) <= facets.MAX_TOKENS
    assert all(0 < len(token) <= facets.MAX_TOKEN_LENGTH for token in tokens)
    assert facets.tokens(" ".join(reversed(tokens))) == tokens[::-1]


async def test_cursor_is_valid_only_for_its_own_list(call: Call, publish: Publish) -> None:
    tag = new_id().hex
    for _ in range(2):
        await publish("A", tags=[tag])
    page = {"limit": "1", "tag": tag}
    for sort, other in (("newest", "popular"), ("popular", "newest")):
        cursor = (await call("GET", "/media", params=page | {"sort": sort})).json()["next_cursor"]
        following = await call("GET", "/media", params=page | {"sort": sort, "cursor": cursor})
        assert (following.status_code, following.json()["next_cursor"]) == (200, None)
        for foreign in ({"sort": other}, {"sort": sort, "tag": "x"}, {"sort": sort, "query": "a"}):
            answer = await call("GET", "/media", params=page | foreign | {"cursor": cursor})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input"), foreign


# Popularity ----------------------------------------------------------------------------------------------------------


def test_ten_times_the_interactions_make_up_for_three_days() -> None:
    later = popularity(Counters(views=10), AT + timedelta(days=3))
    assert popularity(Counters(views=100), AT) == later
    assert popularity(Counters(likes=10), AT) == later
    assert popularity(Counters(comments=5), AT) == later
    assert popularity(Counters(), AT) == popularity(Counters(views=1), AT) < popularity(Counters(views=2), AT)


@pytest.fixture
async def ranked(kit: dict[str, str]) -> AsyncIterator[Database]:
    """A database of its own, because an epoch ranks all documents."""
    name = f"media_test_{new_id().hex}"
    async with mongo.connect(kit["KINORA_MONGO_URL"], database=name, name="media-tests") as database:
        await mongo.ensure_indexes(database, store.indexes(tombstone_days=1))
        yield database
        await database.client.drop_database(name)


async def add(documents: Collection, count: int) -> list[UUID]:
    ids = [new_id() for _ in range(count)]
    fields = {
        "title": "",
        "tags": [],
        "visibility": "public",
        "state": "ready",
        "created_at": AT,
        "updated_at": AT,
        "published_at": AT,
        FEED_AT: AT,
        FACETS: [facets.ALL],
        **dict.fromkeys(SCORES, popularity(Counters(), AT)),
    }
    await documents.insert_many({"_id": media_id, "owner_id": media_id, **fields} for media_id in ids)
    return ids


async def read(lists: Lists, cursor: str | None, limit: int) -> tuple[list[UUID], str | None]:
    page = await lists.search(Filters(), Sort.POPULAR, cursor=cursor, limit=limit)
    return [each.media.id for each in page.items], page.items[-1].cursor if page.more else None


async def test_walk_has_each_document_once_under_writers_and_a_new_epoch(ranked: Database, pages: CachedPages) -> None:
    documents, lists, ranking = ranked[MEDIA], Lists(ranked, pages), Popularity(ranked, epoch_seconds=0)
    ids = await add(documents, 15)

    async def write() -> None:
        change = {"$inc": {"tally.counters.views": random.choice([1, 10, 100])}}
        await documents.update_one({"_id": random.choice(ids)}, change)

    async def read_under_writers(cursor: str | None) -> tuple[list[UUID], str | None]:
        reading = asyncio.create_task(read(lists, cursor, 4))
        await asyncio.gather(*(write() for _ in range(64)))
        return await reading

    assert await ranking.advance()
    seen, cursor = await read_under_writers(None)
    assert await ranking.advance(), "the list is continued in the epoch in which it began"
    while cursor is not None:
        more, cursor = await read_under_writers(cursor)
        seen += more
    assert sorted(seen) == sorted(ids)
    assert await ranking.advance()
    last, _ = await read(lists, None, len(ids))
    stored = [document async for document in documents.find({"tally": {"$exists": True}})]
    views = {document["_id"]: document["tally"]["counters"]["views"] for document in stored}
    assert len(views) > 1
    assert last == sorted(ids, key=lambda each: (popularity(Counters(views=views.get(each, 0)), AT), each))[::-1]


async def test_cursor_expires_when_its_scores_are_overwritten(ranked: Database, pages: CachedPages) -> None:
    lists, ranking = Lists(ranked, pages), Popularity(ranked, epoch_seconds=0)
    await add(ranked[MEDIA], 3)
    _, cursor = await read(lists, None, 1)
    assert await ranking.advance()
    assert (await read(lists, cursor, 1))[0], "valid in the next epoch"
    assert await epochs.claim(ranked, new_id(), age_ms=0, lease_ms=60_000)
    with pytest.raises(CursorExpired) as expired:
        await read(lists, cursor, 1)
    assert (expired.value.status, expired.value.code) == (410, "cursor_expired")
    assert (await read(lists, None, 1))[0], "the current epoch is served while the next one is built"


async def test_epoch_is_completed_by_another_process_and_protected_from_the_first(ranked: Database) -> None:
    ranking = Popularity(ranked, epoch_seconds=0)
    [media_id, _] = await add(ranked[MEDIA], 2)
    dead = await epochs.claim(ranked, new_id(), age_ms=0, lease_ms=60_000)
    assert dead is not None
    await epochs.write(ranked, dead, {media_id: 7})
    assert not await ranking.advance(), "its lease has not expired"
    assert await epochs.extend(ranked, dead, lease_ms=0), "and now it has"
    assert await ranking.advance()
    assert await epochs.current(ranked) == epochs.Epoch(1)
    assert await epochs.extend(ranked, dead, lease_ms=60_000) is None
    assert not await epochs.flip(ranked, dead)
    await epochs.write(ranked, epochs.Lease(dead.holder, dead.building, until=0), {media_id: 7})
    document = await ranked[MEDIA].find_one({"_id": media_id})
    assert document is not None
    assert document[dead.building.slot] == popularity(Counters(), AT)
    assert not await Popularity(ranked, epoch_seconds=3600).advance(), "the epoch is young"


async def test_lists_name_users_by_one_call(call: Call, begin: Begin, people: People) -> None:
    owner, other, caller = new_id(), new_id(), new_id()
    word = f"names{owner.hex}"
    media_id, _, third = [
        await begin(user, visibility="public", ready=True, title=word) for user in (owner, owner, other)
    ]
    headers = {"Idempotency-Key": "1"}
    posted = await call("POST", f"/media/{media_id}/comments", caller, json={"body": "Hello"}, headers=headers)
    assert posted.status_code == 201
    await call("PUT", f"/media/users/{owner}/subscription", caller)
    for each in (media_id, third):
        await call("PUT", f"/media/{each}/like", caller)
    lists = {
        f"/media?query={word}": ("owner", [other, owner, owner]),
        f"/media/users/{owner}": ("owner", [owner, owner]),
        "/media/likes": ("owner", [other, owner]),
        f"/media/{media_id}/comments": ("author", [caller]),
        "/media/subscriptions": ("user", [owner]),
    }
    for path, (field, users) in lists.items():
        people.asked.clear()
        items = (await call("GET", path, caller)).json()["items"]
        assert [each[field]["username"] for each in items] == [f"u{user.hex}" for user in users], path
        assert people.asked == [list(dict.fromkeys(users))], path
    people.error = Unavailable()
    try:
        for path, (field, users) in lists.items():
            items = (await call("GET", path, caller)).json()["items"]
            assert [each[field] for each in items] == [None] * len(users), "complete without names"
    finally:
        people.error = None
