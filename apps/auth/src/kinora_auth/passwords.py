"""Argon2id with the parameters of RFC 9106, off the event loop and only so many at a time."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from prometheus_client import Gauge, Histogram

from kinora_auth.errors import TooBusy
from kinora_kit.metrics import SECONDS

T = TypeVar("T")

HASH_SECONDS = Histogram("kinora_auth_hash_seconds", "Time to hash or verify one password", buckets=SECONDS)
HASHES_WAITING = Gauge("kinora_auth_hashes_waiting", "Requests that wait for a hashing thread")


class Passwords:
    """``hash`` and ``verify`` are called inside ``slot``."""

    def __init__(self, *, threads: int, queue: int) -> None:
        self._hasher = PasswordHasher()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._slots = asyncio.Semaphore(threads)
        self._queue = queue
        self._waiting = 0
        # Verified where there is no user, so that this takes the same time.
        self._decoy = self._hasher.hash(secrets.token_urlsafe())

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A hashing thread of one's own. Raises TooBusy when too many wait for one."""
        if self._waiting >= self._queue:
            raise TooBusy
        self._waiting += 1
        HASHES_WAITING.set(self._waiting)
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
            HASHES_WAITING.set(self._waiting)
        try:
            yield
        finally:
            self._slots.release()

    async def hash(self, password: str) -> str:
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, known: str | None, password: str) -> bool:
        """Whether ``password`` has the hash ``known``; with ``None`` it is wrong after the same time."""

        def check() -> bool:
            try:
                return self._hasher.verify(known or self._decoy, password) and known is not None
            except (VerificationError, InvalidHashError):
                return False

        return await self._run(check)

    def outdated(self, known: str) -> bool:
        """Whether ``known`` was made with parameters other than today's."""
        return self._hasher.check_needs_rehash(known)

    async def _run(self, call: Callable[[], T]) -> T:
        with HASH_SECONDS.time():
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
