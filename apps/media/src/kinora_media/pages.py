"""First pages of the feed and of comments, kept in Redis for at most a second (docs/adr/0025-pages.md)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar
from uuid import UUID

from prometheus_client import Counter
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kinora_kit.ids import new_id
from kinora_media.domain import CommentOrder, Listed, Page, Thread

T = TypeVar("T")
Query = Callable[[], Awaitable[T]]

PAGE_SECONDS = 1.0
"""How long a page is kept, from before its query."""
WAIT_SECONDS = 0.25
"""For a response of Redis; MongoDB is faster than that."""
MAX_BYTES = 256 << 10
"""A larger page is not kept."""

PAGES = Counter(
    "kinora_media_pages_total",
    "First pages that were served, by list (feed, comments) and where they came from (redis, mongo)",
    ["list", "source"],
)

_FEED_PAGE: TypeAdapter[Page[Listed]] = TypeAdapter(Page[Listed])
_THREAD: TypeAdapter[Thread] = TypeAdapter(Thread)

# A list is a hash, so that all its pages expire and are deleted together. Each page has fields for the page itself, for
# how often it was asked for, and for who may store it: whoever asks second, because most comments are read only once.
_FIND = """
local page = redis.call('HGET', KEYS[1], ARGV[1])
if page then
  return page
end
local second = redis.call('HINCRBY', KEYS[1], 'asked:' .. ARGV[1], 1) == 2
if second then
  redis.call('HSET', KEYS[1], 'lease:' .. ARGV[1], ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3], 'NX')
return second
"""
_STORE = """
if redis.call('HGET', KEYS[1], 'lease:' .. ARGV[1]) == ARGV[2] then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
"""


class Pages(Protocol):
    """``query``: asks MongoDB for the page."""

    async def feed(self, limit: int, query: Query[Page[Listed]]) -> Page[Listed]: ...

    async def comments(self, media_id: UUID, order: CommentOrder, limit: int, query: Query[Thread]) -> Thread: ...

    async def media_changed(self, *media_ids: UUID) -> None:
        """To be called after the write: once it returns, no page from before is served.

        Never fails, and takes at most PAGE_SECONDS.
        """

    async def comments_changed(self, media_id: UUID) -> None:
        """As media_changed, if only comments changed."""


class CachedPages:
    """Works without Redis, only slower."""

    def __init__(self, cache: Redis, *, database: str, seconds: float = PAGE_SECONDS) -> None:
        """``database``: the name of the MongoDB database that the pages are from."""
        self._cache = cache
        self._seconds = seconds
        self._prefix = f"media:page:{database}"
        self._feed = f"{self._prefix}:feed"
        self._find = cache.register_script(_FIND)
        self._store = cache.register_script(_STORE)

    async def feed(self, limit: int, query: Query[Page[Listed]]) -> Page[Listed]:
        return await self._page("feed", self._feed, str(limit), _FEED_PAGE, query)

    async def comments(self, media_id: UUID, order: CommentOrder, limit: int, query: Query[Thread]) -> Thread:
        return await self._page("comments", self._comments(media_id), f"{order}:{limit}", _THREAD, query)

    async def media_changed(self, *media_ids: UUID) -> None:
        await self._delete(self._feed, *map(self._comments, media_ids))

    async def comments_changed(self, media_id: UUID) -> None:
        await self._delete(self._comments(media_id))

    def _comments(self, media_id: UUID) -> str:
        return f"{self._prefix}:comments:{media_id}"

    async def _page(self, name: str, key: str, field: str, kind: TypeAdapter[T], query: Query[T]) -> T:
        token, leased = new_id().hex, False
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                found = await self._find(keys=[key], args=[field, token, int(1000 * self._seconds)])
            if isinstance(found, str):
                page = kind.validate_json(found)
                PAGES.labels(name, "redis").inc()
                return page
            leased = bool(found)
        except (RedisError, OSError, ValidationError):  # the last: stored by another release
            pass
        page = await query()
        PAGES.labels(name, "mongo").inc()
        if leased and len(text := kind.dump_json(page)) <= MAX_BYTES:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._store(keys=[key], args=[field, token, text])
            except (RedisError, OSError):
                pass
        return page

    async def _delete(self, *keys: str) -> None:
        expired = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(expired):
                await self._cache.delete(*keys)
        except (RedisError, OSError):  # other processes may still reach Redis: until the page has expired
            await asyncio.sleep(expired - asyncio.get_running_loop().time())
