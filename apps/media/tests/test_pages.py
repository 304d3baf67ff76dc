"""First pages of the feed and of comments, from MongoDB or from Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

import kinora_kit.redis
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.mongo import Database, Relay
from kinora_kit.testing import Proxy, eventually, proxy
from kinora_media.domain import (
    Changes,
    Comment,
    CommentOrder,
    Counters,
    Listed,
    Media,
    Page,
    Sort,
    State,
    Thread,
    Visibility,
    Words,
)
from kinora_media.errors import MediaNotFound
from kinora_media.facets import Filters
from kinora_media.pages import MAX_BYTES, PAGE_SECONDS, CachedPages
from kinora_media.store import comments as store
from kinora_media.tallies import Tallies
from kinora_media.use_cases import UseCases

if TYPE_CHECKING:
    from conftest import People, Streams

Begin = Callable[..., Awaitable[UUID]]
Change = Callable[[UseCases, Caller, UUID, Comment], Awaitable[object]]
AT = datetime(2026, 1, 1, 12, 30, 15, 123000, tzinfo=UTC)
LONG = 60.0
"""Seconds: what is not deleted stays for longer than a test."""
MEDIA = Media(
    id=new_id(),
    owner_id=new_id(),
    created_at=AT,
    updated_at=AT,
    begun=True,
    version=3,
    title="Ä title \N{CLAPPER BOARD}",
    description="a\nb",
    tags=("one", "two"),
    category="music",
    language="de-CH",
    visibility=Visibility.PUBLIC,
    attributes={"a": [1, 2.5, None, {"b": "\0"}], "c": (1 << 53) - 1},
    state=State.READY,
    duration=1.25,
    width=1920,
    height=1080,
    publish_at=AT,
    published_at=AT,
    pinned_comment_id=new_id(),
    counters=Counters(views=1, likes=2, comments=3),
)
COMMENT = Comment(
    id=new_id(),
    media_id=MEDIA.id,
    owner_id=MEDIA.owner_id,
    author_id=new_id(),
    body="Body",
    created_at=AT,
    edited_at=AT,
    version=2,
    likes=4,
    replies=5,
    pinned=True,
)


class Source:
    """Answers with ``page``, and counts how often it was asked. ``meanwhile`` happens before it answers."""

    def __init__(self, page: Thread) -> None:
        self.page = page
        self.asked = 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def __call__(self) -> Thread:
        self.asked += 1
        page, meanwhile, self.meanwhile = self.page, self.meanwhile, None
        if meanwhile:
            await meanwhile()
        return page


def thread(body: str = "Body") -> Thread:
    comment = Comment(new_id(), MEDIA.id, MEDIA.owner_id, None, body, AT)
    return Thread(MEDIA, Page([comment], more=False))


@pytest.fixture
async def link(kit: dict[str, str]) -> AsyncIterator[Proxy]:
    async with proxy(kit["KINORA_REDIS_URL"]) as link:
        yield link


@pytest.fixture
async def linked(link: Proxy) -> AsyncIterator[Redis]:
    async with kinora_kit.redis.connect(link.url, name="media-tests") as redis:
        yield redis


@pytest.fixture
def kept(
    database: Database, relay: Relay, tallies: Tallies, *, streams_of_all: Streams, people: People, redis: Redis
) -> UseCases:
    """With pages that do not expire within a test."""
    pages = CachedPages(redis, database=database.name + new_id().hex, seconds=LONG)
    return UseCases.of(database, relay, tallies, videos=streams_of_all, users=people, pages=pages, categories={})


async def read(pages: CachedPages, source: Source) -> Thread:
    return await pages.comments(MEDIA.id, CommentOrder.TOP, 20, source)


def from_redis(name: str) -> float:
    return REGISTRY.get_sample_value("kinora_media_pages_total", {"list": name, "source": "redis"}) or 0.0


async def test_pages_are_stored_whole_and_expire_once_asked_for_twice(redis: Redis) -> None:
    name = new_id().hex
    pages = CachedPages(redis, database=name, seconds=LONG)
    hits, asked = [from_redis("feed"), from_redis("comments")], 0

    async def feed() -> Page[Listed]:
        nonlocal asked
        asked += 1
        return Page([Listed(MEDIA, "cursor")], more=True)

    comments = Source(Thread(MEDIA, Page([COMMENT], more=True)))
    for _ in range(3):
        shown = await pages.feed(20, feed)
        assert (shown, shown.items[0].media.counters) == (await feed(), MEDIA.counters)
        assert await read(pages, comments) == comments.page
    assert (asked, comments.asked) == (2 + 3, 2)
    assert [from_redis("feed"), from_redis("comments")] == [hits[0] + 1, hits[1] + 1]
    for key in (f"media:page:{name}:feed", f"media:page:{name}:comments:{MEDIA.id}"):
        assert 0 < await redis.pttl(key) <= 1000 * LONG


async def test_what_redis_should_not_or_does_not_have_is_read_from_mongo(redis: Redis) -> None:
    name = new_id().hex
    pages, large, known = (
        CachedPages(redis, database=name, seconds=LONG),
        Source(thread("a" * MAX_BYTES)),
        Source(thread()),
    )
    for _ in range(3):
        assert await read(pages, large) == large.page
    assert large.asked == 3
    await redis.hset(f"media:page:{name}:comments:{MEDIA.id}", "top:20", '{"of": "another release"}')
    assert await read(pages, known) == known.page


async def test_page_from_before_a_change_is_not_stored_after_it(redis: Redis) -> None:
    pages, source = CachedPages(redis, database=new_id().hex, seconds=LONG), Source(thread("before"))
    await read(pages, source)

    async def write() -> None:
        """While the reader, which may store its page, has read but not stored it."""
        source.page = thread("after")
        await pages.comments_changed(MEDIA.id)

    source.meanwhile = write
    before = await read(pages, source)
    assert before != source.page
    assert await read(pages, source) == source.page

    async def write_and_read() -> None:
        await write()
        for _ in range(2):
            await read(pages, source)

    await pages.comments_changed(MEDIA.id)
    await read(pages, source)
    source.meanwhile = write_and_read
    await read(pages, source)
    asked = source.asked
    assert await read(pages, source) == source.page
    assert source.asked == asked, "the page from after the change is stored, and was not replaced"


async def test_page_expires_a_second_after_its_query_began_however_long_it_took(redis: Redis) -> None:
    name, source = new_id().hex, Source(thread())
    pages = CachedPages(redis, database=name, seconds=0.1)

    async def is_gone() -> bool:
        return not await redis.exists(f"media:page:{name}:comments:{MEDIA.id}")

    async def expire() -> None:
        await eventually(is_gone)

    await read(pages, source)
    source.meanwhile = expire
    await read(pages, source)
    assert await is_gone()


@pytest.mark.parametrize("stalled", [False, True])
async def test_change_is_visible_to_all_once_confirmed_without_redis(
    redis: Redis, link: Proxy, linked: Redis, *, stalled: bool
) -> None:
    """Another process may still reach Redis."""
    name, source = new_id().hex, Source(thread("before"))
    cut_off, other = [CachedPages(cache, database=name) for cache in (linked, redis)]
    await read(cut_off, source)
    for _ in range(2):
        await read(other, source)
    assert source.asked == 2
    if stalled:
        link.stall()
    else:
        await link.cut()
    source.page = thread("after")
    async with asyncio.timeout(2 * PAGE_SECONDS):
        await cut_off.comments_changed(MEDIA.id)
        assert await read(other, source) == source.page
        assert await read(cut_off, source) == source.page


async def shown(use: UseCases, caller: Caller, media_id: UUID) -> tuple[Page[Listed], list[Page[Comment]]]:
    """What is or becomes kept: both orders of comments, and none if the caller may not see the document."""
    feed = await use.lists.search(Filters(), Sort.NEWEST, cursor=None, limit=20)
    try:
        newest = await use.comments.newest(caller, media_id, before=None, limit=20)
        return feed, [newest, await use.comments.top(caller, media_id, after=None, limit=20)]
    except MediaNotFound:
        return feed, []


def edit(**changes: object) -> Change:
    return lambda use, owner, media_id, _: use.catalogue.edit(owner, media_id, Changes(**changes))


async def delete_again(use: UseCases, owner: Caller, media_id: UUID, _: Comment) -> None:
    """The process that deleted it was killed before it deleted the pages."""
    await use.catalogue.remove(media_id, owner.user_id)
    with pytest.raises(MediaNotFound):
        await use.catalogue.delete(owner, media_id)


CHANGES: dict[str, Change] = {
    "title": edit(title="Another title"),
    "private": edit(visibility="private"),
    "delete": lambda use, owner, media_id, _: use.catalogue.delete(owner, media_id),
    "delete again": delete_again,
    "drop": lambda use, owner, media_id, _: use.catalogue.drop(owner, media_id),
    "drop all": lambda use, owner, *_: use.catalogue.drop_all(owner),
    "comment": lambda use, owner, media_id, _: use.comments.post(
        owner, media_id, Words(body="Another"), parent_id=None, key=new_id().hex
    ),
    "reply": lambda use, owner, media_id, comment: use.comments.post(
        owner, media_id, Words(body="Reply"), parent_id=comment.id, key=new_id().hex
    ),
    "edit": lambda use, owner, _, comment: use.comments.edit(owner, comment.id, Words(body="Edited")),
    "remove": lambda use, owner, _, comment: use.comments.delete(owner, comment.id),
    "pin": lambda use, owner, _, comment: use.comments.pin(owner, comment.id, pinned=True),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_change_is_visible_once_it_is_confirmed(kept: UseCases, begin: Begin, name: str) -> None:
    owner, stranger = Caller(new_id()), Caller(new_id())
    media_id = await begin(owner.user_id, visibility="public", ready=True)
    comment = await kept.comments.post(owner, media_id, Words(body="Body"), parent_id=None, key=new_id().hex)
    for _ in range(2):
        before = await shown(kept, stranger, media_id)
    assert before[0].items[0].media.id == media_id
    await CHANGES[name](kept, owner, media_id, comment)
    feed, comments = await shown(kept, stranger, media_id)
    if name in {"comment", "reply", "edit", "remove", "pin"}:
        assert all(now != then for now, then in zip(comments, before[1], strict=True))
    elif name == "title":
        assert feed.items[0].media.title == "Another title"
    else:
        assert media_id not in [each.media.id for each in feed.items]
        assert comments == []


async def test_private_page_is_for_its_owner_and_publication_is_visible_at_once(kept: UseCases, begin: Begin) -> None:
    owner, stranger = Caller(new_id()), Caller(new_id())
    media_id = await begin(owner.user_id, ready=True)
    await kept.comments.post(owner, media_id, Words(body="Body"), parent_id=None, key=new_id().hex)
    for _ in range(3):
        for caller, lists in ((owner, 2), (stranger, 0)):
            feed, comments = await shown(kept, caller, media_id)
            assert media_id not in [each.media.id for each in feed.items]
            assert len(comments) == lists
    await kept.catalogue.edit(owner, media_id, Changes(visibility=Visibility.PUBLIC))
    feed, comments = await shown(kept, stranger, media_id)
    assert feed.items[0].media.id == media_id
    assert len(comments) == 2


async def test_what_is_not_confirmed_is_visible_within_a_second(
    use_cases: UseCases, database: Database, begin: Begin
) -> None:
    """A like, an account's deletion, and what a process wrote before it was killed."""
    owner, fan = Caller(new_id()), Caller(new_id())
    media_id = await begin(owner.user_id, visibility="public", ready=True)
    liked, _ = [
        await use_cases.comments.post(caller, media_id, Words(body="Body"), parent_id=None, key=new_id().hex)
        for caller in (owner, fan)
    ]

    async def newest() -> list[tuple[UUID | None, int]]:
        page = await use_cases.comments.newest(None, media_id, before=None, limit=20)
        return [(each.author_id, each.likes) for each in page.items]

    for _ in range(3):
        assert await newest() == [(fan.user_id, 0), (owner.user_id, 0)]
    await use_cases.likes.switch_comment(fan, liked.id, on=True)
    await store.remove_of_user(database, fan.user_id, at=AT)

    async def is_visible() -> bool:
        return await newest() == [(owner.user_id, 1)]

    await eventually(is_visible, seconds=PAGE_SECONDS + 0.5)
