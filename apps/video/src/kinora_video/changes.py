"""Waiting for changes of a video, for streams of its progress.

One LISTEN connection per process wakes all streams; each then reads the state, so a lost notification only delays it.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from uuid import UUID

from kinora_kit import postgres, tasks

CHANNEL = "video_changed"


class Changes:
    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @contextlib.contextmanager
    def of(self, video_id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set whenever the video changes; the waiter clears it."""
        key, changed = str(video_id), asyncio.Event()
        self._waiting[key].add(changed)
        try:
            yield changed
        finally:
            self._waiting[key].discard(changed)
            if not self._waiting[key]:
                del self._waiting[key]

    def _one(self, video_id: str) -> None:
        for changed in self._waiting.get(video_id, ()):
            changed.set()

    def _all(self) -> None:
        for video_id in list(self._waiting):
            self._one(video_id)

    @contextlib.asynccontextmanager
    async def listening(self, url: str) -> AsyncIterator[None]:
        async def listen() -> None:
            await postgres.listen(url, channel=CHANNEL, on_notify=self._one, on_connect=self._all)

        async with tasks.background(video_changes=listen):
            yield
