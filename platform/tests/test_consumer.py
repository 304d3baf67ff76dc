import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, ClassVar

import grpc
import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from kinora_kit import broker as broker_module
from kinora_kit import consumer, logs, outbox, postgres, rpc, tasks
from kinora_kit.broker import Broker, Unroutable
from kinora_kit.consumer import Handler, Ignore, Poison
from kinora_kit.errors import DomainError, Unavailable
from kinora_kit.events import Event, Payload, event
from kinora_kit.metrics import EVENTS_HANDLED
from kinora_kit.postgres import Pool
from kinora_kit.queues import Queue
from kinora_kit.testing import eventually, free_port, proxy

QueueOf = Callable[..., Queue]
Depth = Callable[[str], Awaitable[int]]


class Happened(Payload):
    type: ClassVar[str] = "kit.happened"
    n: int

    @property
    def subject(self) -> str:
        return str(self.n)


@contextlib.asynccontextmanager
async def consuming(broker: Broker, queue: Queue, handler: Handler) -> AsyncIterator[None]:
    async with tasks.background(consumer=lambda: consumer.consume(broker, queue, handler)):
        yield


async def send(broker: Broker, queue: Queue, n: int = 1, body: bytes | None = None) -> Event:
    """Publish an event directly to the queue, once the queue exists and has a leader."""
    happened = event("kit", Happened(n=n))

    async def sent() -> bool:
        try:
            await broker.publish(
                body if body is not None else happened.model_dump_json().encode(),
                exchange="",
                routing_key=queue.name,
                message_id=str(happened.id),
                mandatory=True,
            )
        except (Unroutable, Unavailable):
            return False
        return True

    await eventually(sent)
    return happened


def handled(queue: Queue, outcome: str) -> float:
    (metric,) = EVENTS_HANDLED.labels(queue.name, outcome).collect()
    return next(sample.value for sample in metric.samples if sample.name.endswith("_count"))


async def is_empty(queue: Queue, depth: Depth) -> bool:
    names = (queue.name, queue.dead, *(queue.retry(n) for n in range(len(queue.retry_seconds))))
    return not any([await depth(name) for name in names])


async def dead_letter(channel: AbstractChannel, queue: Queue) -> Any:
    """The only message in the dead-letter queue; waits for it."""
    found: list[Any] = []

    async def come() -> bool:
        dead = await channel.get_queue(queue.dead)
        message = await dead.get(no_ack=True, fail=False)
        found.append(message)
        return message is not None

    await eventually(come, seconds=30)
    return found[-1]


async def test_event_from_bound_exchange_is_handled_with_its_trace(
    broker: Broker, channel: AbstractChannel, exchange: str, queue_of: QueueOf, depth: Depth
) -> None:
    queue = queue_of(bindings=[(exchange, "kit.*")], retry_seconds=(1,))
    seen: list[tuple[Event, str | None]] = []

    async def handler(got: Event) -> None:
        seen.append((got, logs.traceparent.get()))

    await consumer.declare(channel, queue)
    trace = logs.new_traceparent()
    token = logs.traceparent.set(trace)
    happened = event("kit", Happened(n=1))
    logs.traceparent.reset(token)
    async with consuming(broker, queue, handler):
        body = happened.model_dump_json().encode()
        await broker.publish(body, exchange=exchange, routing_key="other.happened", message_id="no")
        await broker.publish(body, exchange=exchange, routing_key="kit.happened", message_id="yes")
        await eventually(lambda: handled(queue, "done") == 1)
    assert seen == [(happened, trace)]
    assert seen[0][0].read(Happened).n == 1
    assert await is_empty(queue, depth)


async def test_ignored_message_is_acknowledged(broker: Broker, queue_of: QueueOf, depth: Depth) -> None:
    queue = queue_of(retry_seconds=(1,))

    async def handler(_: Event) -> None:
        raise Ignore

    async with consuming(broker, queue, handler):
        await send(broker, queue)
        await eventually(lambda: handled(queue, "ignored") == 1)
    assert await is_empty(queue, depth)


async def test_poison_is_dead_lettered_at_once_with_reason(
    broker: Broker, channel: AbstractChannel, queue_of: QueueOf
) -> None:
    queue = queue_of(retry_seconds=(1,))

    async def handler(_: Event) -> None:
        raise Poison("cannot be")

    async with consuming(broker, queue, handler):
        happened = await send(broker, queue)
        message = await dead_letter(channel, queue)
    assert message.headers[consumer.REASON] == "Poison('cannot be')"
    assert message.message_id == str(happened.id)
    assert Event.model_validate_json(message.body) == happened


async def test_data_of_wrong_shape_is_poison(broker: Broker, channel: AbstractChannel, queue_of: QueueOf) -> None:
    class Other(Payload):
        type: ClassVar[str] = "kit.other"
        absent: str

    queue = queue_of(retry_seconds=(1,))

    async def handler(got: Event) -> None:
        got.read(Other)

    async with consuming(broker, queue, handler):
        await send(broker, queue)
        message = await dead_letter(channel, queue)
    assert "absent" in message.headers[consumer.REASON]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b'{"type": "kit.happened"}'])
async def test_malformed_body_is_dead_lettered(
    broker: Broker, channel: AbstractChannel, queue_of: QueueOf, body: bytes
) -> None:
    queue = queue_of(retry_seconds=(1,))
    calls: list[Event] = []

    async def handler(got: Event) -> None:
        calls.append(got)

    async with consuming(broker, queue, handler):
        await send(broker, queue, body=body)
        message = await dead_letter(channel, queue)
    assert message.body == body
    assert message.headers[consumer.REASON].startswith("not an event")
    assert calls == []


async def test_failure_is_retried_with_growing_delays_then_dead_lettered(
    broker: Broker, channel: AbstractChannel, queue_of: QueueOf
) -> None:
    queue = queue_of(retry_seconds=(1, 2))
    clock = asyncio.get_running_loop().time
    tries: list[float] = []

    async def handler(_: Event) -> None:
        tries.append(clock())
        raise LookupError("not yet")

    async with consuming(broker, queue, handler):
        happened = await send(broker, queue)
        message = await dead_letter(channel, queue)
    first, second, third = tries
    assert second - first > 0.9
    assert third - second > 1.9
    assert message.headers[consumer.REASON] == "gave up after 2 retries: LookupError('not yet')"
    assert Event.model_validate_json(message.body) == happened
    assert (handled(queue, "retry"), handled(queue, "dead")) == (2, 1)


async def test_transient_failure_is_retried_until_success(broker: Broker, queue_of: QueueOf, depth: Depth) -> None:
    queue = queue_of(retry_seconds=(1,))
    tries = 0

    async def handler(_: Event) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ConnectionError

    async with consuming(broker, queue, handler):
        await send(broker, queue)
        await eventually(lambda: handled(queue, "done") == 1)
    assert await is_empty(queue, depth)


async def test_malformed_attempt_header_counts_as_first_attempt(
    broker: Broker, channel: AbstractChannel, queue_of: QueueOf
) -> None:
    queue = queue_of(retry_seconds=(1,))
    await consumer.declare(channel, queue)
    body = event("kit", Happened(n=1)).model_dump_json().encode()
    await channel.default_exchange.publish(Message(body, headers={consumer.ATTEMPT: "many"}), queue.name)

    async def handler(_: Event) -> None:
        pass

    async with consuming(broker, queue, handler):
        await eventually(lambda: handled(queue, "done") == 1)


async def test_message_is_redelivered_when_consumer_dies(
    kit: dict[str, str], broker: Broker, queue_of: QueueOf, depth: Depth
) -> None:
    queue = queue_of(retry_seconds=(1,))
    started = asyncio.Event()
    ended: list[str] = []

    async def never_ends(_: Event) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cut short")

    async def handler(got: Event) -> None:
        ended.append(got.subject)

    async with (
        proxy(kit["RABBITMQ_URL"]) as link,
        broker_module.connect(link.url, name="dying") as dying,
        consuming(dying, queue, never_ends),
    ):
        await send(broker, queue, 5)
        await started.wait()
        await link.cut()
        await eventually(lambda: ended == ["cut short"])
        async with consuming(broker, queue, handler):
            await eventually(lambda: ended == ["cut short", "5"])
            await eventually(lambda: is_empty(queue, depth))


@contextlib.asynccontextmanager
async def consuming_until_given_up(
    broker: Broker, queue: Queue, handler: Handler
) -> AsyncIterator[list[tuple[str, float]]]:
    """Consume, and collect given-up events, with the number of dead letters at that time."""
    told: list[tuple[str, float]] = []

    async def given_up(got: Event) -> None:
        told.append((got.subject, handled(queue, "dead")))

    work = partial(consumer.consume, broker, queue, handler, given_up=given_up)
    async with tasks.background(consumer=work):
        yield told


@pytest.mark.parametrize("failure", [Poison(), LookupError()])
async def test_given_up_is_called_before_dead_lettering(
    broker: Broker, channel: AbstractChannel, queue_of: QueueOf, failure: Exception
) -> None:
    queue = queue_of(retry_seconds=(1,))

    async def handler(_: Event) -> None:
        raise failure

    async with consuming_until_given_up(broker, queue, handler) as told:
        await send(broker, queue, 4)
        await dead_letter(channel, queue)
        assert told == [("4", 0)]


class AwayBehindAnother(DomainError):
    """The error of a service that cannot reach its own store."""

    status = 503


@pytest.mark.parametrize("outage", [ConnectionResetError(), Unavailable(), AwayBehindAnother()])
async def test_long_outage_uses_up_no_retries(
    broker: Broker, queue_of: QueueOf, depth: Depth, outage: Exception
) -> None:
    queue = queue_of(retry_seconds=(1,))
    failures = [outage, outage, outage, LookupError()]  # the last one is a failure and uses a retry
    tries = 0

    async def handler(_: Event) -> None:
        nonlocal tries
        tries += 1
        if failures:
            raise failures.pop(0)

    async with consuming_until_given_up(broker, queue, handler) as told:
        await send(broker, queue, 4)
        await eventually(lambda: handled(queue, "done") == 1, seconds=30)
    assert tries == 5
    assert (handled(queue, "retry"), handled(queue, "dead"), told) == (4, 0, [])
    assert await is_empty(queue, depth)


async def test_bug_of_a_called_service_uses_up_the_retries(
    broker: Broker, channel: AbstractChannel, queue_of: QueueOf
) -> None:
    async def fails(request: object, context: object) -> bytes:
        raise ZeroDivisionError

    def register(server: grpc.aio.Server) -> None:
        ask: Any = grpc.unary_unary_rpc_method_handler(fails)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("kit.v1.Reading", {"Ask": ask}),))

    address = f"127.0.0.1:{free_port()}"
    async with rpc.serve(address, register, verifier=None), rpc.connect(address) as called:

        async def handler(_: Event) -> None:
            call: Any = called.unary_unary("/kit.v1.Reading/Ask")
            await call(b"")

        queue = queue_of(retry_seconds=(1,))
        async with consuming(broker, queue, handler):
            await send(broker, queue)
            message = await dead_letter(channel, queue)
    assert message.headers[consumer.REASON].startswith("gave up after 1 retries")


async def test_message_is_not_dead_lettered_before_given_up_succeeds(
    broker: Broker, channel: AbstractChannel, queue_of: QueueOf
) -> None:
    queue = queue_of(retry_seconds=(1,))
    told: list[str] = []

    async def handler(_: Event) -> None:
        raise Poison

    async def given_up(got: Event) -> None:
        told.append(got.subject)
        if len(told) <= 2:
            raise ConnectionRefusedError

    work = partial(consumer.consume, broker, queue, handler, given_up=given_up)
    async with tasks.background(consumer=work):
        await send(broker, queue, 4)
        await dead_letter(channel, queue)
    assert told == ["4"] * 3
    assert (handled(queue, "retry"), handled(queue, "dead")) == (2, 1)


def test_queue_without_retry_delays_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least one retry delay"):
        Queue("kit.hasty", retry_seconds=())


async def test_given_up_is_called_for_message_that_kills_consumers(
    broker: Broker, channel: AbstractChannel, queue_of: QueueOf
) -> None:
    queue = queue_of(retry_seconds=(1,))
    calls: list[Event] = []

    async def handler(got: Event) -> None:
        calls.append(got)

    await consumer.declare(channel, queue)
    await send(broker, queue, 4)
    source = await channel.get_queue(queue.name)
    for _ in range(consumer.DELIVERY_LIMIT):
        await (await source.get()).reject(requeue=True)
    async with consuming_until_given_up(broker, queue, handler) as told:
        message = await dead_letter(channel, queue)
        assert told == [("4", 0)]
    assert message.headers[consumer.REASON] == "Poison('lost its consumer 10 times')"
    assert calls == []


async def test_broker_dead_letters_message_beyond_delivery_limit(
    channel: AbstractChannel, queue_of: QueueOf, broker: Broker
) -> None:
    queue = queue_of(retry_seconds=(1,))
    await consumer.declare(channel, queue)
    await send(broker, queue)
    source = await channel.get_queue(queue.name)
    deliveries = 0
    while (message := await source.get(fail=False)) is not None:
        deliveries += 1
        await message.reject(requeue=True)
    await dead_letter(channel, queue)
    assert deliveries == consumer.DELIVERY_LIMIT + 1


async def test_cancelled_consumer_requeues_its_messages(broker: Broker, queue_of: QueueOf, depth: Depth) -> None:
    queue = queue_of(retry_seconds=(1,), prefetch=2)
    started = asyncio.Event()

    async def never_ends(_: Event) -> None:
        started.set()
        await asyncio.Event().wait()

    async with consuming(broker, queue, never_ends):
        for n in range(3):
            await send(broker, queue, n)
        await started.wait()

    async def all_back() -> bool:
        return await depth(queue.name) == 3

    await eventually(all_back)


async def test_stopping_a_consumer_does_not_count_towards_the_delivery_limit(
    broker: Broker, channel: AbstractChannel, queue_of: QueueOf, depth: Depth
) -> None:
    queue = queue_of(retry_seconds=(1,))
    await consumer.declare(channel, queue)
    await send(broker, queue)
    for _ in range(consumer.DELIVERY_LIMIT + 1):
        started = asyncio.Event()

        async def never_ends(_: Event, started: asyncio.Event = started) -> None:
            started.set()
            await asyncio.Event().wait()

        async with consuming(broker, queue, never_ends):
            await started.wait()

    async def handler(_: Event) -> None:
        pass

    async with consuming_until_given_up(broker, queue, handler) as told:
        await eventually(lambda: handled(queue, "done") == 1)
    assert told == []
    assert await is_empty(queue, depth)


async def test_lost_consumers_are_counted_across_retries(
    broker: Broker, channel: AbstractChannel, queue_of: QueueOf
) -> None:
    queue = queue_of(retry_seconds=(1,))
    await consumer.declare(channel, queue)
    await send(broker, queue)
    source = await channel.get_queue(queue.name)
    half = consumer.DELIVERY_LIMIT // 2

    async def ended(times: int) -> None:
        """Let this many consumers return the message, as the broker does for a killed consumer."""
        for _ in range(times):
            message = await eventually_got(source)
            await message.reject(requeue=True)

    await ended(half)
    tried = asyncio.Event()

    async def away(_: Event) -> None:
        tried.set()
        raise ConnectionResetError

    async with consuming(broker, queue, away):
        await tried.wait()
        await eventually(lambda: handled(queue, "retry") == 1)
    await ended(consumer.DELIVERY_LIMIT - half)

    async def handler(_: Event) -> None:
        raise AssertionError("it would kill this one, too")

    async with consuming_until_given_up(broker, queue, handler) as told:
        await dead_letter(channel, queue)
    assert [subject for subject, _ in told] == ["1"]


async def eventually_got(source: AbstractQueue) -> AbstractIncomingMessage:
    got: list[AbstractIncomingMessage] = []

    async def taken() -> bool:
        message = await source.get(fail=False)
        if message is not None:
            got.append(message)
        return message is not None

    await eventually(taken, seconds=20)
    return got[0]


async def test_outages_and_failures_are_counted_separately(broker: Broker, queue_of: QueueOf, depth: Depth) -> None:
    queue = queue_of(retry_seconds=(1, 2))
    failures: list[Exception] = [ConnectionResetError(), ConnectionResetError(), LookupError(), LookupError()]

    async def handler(_: Event) -> None:
        if failures:
            raise failures.pop(0)

    async with consuming_until_given_up(broker, queue, handler) as told:
        await send(broker, queue, 4)
        await eventually(lambda: handled(queue, "done") == 1, seconds=40)
    assert (handled(queue, "retry"), told) == (4, [])
    assert await is_empty(queue, depth)


async def test_at_most_prefetch_messages_are_handled_at_once(broker: Broker, queue_of: QueueOf, depth: Depth) -> None:
    queue = queue_of(retry_seconds=(1,), prefetch=2)
    running = most = 0
    released = asyncio.Event()

    async def handler(_: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await released.wait()
        running -= 1

    async def the_others_wait() -> bool:
        return running == 2 and await depth(queue.name) == 6

    async with consuming(broker, queue, handler):
        for n in range(8):
            await send(broker, queue, n)
        await eventually(the_others_wait)
        released.set()
        await eventually(lambda: handled(queue, "done") == 8)
    assert most == 2


async def test_consumer_continues_after_lost_connection(kit: dict[str, str], broker: Broker, queue_of: QueueOf) -> None:
    queue = queue_of(retry_seconds=(1,))
    seen: list[str] = []

    async def handler(got: Event) -> None:
        seen.append(got.subject)

    async with (
        proxy(kit["RABBITMQ_URL"]) as link,
        broker_module.connect(link.url, name="kit test") as unsteady,
        consuming(unsteady, queue, handler),
    ):
        await send(broker, queue, 1)
        await eventually(lambda: seen == ["1"])
        await link.cut()
        await send(broker, queue, 2)
        await link.restore()
        await eventually(lambda: seen == ["1", "2"])


async def test_deleted_queue_is_declared_again(broker: Broker, channel: AbstractChannel, queue_of: QueueOf) -> None:
    queue = queue_of(retry_seconds=(1,))
    seen: list[str] = []

    async def handler(got: Event) -> None:
        seen.append(got.subject)

    async with consuming(broker, queue, handler):
        await send(broker, queue, 1)
        await eventually(lambda: seen == ["1"])
        await channel.queue_delete(queue.name)
        await send(broker, queue, 2)
        await eventually(lambda: seen == ["1", "2"])


async def test_message_that_cannot_be_moved_is_not_lost(
    broker: Broker, channel: AbstractChannel, queue_of: QueueOf, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "asyncio")
    queue = queue_of(retry_seconds=(1,))
    tries: list[str] = []

    async def handler(got: Event) -> None:
        tries.append(got.subject)
        if len(tries) == 1:  # there is no queue to move it to
            await channel.queue_delete(queue.retry(0))
            raise ConnectionError

    async with consuming(broker, queue, handler):
        await send(broker, queue, 1)
        await eventually(lambda: handled(queue, "done") == 1)
    assert tries == ["1", "1"]


async def test_message_with_unconfirmed_retry_is_not_lost(
    kit: dict[str, str], broker: Broker, queue_of: QueueOf
) -> None:
    queue = queue_of(retry_seconds=(1,))
    tries: list[str] = []

    async with proxy(kit["RABBITMQ_URL"]) as link, broker_module.connect(link.url, name="kit test") as unsteady:

        async def handler(got: Event) -> None:
            tries.append(got.subject)
            if len(tries) == 1:
                await link.cut()
                raise ConnectionError

        async with consuming(unsteady, queue, handler):
            await send(broker, queue, 1)
            await eventually(lambda: tries == ["1"])
            await link.restore()
            await eventually(lambda: handled(queue, "done") == 1)
    assert tries == ["1", "1"]


async def test_duplicate_message_has_its_effect_once(
    kit: dict[str, str], broker: Broker, queue_of: QueueOf, pool: Pool
) -> None:
    queue = queue_of(retry_seconds=(1,))

    async def handler(got: Event) -> None:
        async with postgres.transaction(pool) as connection:
            if not await outbox.first_time(connection, queue.name, got.id):
                raise Ignore
            await connection.execute("INSERT INTO things VALUES ($1)", got.read(Happened).n)

    async with consuming(broker, queue, handler):
        happened = await send(broker, queue, 3)
        body = happened.model_dump_json().encode()
        await broker.publish(body, exchange="", routing_key=queue.name, message_id=str(happened.id))
        await eventually(lambda: handled(queue, "done") + handled(queue, "ignored") == 2)
    assert [row["n"] for row in await pool.fetch("SELECT n FROM things")] == [3]
    assert (handled(queue, "done"), handled(queue, "ignored")) == (1, 1)


async def test_first_time_can_be_retried_after_rollback(pool: Pool) -> None:
    happened = event("kit", Happened(n=1))

    async def fail() -> None:
        async with postgres.transaction(pool) as connection:
            assert await outbox.first_time(connection, "q", happened.id)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with postgres.transaction(pool) as connection:
        assert await outbox.first_time(connection, "q", happened.id)
        assert await outbox.first_time(connection, "another queue", happened.id)
        assert not await outbox.first_time(connection, "q", happened.id)


async def test_queue_can_be_declared_concurrently(kit: dict[str, str], exchange: str, queue_of: QueueOf) -> None:
    queue = queue_of(bindings=[(exchange, "#")], retry_seconds=(1, 2))

    async def declare() -> None:
        async with broker_module.connect(kit["RABBITMQ_URL"], name="kit test") as broker:
            await consumer.declare(await broker.channel(), queue)

    await asyncio.gather(*(declare() for _ in range(5)))


async def test_queue_arguments_match_deployed_queues(channel: AbstractChannel, queue_of: QueueOf) -> None:
    # The broker rejects declaring a queue again with other arguments: changing one requires a new queue name.
    queue = queue_of(retry_seconds=(7,))
    await consumer.declare(channel, queue)
    forwarding: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    main = {**forwarding, "x-dead-letter-routing-key": queue.dead, "x-delivery-limit": 10}
    retry = {**forwarding, "x-dead-letter-routing-key": queue.name, "x-message-ttl": 7000}
    await channel.declare_queue(queue.name, durable=True, arguments=main)
    await channel.declare_queue(f"{queue.name}.retry.7", durable=True, arguments=retry)
    await channel.declare_queue(f"{queue.name}.dead", durable=True, arguments={"x-queue-type": "quorum"})


async def test_consumer_waits_for_exchange_of_another_service(
    broker: Broker, channel: AbstractChannel, unique: str, queue_of: QueueOf
) -> None:
    queue = queue_of(bindings=[(unique, "#")], retry_seconds=(1,))

    async def handler(_: Event) -> None:
        pass

    async with consuming(broker, queue, handler):
        await send(broker, queue)  # the queue exists, the exchange does not
        exchange = await channel.declare_exchange(unique, "topic", durable=True)
        body = event("kit", Happened(n=1)).model_dump_json().encode()

        async def routed() -> bool:
            await exchange.publish(Message(body), "kit.happened")
            return handled(queue, "done") >= 2

        await eventually(routed)
    await channel.exchange_delete(unique)
