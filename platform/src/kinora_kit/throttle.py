"""Throttling of things that can be guessed or flooded, counted in Redis so that all replicas count together."""

import math
import time

from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import Redis

from kinora_kit.errors import TooManyRequests


class Throttle:
    """At most ``limit`` (``"5/minute"``) events of one kind for one key, in a moving window."""

    def __init__(self, storage: RedisStorage, *, name: str, limit: str) -> None:
        self._limiter = MovingWindowRateLimiter(storage)
        self._name = name
        self._limit: RateLimitItem = parse(limit)

    async def hit(self, key: str) -> None:
        """Count one event of ``key``. Raises TooManyRequests, with the time to wait, when it is one too many."""
        if not await self._limiter.hit(self._limit, self._name, key):
            window = await self._limiter.get_window_stats(self._limit, self._name, key)
            raise TooManyRequests(max(1, math.ceil(window.reset_time - time.time())))

    async def check(self, key: str) -> None:
        """As hit, without counting: for limits on failures, which are known only afterwards."""
        if not await self._limiter.test(self._limit, self._name, key):
            window = await self._limiter.get_window_stats(self._limit, self._name, key)
            raise TooManyRequests(max(1, math.ceil(window.reset_time - time.time())))


def storage(client: Redis, *, prefix: str) -> RedisStorage:
    """Counters under ``<prefix>:limits``, over the connections of ``client``."""
    # The address is not used: connections come from the pool, which is bounded, has timeouts and is closed.
    return RedisStorage(
        "async+redis://",
        implementation="redispy",
        key_prefix=f"{prefix}:limits",
        connection_pool=client.connection_pool,  # type: ignore[arg-type]
    )
