"""Which sessions have ended: auth writes it to Redis, and every process asks Redis or remembers its answer.

docs/adr/0021-revocations.md says why no process accepts a session after its end has been confirmed.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from kinora_kit import tasks
from kinora_kit.errors import Unavailable
from kinora_kit.metrics import SESSIONS_CHECKED, SESSIONS_REMEMBERED
from kinora_kit.recent import Recent

LOG = "auth:revoked:log"
"""A stream of ended sessions. It shows what was added since an entry, as long as that entry is still there."""
LOG_ENTRIES = 1000
COMPLETE = "auth:revoked:complete"
"""The run id of the Redis server that has all revocations. Any other server has been restarted or promoted since auth
last wrote all of them, so it may lack some."""

TRUST_SECONDS = 0.1
"""How long what Redis has said is used without asking for news, counted from before the question."""
SETTLE_SECONDS = 1.2 * TRUST_SECONDS
"""How long after the write every process has read it or asks before its next answer. Longer than TRUST_SECONDS, because
clocks of different machines run at different rates."""
REMEMBERED_SESSIONS = 10_000
REMEMBERED_SECONDS = 60.0

REDIS_SECONDS = 1.0
"""Timeout of a question to Redis."""
RETRY_SECONDS = 1.0
"""How soon Redis is asked again after it failed."""
FOLLOW_SECONDS = 1.0

HasEnded: TypeAlias = Callable[[UUID, str], Awaitable[bool]]
"""Whether a session, given by its id and its access token, has ended. Raises an outage if that is unknown."""

_Entry: TypeAlias = tuple[str, dict[str, str]]


def revocation_key(session_id: UUID) -> str:
    """The Redis key of an ended session; auth keeps it until the session's last access token has expired."""
    return f"auth:revoked:{session_id}"


async def announce(redis: Redis, sessions: Mapping[UUID, float]) -> None:
    """Make all processes reject these sessions, for the given seconds each; returns when they do. Raises RedisError."""
    if not sessions:
        return
    async with redis.pipeline(transaction=True) as pipeline:
        _add(pipeline, sessions)
        await pipeline.execute()
    await settle()


async def settle() -> None:
    """Returns when all processes reject the sessions that have been written to Redis."""
    await asyncio.sleep(SETTLE_SECONDS)


async def restore(redis: Redis, read: Callable[[], Awaitable[Mapping[UUID, float]]]) -> None:
    """Write the revocations that Redis lacks. ``read`` returns all: the seconds for which each session is rejected.

    Raises RedisError.
    """
    # Before reading, so that what other servers have acknowledged before this one was asked is among what is read.
    server = (await redis.info("server"))["run_id"]
    sessions = await read()
    *found, complete = await redis.mget([*map(revocation_key, sessions), COMPLETE])
    missing = {each: seconds for (each, seconds), known in zip(sessions.items(), found, strict=True) if known is None}
    async with redis.pipeline(transaction=True) as pipeline:
        _add(pipeline, missing)
        if complete != server:
            pipeline.xadd(LOG, {"session": ""}, maxlen=LOG_ENTRIES, approximate=False)  # so that it has an entry
            pipeline.set(COMPLETE, server)
        await pipeline.execute()


def _add(pipeline: "Pipeline", sessions: Mapping[UUID, float]) -> None:
    for session_id, seconds in sessions.items():
        pipeline.set(revocation_key(session_id), 1, ex=max(1, math.ceil(seconds)))
        pipeline.xadd(LOG, {"session": str(session_id)}, maxlen=LOG_ENTRIES, approximate=False)


def _clock() -> float:
    """Seconds that also pass while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _MayLackSome(Exception):
    """The Redis server may lack revocations."""


class Revocations:
    """Asks Redis, or ``otherwise`` while that does not answer or may lack revocations.

    A session that Redis did not know as ended is remembered, and forgotten when it appears in the log.
    """

    def __init__(self, redis: Redis, otherwise: HasEnded | None) -> None:
        self._redis = redis
        self._otherwise = otherwise
        self._away_until = float("-inf")
        self._live: Recent[UUID, float] = Recent(REMEMBERED_SESSIONS)
        """When Redis was asked about the session."""
        self._last: _Entry | None = None
        """The newest entry of the log that was read. None: nothing is remembered."""
        self._read_at = float("-inf")
        """All earlier entries of the log have been read."""
        self._reading = asyncio.Lock()
        self._news = asyncio.Event()
        SESSIONS_REMEMBERED.set_function(lambda: len(self._live))

    async def has_ended(self, session_id: UUID, token: str) -> bool:
        """Raises Unavailable, or what ``otherwise`` raises, if that cannot be determined."""
        asked = _clock()
        if self._is_live(session_id, asked):
            SESSIONS_CHECKED.labels("memory").inc()
            return False
        # While Redis is down, only one request per second waits for it.
        if self._otherwise is None or asked >= self._away_until:
            try:
                # The client's own timeouts are longer; they apply if there is no alternative.
                async with asyncio.timeout(None if self._otherwise is None else REDIS_SECONDS):
                    return await self._ask(session_id, asked)
            except (RedisError, OSError, TimeoutError, _MayLackSome) as error:
                if self._otherwise is None:
                    raise Unavailable("Cannot determine whether the session has ended") from error
                self._away_until = _clock() + RETRY_SECONDS
        SESSIONS_CHECKED.labels("auth").inc()
        return await self._otherwise(session_id, token)

    def next(self) -> asyncio.Event:
        """Set at the next news in the log, if ``follow`` runs, or when the log was lost."""
        return self._news

    async def follow(self) -> None:
        """Read the log when something is added. For ``next``; ``has_ended`` does not depend on it."""
        while True:
            since = self._last[0] if self._last else "$"
            await self._redis.xread({LOG: since}, count=1, block=int(1000 * FOLLOW_SECONDS))
            tasks.raise_if_cancelled()
            async with self._reading:
                await self._read()

    def _is_live(self, session_id: UUID, asked: float) -> bool:
        """Whether the session had not ended when ``asked``, or its end had not been confirmed. False if unknown."""
        since = self._live.get(session_id)
        return since is not None and asked - since < REMEMBERED_SECONDS and asked - self._read_at < TRUST_SECONDS

    async def _ask(self, session_id: UUID, asked: float) -> bool:
        if self._live.get(session_id) is not None:
            async with self._reading:  # once for all sessions
                if asked - self._read_at >= TRUST_SECONDS:
                    await self._read()
            if self._is_live(session_id, asked):
                SESSIONS_CHECKED.labels("log").inc()
                return False
        SESSIONS_CHECKED.labels("redis").inc()
        return await self._read(session_id)

    async def _read(self, session_id: UUID | None = None) -> bool:
        """Read the log's news, and whether the session has ended."""
        last, sent = self._last, _clock()
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.info("server")
            pipeline.get(COMPLETE)
            if last is None:
                pipeline.xrevrange(LOG, count=1)
            else:
                pipeline.xrange(LOG, min=last[0])
            if session_id is not None:
                pipeline.exists(revocation_key(session_id))  # after the log: a later end will be in its news
            server, complete, entries, *found = await pipeline.execute()
        if complete != server["run_id"]:
            raise _MayLackSome
        has_ended = any(found)
        if self._last == last:  # otherwise another answer, perhaps a later one, has been used meanwhile
            self._learn(entries)
            self._read_at = max(self._read_at, sent)
            if session_id is not None and not has_ended:
                self._live.put(session_id, sent)
        return has_ended

    def _learn(self, entries: list[_Entry]) -> None:
        if self._last is None or not entries or entries[0] != self._last:  # the log was trimmed, or is another one
            self._forget()
        for _, entry in entries[1:]:
            if entry["session"]:
                self._live.drop(UUID(entry["session"]))
        if len(entries) > 1:
            self._notify()
        self._last = entries[-1] if entries else None

    def _forget(self) -> None:
        self._live.clear()
        if self._last is not None:
            self._notify()
        self._last = None

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
