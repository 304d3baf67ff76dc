"""RabbitMQ: one self-reconnecting connection per process, and publisher confirms."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import aio_pika
from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
from aio_pika.connection import make_url
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, PublishError

from kinora_kit import logs, tasks
from kinora_kit.errors import Unavailable
from kinora_kit.metrics import EVENTS_PUBLISHED
from kinora_kit.queues import Queue

log = logs.get(__name__)

PUBLISH_SECONDS = 10.0
CLOSE_SECONDS = 2.0
MISSING_SECONDS = 1.0
"""How soon a missing queue is looked for again."""
HEARTBEAT_SECONDS = 10  # a peer is considered dead after three missed heartbeats

# What the driver raises when a connection or channel dies during a call.
LOST = (AMQPError, OSError, TimeoutError, RuntimeError, asyncio.InvalidStateError)


class Unroutable(Exception):
    """A mandatory message was routed to no queue, or one of the queues that must receive it does not exist yet."""


class Broker:
    """Use ``connect``. It connects in the background, so that the process can start without the broker."""

    def __init__(self, url: str, *, name: str, exchanges: Sequence[str] = (), queues: Sequence[Queue] = ()) -> None:
        self._url = f"{url}{'&' if '?' in url else '?'}heartbeat={HEARTBEAT_SECONDS}"
        self._name = name
        self._own_exchanges = exchanges
        self._queues = queues
        self._bound: set[str] = set()
        self._missing: dict[str, float] = {}
        self._connection: AbstractConnection | None = None
        self._connected = asyncio.Event()
        self._publishing: AbstractChannel | None = None
        self._publishing_lock = asyncio.Lock()
        self._exchanges: dict[str, AbstractExchange] = {}

    async def _hold(self) -> None:
        """Connect, and return when the connection is lost."""
        connection = aio_pika.Connection(make_url(self._url), client_properties={"connection_name": self._name})
        lost = asyncio.Event()
        connection.close_callbacks.add(lambda *_: lost.set())
        try:
            await connection.connect(timeout=5)
            async with connection.channel() as channel:
                for exchange in self._own_exchanges:
                    await channel.declare_exchange(exchange, ExchangeType.TOPIC, durable=True)
            tasks.raise_if_cancelled()
            self._connection = connection
            self._connected.set()
            log.info("connected to the broker")
            await lost.wait()
            log.warning("lost the connection to the broker")
        finally:
            self._connected.clear()
            self._connection = None
            self._publishing = None
            self._exchanges = {}
            self._bound = set()
            self._missing = {}
            try:
                with contextlib.suppress(*LOST):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await connection.close()
            finally:
                # If that was interrupted, this only marks it as closed: otherwise its destructor would close it again.
                await connection.close()

    async def check(self) -> None:
        if self._connection is None or self._connection.is_closed:
            raise ConnectionError("not connected")

    async def channel(self, *, prefetch: int | None = None) -> AbstractChannel:
        """A channel on the current connection; waits until there is one."""
        while self._connection is None:
            await self._connected.wait()
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        if prefetch is not None:
            await channel.set_qos(prefetch_count=prefetch)
        return channel

    async def _exchange(self, name: str) -> AbstractExchange:
        async with self._publishing_lock:
            if self._publishing is None or self._publishing.is_closed:
                self._exchanges = {}
                self._publishing = await self.channel()
            if name not in self._exchanges:
                if name:
                    exchange = await self._publishing.get_exchange(name, ensure=False)
                else:
                    exchange = self._publishing.default_exchange
                self._exchanges[name] = exchange
            return self._exchanges[name]

    async def _bind_queues(self, exchange: str, routing_key: str) -> bool:
        """Bind the declared queues that must receive such messages; returns whether there are any.

        The publisher binds them, too, so that none misses what is published while its consumers run an older release.
        Raises Unroutable as long as one does not exist, because its consumers have never run on this broker.
        """
        receivers = [queue for queue in self._queues if (exchange, routing_key) in queue.bindings]
        bound = self._bound  # of this connection: another one may reach a broker without the queues
        for queue in receivers:
            if queue.name in bound:
                continue
            if time.monotonic() - self._missing.get(queue.name, float("-inf")) < MISSING_SECONDS:
                raise Unroutable(f"the queue {queue.name} does not exist yet")
            channel = await self.channel()
            try:
                found = await channel.get_queue(queue.name)
                for owner, pattern in queue.bindings:
                    await found.bind(owner, pattern)
            except ChannelNotFoundEntity as error:
                self._missing[queue.name] = time.monotonic()
                raise Unroutable(f"the queue {queue.name} does not exist yet") from error
            finally:
                with contextlib.suppress(*LOST):
                    await channel.close()
            bound.add(queue.name)
        return bool(receivers)

    async def publish(
        self,
        body: bytes,
        *,
        exchange: str,
        routing_key: str,
        message_id: str,
        mandatory: bool = False,
        headers: dict[str, str | int] | None = None,
    ) -> None:
        """Publish a persistent message and wait for the broker's confirm.

        Raises Unroutable if ``mandatory`` and no queue accepted it, or if a declared queue that must receive it does
        not exist yet; Unavailable if the broker did not confirm in time: the broker may or may not have the message
        then, so publish it again.
        """
        message = aio_pika.Message(
            body,
            content_type="application/cloudevents+json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=message_id,
            headers=dict(headers or {}),
        )
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                has_receivers = await self._bind_queues(exchange, routing_key)
                target = await self._exchange(exchange)
                await target.publish(message, routing_key, mandatory=mandatory or has_receivers)
        except PublishError as error:
            raise Unroutable(f"{exchange or 'the default exchange'} has no queue for {routing_key}") from error
        except (*LOST, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and tasks.cancelled():
                raise
            raise Unavailable("The message broker is unavailable") from error
        EVENTS_PUBLISHED.labels(exchange or "default").inc()


@contextlib.asynccontextmanager
async def connect(
    url: str, *, name: str, exchanges: Sequence[str] = (), queues: Sequence[Queue] = ()
) -> AsyncIterator[Broker]:
    """``exchanges`` belong to the service, and only it declares them, on every connection.

    ``queues`` are those of other services that receive messages from them: no message is published before all queues
    that must receive it exist.
    """
    broker = Broker(url, name=name, exchanges=exchanges, queues=queues)
    async with tasks.background(broker=broker._hold):
        yield broker
