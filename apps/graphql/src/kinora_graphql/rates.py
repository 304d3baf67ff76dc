"""Rate limits: what the operations of one client may cost in a minute, over all processes and transports.

By cost and not by number, because one operation may load a thousand times as much as another. A signed-in client is
counted by user, an anonymous one by address. No request waits for Redis: each process counts, and adds its counts to
Redis twice a second. So a client can exceed its limit by what it gets in half a second, and without Redis, each process
limits it alone.
"""

import math
import time
from collections import Counter
from dataclasses import dataclass

from redis.asyncio import Redis

from kinora_kit import tasks
from kinora_kit.errors import TooManyRequests
from kinora_kit.recent import Recent

WINDOW_SECONDS = 60
SYNC_SECONDS = 0.5
REMEMBERED_CLIENTS = 10_000


@dataclass(frozen=True)
class Rate:
    limit: int
    remaining: int
    reset_seconds: int

    @property
    def headers(self) -> dict[str, str]:
        """https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/"""
        return {
            "RateLimit-Policy": f'"cost";q={self.limit};w={WINDOW_SECONDS}',
            "RateLimit": f'"cost";r={self.remaining};t={self.reset_seconds}',
        }


class Rates:
    """Must be ``run`` in the background."""

    def __init__(self, cache: Redis, *, limit: int) -> None:
        self._cache = cache
        self._limit = limit
        self._window = 0
        self._spent: Recent[str, int] = Recent(REMEMBERED_CLIENTS)
        """In this window, as far as known."""
        self._unsent: Counter[str] = Counter()
        """What Redis does not know yet."""

    def charge(self, client: str, cost: int) -> Rate:
        """Raises TooManyRequests if the client has not enough left in this window."""
        left = self._begin_window()
        spent = self._spent.get(client) or 0
        if spent + cost > self._limit:
            refusal = TooManyRequests(left)
            refusal.headers.update(Rate(self._limit, max(self._limit - spent, 0), left).headers)
            raise refusal
        self._spent.put(client, spent + cost)
        self._unsent[client] += cost
        return Rate(self._limit, self._limit - spent - cost, left)

    def _begin_window(self) -> int:
        """The seconds that are left of the window."""
        window, passed = divmod(time.time(), WINDOW_SECONDS)
        if window != self._window:
            self._window = int(window)
            self._spent.clear()
            self._unsent.clear()
        return math.ceil(WINDOW_SECONDS - passed)

    async def run(self) -> None:
        await tasks.every(SYNC_SECONDS, self._synchronise)

    async def _synchronise(self) -> None:
        self._begin_window()
        window, unsent = self._window, self._unsent
        if not unsent:
            return
        self._unsent = Counter()
        async with self._cache.pipeline(transaction=False) as pipe:
            for client, cost in unsent.items():
                key = f"graphql:rates:{window}:{client}"
                pipe.incrby(key, cost)
                pipe.expire(key, 2 * WINDOW_SECONDS)
            totals = (await pipe.execute())[::2]
        if window == self._window:
            for client, total in zip(unsent, totals, strict=True):
                self._spent.put(client, total + self._unsent[client])
