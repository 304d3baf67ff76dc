"""Consuming: quorum queues, delayed retries that grow, and dead letters, the same for every queue.

For a queue ``media.video`` there are ``media.video.retry.<seconds>`` (messages wait there, then return) and
``media.video.dead`` (what was given up; the alert watches its length). A handler returns when its effect is committed,
or raises Ignore (not for us), Poison (can never work), or anything else (try again later). A message may arrive twice:
a handler makes its effect happen once, see ``outbox.first_time``.

Three counters, so that a message is given up only for what it caused itself: failures of its handler (ATTEMPT, limited
by the queue's retries), outages it waited for (WAITS, without a limit), and consumers that ended while they had it
(ENDED, limited by DELIVERY_LIMIT). A consumer that is stopped is none of them.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from pydantic import ValidationError
from structlog.contextvars import bound_contextvars

from kinora_kit import logs
from kinora_kit.broker import CLOSE_SECONDS, LOST, Broker, Unroutable
from kinora_kit.errors import Unavailable
from kinora_kit.events import Event
from kinora_kit.metrics import EVENTS_HANDLED
from kinora_kit.outages import is_outage

log = logs.get(__name__)

ATTEMPT = "x-kinora-attempt"
WAITS = "x-kinora-waits"
ENDED = "x-kinora-ended"
REASON = "x-kinora-reason"
# Set by quorum queues: how often this message came back. Before RabbitMQ 4.3 whatever the cause; a lost connection
# counts in every version, because the broker cannot tell it from a consumer that was killed.
DELIVERIES = "x-delivery-count"

# A message that ends its consumer again and again is given up after so many of them. The broker lets go of it, too.
DELIVERY_LIMIT = 10


class Ignore(Exception):
    """The message is understood and there is nothing to do."""


class Poison(Exception):
    """The message can never be handled: keep it as a dead letter, for a person to look at."""


@dataclass(frozen=True)
class Queue:
    """One queue. ``bindings`` are (exchange, routing pattern); a work queue has none, its sender names it in full."""

    name: str
    bindings: Sequence[tuple[str, str]] = ()
    retry_seconds: Sequence[int] = (1, 5, 30, 120)
    prefetch: int = 16

    def __post_init__(self) -> None:
        if not self.retry_seconds:
            raise ValueError("a queue needs a place to wait for the end of an outage")

    @property
    def dead(self) -> str:
        return f"{self.name}.dead"

    def retry(self, attempt: int) -> str:
        return f"{self.name}.retry.{self.retry_seconds[attempt]}"


Handler = Callable[[Event], Awaitable[None]]


async def declare(channel: AbstractChannel, queue: Queue) -> None:
    """The queue with all that belongs to it. Declaring is idempotent, so every consumer does it."""
    quorum: dict[str, Any] = {"x-queue-type": "quorum"}
    # A message leaves one queue for the next only when that one has confirmed it, and the strategy needs the overflow.
    forwarding = {
        **quorum,
        "x-dead-letter-exchange": "",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    await channel.declare_queue(queue.dead, durable=True, arguments=quorum)
    for seconds in queue.retry_seconds:
        await channel.declare_queue(
            f"{queue.name}.retry.{seconds}",
            durable=True,
            arguments={
                **forwarding,
                "x-message-ttl": seconds * 1000,
                "x-dead-letter-routing-key": queue.name,
            },
        )
    main = await channel.declare_queue(
        queue.name,
        durable=True,
        arguments={
            **forwarding,
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-routing-key": queue.dead,
        },
    )
    for exchange, pattern in queue.bindings:
        # Only its owner may declare an exchange. Until it has, this fails and the consumer is started again.
        await main.bind(exchange, pattern)


async def consume(broker: Broker, queue: Queue, handler: Handler, *, given_up: Handler | None = None) -> None:
    """Handle messages until the connection is lost or the task is cancelled.

    ``given_up`` is told of an event before it becomes a dead letter, so that nobody waits for its effect for ever.

    Cancelled, it takes no new message; those whose handler was running go back to the queue's end as if nobody had had
    them. Raises when a message could be neither handled nor moved to another queue: the broker takes it back, and
    whoever runs this starts it again.
    """
    channel = await broker.channel(prefetch=queue.prefetch)
    running: dict[asyncio.Task[None], AbstractIncomingMessage] = {}
    end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(*_: object) -> None:
        if not end.done():
            end.set_result(None)

    def handled(task: asyncio.Task[None]) -> None:
        running.pop(task, None)
        if task.cancelled():
            ended()
        elif (error := task.exception()) and not end.done():
            end.set_exception(error)

    channel.close_callbacks.add(ended)
    # The broker cancels the consumers of a queue that was deleted or has lost its leader; the channel stays open.
    (await channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(ended)
    try:
        await declare(channel, queue)

        async def received(message: AbstractIncomingMessage) -> None:
            task = asyncio.create_task(_handle(broker, queue, handler, given_up, message))
            running[task] = message
            task.add_done_callback(handled)

        source = await channel.get_queue(queue.name, ensure=False)
        tag = await source.consume(received)
        try:
            await end
        finally:
            # Unsubscribe first, or what is given back comes to this consumer again.
            with contextlib.suppress(*LOST):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await source.cancel(tag)
            stopped = dict(running)
            for task in stopped:
                task.cancel()
            await asyncio.gather(*stopped, return_exceptions=True)
            if not channel.is_closed:
                messages = [message for task, message in stopped.items() if task.cancelled()]
                await asyncio.gather(*(_give_back(broker, queue, message) for message in messages))
    finally:
        with contextlib.suppress(*LOST):
            async with asyncio.timeout(CLOSE_SECONDS):
                await channel.close()


async def _handle(
    broker: Broker, queue: Queue, handler: Handler, given_up: Handler | None, message: AbstractIncomingMessage
) -> None:
    started = time.perf_counter()
    outcome = "done"
    try:
        event = Event.model_validate_json(message.body)
    except ValidationError as error:
        outcome = await _bury(broker, queue, message, f"not an event: {error.error_count()} errors")
    else:
        logs.traceparent.set(event.traceparent)
        with bound_contextvars(event_id=str(event.id), event_type=event.type, queue=queue.name):
            try:
                if (ended := _ended(message)) >= DELIVERY_LIMIT:
                    # After this one the broker would let go of it, and nobody would be told.
                    raise Poison(f"ended its consumer {ended} times")
                await handler(event)
            except Ignore:
                outcome = "ignored"
            except Exception as error:
                outcome = await _failed(broker, queue, message, event=event, error=error, given_up=given_up)
    await message.ack()
    EVENTS_HANDLED.labels(queue.name, outcome).observe(time.perf_counter() - started)


async def _failed(
    broker: Broker,
    queue: Queue,
    message: AbstractIncomingMessage,
    *,
    event: Event,
    error: Exception,
    given_up: Handler | None,
) -> str:
    """Move the message to where it waits, or to the dead letters; returns the outcome."""
    attempt = _count(message, ATTEMPT)
    if isinstance(error, Poison | ValidationError):
        reason = repr(error)
    elif is_outage(error):
        return await _wait_out(broker, queue, message, error)
    elif attempt < len(queue.retry_seconds):
        log.warning("handler failed, trying again later", attempt=attempt, error=repr(error))
        await _move(broker, message, queue.retry(attempt), {ATTEMPT: attempt + 1})
        return "retry"
    else:
        log.error("handler failed too often", attempt=attempt, exc_info=error)
        reason = f"gave up after {attempt} retries: {error!r}"
    if given_up is not None:
        try:
            await given_up(event)
        except Exception as unheard:
            if not is_outage(unheard):
                raise
            return await _wait_out(broker, queue, message, unheard)
    return await _bury(broker, queue, message, reason)


async def _wait_out(broker: Broker, queue: Queue, message: AbstractIncomingMessage, error: Exception) -> str:
    """Wait, longer and longer, and for as long as it takes; the retries after failures are not touched."""
    waits = _count(message, WAITS)
    log.warning("something is away, trying again later", waits=waits, error=repr(error))
    target = queue.retry(min(waits, len(queue.retry_seconds) - 1))
    await _move(broker, message, target, {ATTEMPT: _count(message, ATTEMPT), WAITS: waits + 1})
    return "retry"


async def _give_back(broker: Broker, queue: Queue, message: AbstractIncomingMessage) -> None:
    """Send it to its queue again, for another consumer; the broker would count a message that comes back to it.

    Where that fails, the broker takes it back after all.
    """
    with contextlib.suppress(*LOST, Unroutable, Unavailable):
        async with asyncio.timeout(CLOSE_SECONDS):
            counts: dict[str, str | int] = {ATTEMPT: _count(message, ATTEMPT), WAITS: _count(message, WAITS)}
            await _move(broker, message, queue.name, counts)
            await message.ack()


def _count(message: AbstractIncomingMessage, header: str) -> int:
    given = message.headers.get(header)
    return given if isinstance(given, int) and given > 0 else 0


def _ended(message: AbstractIncomingMessage) -> int:
    """How many consumers ended with it, or lost their connection: now and before it was moved."""
    return _count(message, ENDED) + _count(message, DELIVERIES)


async def _bury(broker: Broker, queue: Queue, message: AbstractIncomingMessage, reason: str) -> str:
    log.error("dead letter", queue=queue.name, message_id=message.message_id, reason=reason)
    await _move(broker, message, queue.dead, {REASON: reason[:500]})
    return "dead"


async def _move(broker: Broker, message: AbstractIncomingMessage, target: str, headers: dict[str, str | int]) -> None:
    # Confirmed elsewhere before it is acknowledged here: dying between the two doubles the message and loses nothing.
    await broker.publish(
        message.body,
        exchange="",
        routing_key=target,
        message_id=message.message_id or "",
        mandatory=True,
        headers={ENDED: _ended(message), **headers},
    )
