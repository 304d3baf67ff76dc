"""Progress of videos, from the broker to subscribers.

One queue per process, bound only to the subscribed ids. A subscriber gets the current state first and then newer ones;
a slow subscriber skips intermediate states, because each message carries the whole state.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from uuid import UUID

from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from pydantic import ValidationError

from kinora.events.video import PROGRESS_EXCHANGE, TranscodeProgressed
from kinora_graphql.video.types import ENDS, VideoProgress
from kinora_kit import logs
from kinora_kit.broker import CLOSE_SECONDS, LOST, Broker
from kinora_kit.events import Event
from kinora_kit.outages import is_outage

log = logs.get(__name__)

RETRY_SECONDS = 1.0

Fetch = Callable[[], Awaitable[VideoProgress]]


class Watcher:
    """The pending update of one subscriber: the newest state, and whether messages may have been lost."""

    def __init__(self) -> None:
        self.newest: VideoProgress | None = None
        self.lost = True
        self.news = asyncio.Event()
        self.news.set()

    def offer(self, state: VideoProgress) -> None:
        if self.newest is None or state.version > self.newest.version:
            self.newest = state
            self.news.set()

    def mark_stale(self) -> None:
        self.lost = True
        self.news.set()


class ProgressHub:
    """Must be ``run`` in the background."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._watchers: dict[UUID, set[Watcher]] = {}
        self._queue: AbstractQueue | None = None
        self._binding = asyncio.Lock()  # binding and unbinding of an id must not be reordered
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Receive until the connection is lost."""
        channel = await self._broker.channel()
        closed = asyncio.Event()
        channel.close_callbacks.add(lambda *_: closed.set())
        try:
            # A new name each time: the broker may still have the queue of a connection that has just died.
            queue = await channel.declare_queue(
                f"graphql.progress.{secrets.token_hex(8)}", exclusive=True, auto_delete=True
            )
            async with self._binding:
                for video_id in self._watchers:
                    await queue.bind(PROGRESS_EXCHANGE, str(video_id))
                self._queue = queue
            await queue.consume(self._received, no_ack=True)
            for watchers in self._watchers.values():
                for watcher in watchers:
                    watcher.mark_stale()
            await closed.wait()
        finally:
            self._queue = None
            with contextlib.suppress(*LOST):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await channel.close()

    async def watch(self, video_id: UUID, fetch: Fetch) -> AsyncGenerator[VideoProgress, None]:
        """The states of one video, each newer than the one before, until the final one.

        ``fetch`` returns the current state; it is called once the queue is bound, and whenever messages may have been
        lost. Its errors are raised, except outages after the first call, which are retried.
        """
        watcher = Watcher()
        try:
            await self._shielded(self._add(video_id, watcher))
            version = None
            while True:
                await watcher.news.wait()
                watcher.news.clear()
                if watcher.lost:
                    watcher.lost = False
                    try:
                        watcher.offer(await fetch())
                    except Exception as error:
                        if version is None or not is_outage(error):
                            raise
                        await asyncio.sleep(RETRY_SECONDS)
                        watcher.mark_stale()
                newest = watcher.newest
                if newest is not None and (version is None or newest.version > version):
                    version = newest.version
                    yield newest
                    if newest.state in ENDS:
                        return
        finally:
            await self._shielded(self._remove(video_id, watcher))

    async def _shielded(self, call: Coroutine[None, None, None]) -> None:
        """Let ``call`` finish even if the waiting subscriber is cancelled.

        The driver closes a channel when one of its calls is cancelled, and all subscribers share this channel.
        """
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        await asyncio.wait([task])

    async def _add(self, video_id: UUID, watcher: Watcher) -> None:
        async with self._binding:
            watchers = self._watchers.setdefault(video_id, set())
            watchers.add(watcher)
            if len(watchers) == 1 and self._queue is not None:
                # If the connection is lost, run binds all subscribed ids again.
                with contextlib.suppress(*LOST):
                    await self._queue.bind(PROGRESS_EXCHANGE, str(video_id))

    async def _remove(self, video_id: UUID, watcher: Watcher) -> None:
        async with self._binding:
            watchers = self._watchers[video_id]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[video_id]
                if self._queue is not None:
                    with contextlib.suppress(*LOST):
                        await self._queue.unbind(PROGRESS_EXCHANGE, str(video_id))

    async def _received(self, message: AbstractIncomingMessage) -> None:
        try:
            # All kinds of progress have the same shape.
            progress = Event.model_validate_json(message.body).read(TranscodeProgressed)
        except ValidationError:
            log.warning("malformed progress message", routing_key=message.routing_key)
            return
        state = VideoProgress.of_event(progress)
        for watcher in self._watchers.get(progress.video_id, ()):
            watcher.offer(state)
