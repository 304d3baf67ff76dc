"""Messages for subscribers, from an exchange of the broker whose routing keys are ids.

One queue per process and exchange, bound only to the ids that somebody listens to: messages for nobody are dropped by
the broker. Each exchange has its own channel, because binding to one that does not exist yet closes the channel.
"""

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar
from uuid import UUID

from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

from kinora.events import media, video
from kinora_kit import logs
from kinora_kit.broker import CLOSE_SECONDS, LOST, Broker
from kinora_kit.events import Event
from kinora_kit.outages import is_outage

log = logs.get(__name__)

RETRY_SECONDS = 1.0
MAX_WAITING = 100
"""How many messages wait for a slow subscriber; then the oldest are dropped."""

T = TypeVar("T")


class Listener(Protocol):
    def offer(self, event: Event) -> None:
        """Raises ValidationError if the event is malformed."""

    def mark_stale(self) -> None:
        """Messages may have been lost."""


class Hub:
    """Must be ``run`` in the background."""

    def __init__(self, broker: Broker, exchange: str) -> None:
        self._broker = broker
        self._exchange = exchange
        self._listeners: dict[UUID, set[Listener]] = {}
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
                f"graphql.{self._exchange}.{secrets.token_hex(8)}", exclusive=True, auto_delete=True
            )
            async with self._binding:
                for key in self._listeners:
                    await queue.bind(self._exchange, str(key))
                self._queue = queue
            await queue.consume(self._received, no_ack=True)
            for listener in set().union(*self._listeners.values()):
                listener.mark_stale()
            await closed.wait()
        finally:
            self._queue = None
            with contextlib.suppress(*LOST):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await channel.close()

    @contextlib.asynccontextmanager
    async def listening(self, listener: Listener, *keys: UUID) -> AsyncIterator["Listening"]:
        """Once this is entered, the listener gets the messages for these keys."""
        session = Listening(self, listener)
        try:
            await session.add(keys)
            yield session
        finally:
            for key in session.keys:
                await self._shielded(self._remove(key, listener))

    async def _shielded(self, call: Coroutine[None, None, None]) -> None:
        """Let ``call`` finish even if the waiting subscriber is cancelled.

        The driver closes a channel when one of its calls is cancelled, and all subscribers share this channel.
        """
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        await asyncio.wait([task])

    async def _add(self, key: UUID, listener: Listener) -> None:
        async with self._binding:
            listeners = self._listeners.setdefault(key, set())
            listeners.add(listener)
            if len(listeners) == 1 and self._queue is not None:
                # If the connection is lost, run binds all keys again.
                with contextlib.suppress(*LOST):
                    await self._queue.bind(self._exchange, str(key))

    async def _remove(self, key: UUID, listener: Listener) -> None:
        async with self._binding:
            listeners = self._listeners[key]
            listeners.discard(listener)
            if not listeners:
                del self._listeners[key]
                if self._queue is not None:
                    with contextlib.suppress(*LOST):
                        await self._queue.unbind(self._exchange, str(key))

    async def _received(self, message: AbstractIncomingMessage) -> None:
        try:
            event = Event.model_validate_json(message.body)
            for listener in tuple(self._listeners.get(UUID(message.routing_key), ())):
                listener.offer(event)
        except ValueError:  # a ValidationError is one
            log.warning("malformed message", exchange=self._exchange, routing_key=message.routing_key)


class Listening:
    """What one listener listens to."""

    def __init__(self, hub: Hub, listener: Listener) -> None:
        self._hub = hub
        self._listener = listener
        self.keys: set[UUID] = set()

    async def add(self, keys: Iterable[UUID]) -> None:
        for key in set(keys) - self.keys:
            self.keys.add(key)
            await self._hub._shielded(self._hub._add(key, self._listener))


class Inbox:
    """A listener that iterates over its messages; None where some may be missing, and at the beginning."""

    def __init__(self) -> None:
        self._waiting: deque[Event | None] = deque([None], maxlen=MAX_WAITING)
        self._news = asyncio.Event()
        self._news.set()

    def offer(self, event: Event) -> None:
        self._waiting.append(event)
        self._news.set()

    def mark_stale(self) -> None:
        self._waiting.append(None)
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | None:
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The result of ``call``, which is repeated during an outage: a subscription outlives it."""
    while True:
        try:
            return await call()
        except Exception as error:
            if not is_outage(error):
                raise
            await asyncio.sleep(RETRY_SECONDS)


@dataclass(frozen=True)
class Hubs:
    progress: Hub
    """By video."""
    uploads: Hub
    """Progress by owner."""
    comments: Hub
    """By media document."""
    channels: Hub
    """By user, whose new documents and subscriptions these are."""

    @classmethod
    def of(cls, broker: Broker) -> Self:
        return cls(
            progress=Hub(broker, video.PROGRESS_EXCHANGE),
            uploads=Hub(broker, video.UPLOADS_EXCHANGE),
            comments=Hub(broker, media.COMMENTS_EXCHANGE),
            channels=Hub(broker, media.CHANNELS_EXCHANGE),
        )
