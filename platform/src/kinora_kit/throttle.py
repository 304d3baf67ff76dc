"""Rate limits against guessing and flooding, counted in Redis across all replicas."""

import math
import time

from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import Redis

from kinora_kit.errors import TooManyRequests


class Throttle:
    """At most ``limit`` (``"5/minute"``) events of one kind per key, in a moving window."""

    def __init__(self, storage: RedisStorage, *, name: str, limit: str) -> None:
        self._limiter = MovingWindowRateLimiter(storage)
        self._name = name
        self._limit: RateLimitItem = parse(limit)

    async def hit(self, key: str) -> None:
        """Count an event for ``key``. Raises TooManyRequests, with the time to wait, if the limit is reached."""
        if not await self._limiter.hit(self._limit, self._name, key):
            raise await self._too_many(key)

    async def check(self, key: str) -> None:
        """Like ``hit`` without counting: for limits on failures, which are known only afterwards."""
        if await self.is_full(key):
            raise await self._too_many(key)

    async def count(self, key: str) -> None:
        """Like ``hit`` without raising: for limits that ``check`` enforces."""
        await self._limiter.hit(self._limit, self._name, key)

    async def is_full(self, key: str) -> bool:
        return not await self._limiter.test(self._limit, self._name, key)

    async def _too_many(self, key: str) -> TooManyRequests:
        window = await self._limiter.get_window_stats(self._limit, self._name, key)
        return TooManyRequests(max(1, math.ceil(window.reset_time - time.time())))


def storage(client: Redis, *, prefix: str) -> RedisStorage:
    """Counters under ``<prefix>:limits``, over the connections of ``client``."""
    # The URL is unused: connections come from the client's pool, which is bounded, has timeouts and is closed.
    return RedisStorage(
        "async+redis://",
        implementation="redispy",
        key_prefix=f"{prefix}:limits",
        connection_pool=client.connection_pool,  # type: ignore[arg-type]
    )
