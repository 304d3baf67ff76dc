"""Progress of videos: the current state first and then newer ones.

A slow subscriber skips intermediate states, because each message carries the whole state.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from uuid import UUID

from kinora.events.video import TranscodeProgressed
from kinora_graphql.hub import RETRY_SECONDS, Hub
from kinora_graphql.video.types import ENDS, VideoProgress
from kinora_kit.events import Event
from kinora_kit.outages import is_outage

State = tuple[UUID, VideoProgress]
"""Of one video."""
Fetch = Callable[[Sequence[UUID]], Awaitable[Iterable[State]]]
"""The current states, at least of these videos."""


class Watcher:
    """What one subscriber has not been sent yet: the newest states, and whether messages may have been lost."""

    def __init__(self) -> None:
        self.newer: dict[UUID, VideoProgress] = {}
        self.sent: dict[UUID, VideoProgress] = {}
        self.lost = True
        self.news = asyncio.Event()
        self.news.set()

    def offer(self, event: Event) -> None:
        progress = event.read(TranscodeProgressed)  # all kinds of progress have the same shape
        self.put(progress.video_id, VideoProgress.of_event(progress))

    def put(self, video_id: UUID, state: VideoProgress) -> None:
        known = self.newer.get(video_id) or self.sent.get(video_id)
        if known is None or state.version > known.version:
            self.newer[video_id] = state
            self.news.set()

    def take(self) -> State:
        """The state that waits longest, which is then sent."""
        video_id = next(iter(self.newer))
        self.sent[video_id] = self.newer.pop(video_id)
        return video_id, self.sent[video_id]

    def mark_stale(self) -> None:
        self.lost = True
        self.news.set()


async def watch(hub: Hub, key: UUID, fetch: Fetch) -> AsyncGenerator[State, None]:
    """The states of the videos with this routing key, each newer than the one before.

    ``fetch`` is called once the queue is bound, and whenever messages may have been lost. Its errors are raised, except
    outages after the first call, which are retried.
    """
    watcher, first = Watcher(), True
    async with hub.listening(watcher, key):
        while True:
            await watcher.news.wait()
            watcher.news.clear()
            if watcher.lost:
                watcher.lost = False
                try:
                    open_ids = [video_id for video_id, state in watcher.sent.items() if state.state not in ENDS]
                    for video_id, state in await fetch(open_ids):
                        watcher.put(video_id, state)
                except Exception as error:
                    if first or not is_outage(error):
                        raise
                    await asyncio.sleep(RETRY_SECONDS)
                    watcher.mark_stale()
                first = False
            while watcher.newer:
                yield watcher.take()
