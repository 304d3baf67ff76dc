"""Argon2id with the parameters of RFC 9106, on a bounded number of threads."""

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from prometheus_client import Gauge, Histogram

from kinora_auth.errors import TooBusy
from kinora_auth.text import opaque, password_forms
from kinora_kit.errors import TooManyAtOnce
from kinora_kit.metrics import SECONDS

T = TypeVar("T")

HASH_SECONDS = Histogram("kinora_auth_hash_seconds", "Time to hash or verify one password", buckets=SECONDS)
HASHES_WAITING = Gauge("kinora_auth_hashes_waiting", "Requests waiting for a hashing thread")


@contextlib.contextmanager
def _counted(waiting: Counter[str], key: str) -> Iterator[None]:
    waiting[key] += 1
    try:
        yield
    finally:
        waiting[key] -= 1
        if not waiting[key]:
            del waiting[key]


class Passwords:
    """``hash`` and ``verify`` must be called inside ``slot``."""

    def __init__(self, *, threads: int, queue: int, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._slots = asyncio.Semaphore(threads)
        self._queue = queue
        self._clients: Counter[str] = Counter()
        self._groups: Counter[str] = Counter()
        # Verified if there is no such user, so that the response time does not reveal that.
        self._decoy = self._hasher.hash(secrets.token_urlsafe())

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextlib.asynccontextmanager
    async def slot(self, client: str, group: str) -> AsyncIterator[None]:
        """Reserve a hashing thread.

        Raises TooBusy if the queue is full, and TooManyAtOnce if ``client`` already has half of it, or ``group`` three
        quarters, so that neither can keep all others from signing in.
        """
        if self._clients.total() >= self._queue:
            raise TooBusy
        if self._clients[client] >= max(1, self._queue // 2) or self._groups[group] >= max(1, self._queue * 3 // 4):
            raise TooManyAtOnce("Too many of your passwords are being checked; try again")
        with _counted(self._clients, client), _counted(self._groups, group):
            HASHES_WAITING.inc()
            try:
                await self._slots.acquire()
            finally:
                HASHES_WAITING.dec()
        try:
            yield
        finally:
            self._slots.release()

    async def hash(self, password: str) -> str:
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, known: str | None, password: str) -> str | None:
        """The form of ``password`` that matches the hash ``known``. If ``known`` is None: None, after the same time."""

        def check() -> str | None:
            for form in password_forms(password):
                with contextlib.suppress(VerificationError, InvalidHashError):
                    if self._hasher.verify(known or self._decoy, form) and known is not None:
                        return form
            return None

        return await self._run(check)

    def outdated(self, known: str, form: str) -> bool:
        """Whether ``known`` was made with old parameters or from an old form of the password."""
        return self._hasher.check_needs_rehash(known) or form != opaque(form)

    async def _run(self, call: Callable[[], T]) -> T:
        with HASH_SECONDS.time():
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
