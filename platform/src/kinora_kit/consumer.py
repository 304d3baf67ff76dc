"""Consuming: quorum queues, retries with growing delays, and dead letters, the same for every queue.

A queue ``media.video`` comes with ``media.video.retry.<seconds>`` (messages wait there, then return) and
``media.video.dead`` (dead letters; an alert watches its length). A handler returns when its effect is committed, or
raises Ignore (nothing to do), Poison (can never succeed), or anything else (retry later). Messages may be delivered
twice, so handlers must be idempotent, see ``outbox.first_time``.

Three counters ensure that a message is dead-lettered only for failures that it caused: failures of its handler
(ATTEMPT, limited by the queue's retries), outages (WAITS, unlimited), and consumers that died while handling it (ENDED,
limited by DELIVERY_LIMIT). A graceful stop of a consumer counts as none of them.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
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
from kinora_kit.queues import Queue

log = logs.get(__name__)

ATTEMPT = "x-kinora-attempt"
WAITS = "x-kinora-waits"
ENDED = "x-kinora-ended"
REASON = "x-kinora-reason"
# Set by quorum queues: the number of redeliveries. Before RabbitMQ 4.3 for any cause; a lost connection counts in every
# version, because the broker cannot distinguish it from a killed consumer.
DELIVERIES = "x-delivery-count"

# A message that keeps killing its consumers is dead-lettered after this many. The broker enforces it as well.
DELIVERY_LIMIT = 10


class Ignore(Exception):
    """The message is valid, but there is nothing to do."""


class Poison(Exception):
    """The message can never be handled: dead-letter it, for a person to inspect."""


class UnknownEvent(Exception):
    """This release does not know the event: retry, because the next one may be rolled out right now."""


Handler = Callable[[Event], Awaitable[None]]


async def declare(channel: AbstractChannel, queue: Queue) -> None:
    """Declare the queue with its retry and dead-letter queues. Idempotent, so every consumer does it."""
    quorum: dict[str, Any] = {"x-queue-type": "quorum"}
    # At-least-once dead-lettering: a message leaves a queue only after the next one has confirmed it. It requires
    # reject-publish overflow.
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
        # Only its owner may declare an exchange. Until then this fails, and the consumer is restarted.
        await main.bind(exchange, pattern)


async def consume(broker: Broker, queue: Queue, handler: Handler, *, given_up: Handler | None = None) -> None:
    """Handle messages until the connection is lost or the task is cancelled.

    ``given_up`` is called with an event before it is dead-lettered, so that nobody waits for its effect for ever.

    When cancelled, it accepts no new messages, and requeues those whose handler is running at the end of the queue
    without counting a delivery. Raises if a message could be neither handled nor moved to another queue: the broker
    then requeues it, and the caller must restart this.
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
    # The broker cancels the consumers of a deleted queue or one that lost its leader; the channel stays open.
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
            # Unsubscribe first, or requeued messages would be delivered to this consumer again.
            with contextlib.suppress(*LOST):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await source.cancel(tag)
            stopped = dict(running)
            for task in stopped:
                task.cancel()
            await asyncio.gather(*stopped, return_exceptions=True)
            if not channel.is_closed:
                messages = [message for task, message in stopped.items() if task.cancelled()]
                await asyncio.gather(*(_requeue(broker, queue, message) for message in messages))
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
        outcome = await _dead_letter(broker, queue, message, f"not an event: {error.error_count()} errors")
    else:
        logs.traceparent.set(event.traceparent)
        with bound_contextvars(event_id=str(event.id), event_type=event.type, queue=queue.name):
            try:
                if (ended := _lost_consumers(message)) >= DELIVERY_LIMIT:
                    # After this one the broker would dead-letter it without calling given_up.
                    raise Poison(f"lost its consumer {ended} times")
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
    """Move the message to a retry queue or to the dead letters; returns the outcome."""
    attempt = _count(message, ATTEMPT)
    if isinstance(error, Poison | ValidationError):
        reason = repr(error)
    elif is_outage(error):
        return await _retry_after_outage(broker, queue, message, error)
    elif attempt < len(queue.retry_seconds):
        log.warning("handler failed, retrying later", attempt=attempt, error=repr(error))
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
            return await _retry_after_outage(broker, queue, message, unheard)
    return await _dead_letter(broker, queue, message, reason)


async def _retry_after_outage(broker: Broker, queue: Queue, message: AbstractIncomingMessage, error: Exception) -> str:
    """Retry with growing delays, without limit; does not use up the retries for failures."""
    waits = _count(message, WAITS)
    log.warning("a dependency is unavailable, retrying later", waits=waits, error=repr(error))
    target = queue.retry(min(waits, len(queue.retry_seconds) - 1))
    await _move(broker, message, target, {ATTEMPT: _count(message, ATTEMPT), WAITS: waits + 1})
    return "retry"


async def _requeue(broker: Broker, queue: Queue, message: AbstractIncomingMessage) -> None:
    """Publish the message to its queue again, for another consumer; a nack would count as a redelivery.

    If that fails, the broker requeues it after all.
    """
    with contextlib.suppress(*LOST, Unroutable, Unavailable):
        async with asyncio.timeout(CLOSE_SECONDS):
            counts: dict[str, str | int] = {ATTEMPT: _count(message, ATTEMPT), WAITS: _count(message, WAITS)}
            await _move(broker, message, queue.name, counts)
            await message.ack()


def _count(message: AbstractIncomingMessage, header: str) -> int:
    given = message.headers.get(header)
    return given if isinstance(given, int) and given > 0 else 0


def _lost_consumers(message: AbstractIncomingMessage) -> int:
    """How many consumers died or lost their connection while they had it, including before it was moved."""
    return _count(message, ENDED) + _count(message, DELIVERIES)


async def _dead_letter(broker: Broker, queue: Queue, message: AbstractIncomingMessage, reason: str) -> str:
    log.error("dead letter", queue=queue.name, message_id=message.message_id, reason=reason)
    await _move(broker, message, queue.dead, {REASON: reason[:500]})
    return "dead"


async def _move(broker: Broker, message: AbstractIncomingMessage, target: str, headers: dict[str, str | int]) -> None:
    # Confirmed there before it is acknowledged here: a crash in between duplicates the message but never loses it.
    await broker.publish(
        message.body,
        exchange="",
        routing_key=target,
        message_id=message.message_id or "",
        mandatory=True,
        headers={ENDED: _lost_consumers(message), **headers},
    )
