import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, ClassVar

import pytest
from aio_pika.abc import AbstractChannel

from kinora_kit import broker as broker_module
from kinora_kit import outbox, postgres
from kinora_kit.broker import Broker
from kinora_kit.errors import Unavailable
from kinora_kit.events import Event, Payload, event
from kinora_kit.metrics import OUTBOX_PENDING
from kinora_kit.postgres import Pool
from kinora_kit.testing import eventually, proxy

Take = Callable[[], Awaitable[list[Any]]]


class Happened(Payload):
    type: ClassVar[str] = "kit.happened"
    n: int

    @property
    def subject(self) -> str:
        return str(self.n)


async def emit(pool: Pool, exchange: str, n: int, *, mandatory: bool = False, routing_key: str | None = None) -> Event:
    happened = event("kit", Happened(n=n))
    async with postgres.transaction(pool) as connection:
        await outbox.emit(connection, happened, exchange=exchange, mandatory=mandatory, routing_key=routing_key)
    return happened


async def pending(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM outbox"))


async def is_published(pool: Pool) -> bool:
    return await pending(pool) == 0


class Collected:
    """The messages received so far."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self.messages: list[Any] = []

    async def has(self, count: int) -> bool:
        self.messages += await self._take()
        return len(self.messages) >= count

    @property
    def numbers(self) -> list[int]:
        return [Event.model_validate_json(message.body).read(Happened).n for message in self.messages]


@pytest.fixture
def collected(inbox: Take) -> Collected:
    return Collected(inbox)


@pytest.fixture
async def second_pool(postgres_url: str) -> AsyncIterator[Pool]:
    async with postgres.connect(postgres_url, name="kit test 2") as pool:
        yield pool


async def test_event_is_published_only_after_commit(
    pool: Pool, broker: Broker, exchange: str, collected: Collected
) -> None:
    happened = event("kit", Happened(n=1))
    async with postgres.transaction(pool) as connection:
        await outbox.emit(connection, happened, exchange=exchange)
        assert await outbox.publish_batch(pool, broker) == 0
    assert await outbox.publish_batch(pool, broker) == 1
    assert await collected.has(1)
    (message,) = collected.messages
    assert message.routing_key == "kit.happened"
    assert message.message_id == str(happened.id)
    assert Event.model_validate_json(message.body) == happened
    assert await is_published(pool)


async def test_event_of_rolled_back_transaction_is_never_published(
    pool: Pool, broker: Broker, exchange: str, collected: Collected
) -> None:
    async def fail() -> None:
        async with postgres.transaction(pool) as connection:
            await outbox.emit(connection, event("kit", Happened(n=1)), exchange=exchange)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await emit(pool, exchange, 2)
    assert await outbox.publish_batch(pool, broker) == 1
    assert await collected.has(1)
    assert collected.numbers == [2]


async def test_relay_publishes_soon_after_commit(
    *,
    postgres_url: str,
    pool: Pool,
    broker: Broker,
    exchange: str,
    collected: Collected,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "SWEEP_SECONDS", 60)
    async with outbox.relay(pool, broker, url=postgres_url):
        for n in range(3):
            await emit(pool, exchange, n)
            await eventually(partial(collected.has, n + 1), seconds=5)
    assert collected.numbers == [0, 1, 2]


async def test_relay_publishes_despite_missed_notification(
    *,
    postgres_url: str,
    pool: Pool,
    broker: Broker,
    exchange: str,
    collected: Collected,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "SWEEP_SECONDS", 0.2)
    await pool.execute("DROP TRIGGER outbox_notify ON outbox")
    async with outbox.relay(pool, broker, url=postgres_url):
        await eventually(lambda: collected.has(0))
        await emit(pool, exchange, 1)
        await eventually(lambda: collected.has(1))


async def test_relay_keeps_the_order_of_events(pool: Pool, broker: Broker, exchange: str, collected: Collected) -> None:
    async with postgres.transaction(pool) as connection:
        for n in range(250):
            await outbox.emit(connection, event("kit", Happened(n=n)), exchange=exchange)
    counts = [await outbox.publish_batch(pool, broker) for _ in range(4)]
    assert counts == [100, 100, 50, 0]
    await eventually(lambda: collected.has(250))
    assert collected.numbers == list(range(250))


async def test_relay_killed_after_publish_republishes_with_the_same_id(
    pool: Pool, second_pool: Pool, broker: Broker, exchange: str, collected: Collected
) -> None:
    happened = await emit(pool, exchange, 1)

    class DiesOnceConfirmed(Broker):
        async def publish(self, *args: Any, **options: Any) -> None:
            await broker.publish(*args, **options)
            await pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", "kit test 2"
            )

    with contextlib.suppress(Exception):
        await outbox.publish_batch(second_pool, DiesOnceConfirmed("amqp://unused", name="unused"))
    assert await pending(pool) == 1
    assert await outbox.publish_batch(pool, broker) == 1
    await eventually(lambda: collected.has(2))
    assert [message.message_id for message in collected.messages] == [str(happened.id)] * 2
    assert [Event.model_validate_json(message.body) for message in collected.messages] == [happened] * 2


async def test_relay_cancelled_within_a_batch_loses_nothing(
    pool: Pool, broker: Broker, exchange: str, collected: Collected
) -> None:
    for n in range(3):
        await emit(pool, exchange, n)
    reached = asyncio.Event()

    class Hangs(Broker):
        async def publish(self, *args: Any, **options: Any) -> None:
            await broker.publish(*args, **options)
            reached.set()
            await asyncio.Event().wait()

    batch = asyncio.create_task(outbox.publish_batch(pool, Hangs("amqp://unused", name="unused")))
    await reached.wait()
    batch.cancel()
    await asyncio.wait([batch])
    assert await outbox.publish_batch(pool, broker) == 3
    await eventually(lambda: collected.has(4))
    assert collected.numbers == [0, 0, 1, 2]


async def test_concurrent_relays_publish_each_event_once(
    *, pool: Pool, second_pool: Pool, broker: Broker, postgres_url: str, exchange: str, collected: Collected
) -> None:
    async with (
        outbox.relay(pool, broker, url=postgres_url),
        outbox.relay(second_pool, broker, url=postgres_url),
    ):
        for n in range(30):
            await emit(pool, exchange, n)
        await eventually(lambda: is_published(pool))
    await eventually(lambda: collected.has(30))
    assert not await collected.has(31)
    assert sorted(collected.numbers) == list(range(30))


async def test_mandatory_event_waits_for_its_queue_without_blocking_others(
    *,
    pool: Pool,
    broker: Broker,
    postgres_url: str,
    exchange: str,
    channel: AbstractChannel,
    unique: str,
    collected: Collected,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "SWEEP_SECONDS", 0.2)
    monkeypatch.setattr(outbox, "BATCH", 5)
    nobody = await channel.declare_exchange(f"{unique}.lonely", "topic", durable=True)
    for n in range(7):  # more than a batch
        await emit(pool, nobody.name, n, mandatory=True)
    await emit(pool, exchange, 8)
    async with outbox.relay(pool, broker, url=postgres_url):
        await eventually(lambda: collected.has(1))
        assert collected.numbers == [8]
        assert await pending(pool) == 7
        queue = await channel.declare_queue(f"{unique}.late", durable=True)
        await queue.bind(nobody, "#")
        await eventually(lambda: is_published(pool))
    bodies = [Event.model_validate_json((await queue.get(no_ack=True)).body) for _ in range(7)]
    # Waiting events may be overtaken: the queue can be declared in the middle of a round.
    assert sorted(got.read(Happened).n for got in bodies) == list(range(7))
    await queue.delete()
    await nobody.delete()


async def test_events_published_before_broker_outage_are_not_republished(
    pool: Pool, broker: Broker, exchange: str, collected: Collected
) -> None:
    for n in range(4):
        await emit(pool, exchange, n)

    class GoesAway(Broker):
        count = 0

        async def publish(self, *args: Any, **options: Any) -> None:
            self.count += 1
            if self.count == 3:
                raise Unavailable
            await broker.publish(*args, **options)

    with pytest.raises(Unavailable):
        await outbox.publish_batch(pool, GoesAway("amqp://unused", name="unused"))
    assert await pending(pool) == 2
    assert await outbox.publish_batch(pool, broker) == 2
    await eventually(lambda: collected.has(4))
    assert collected.numbers == [0, 1, 2, 3]


async def test_all_events_arrive_after_broker_outage(
    *,
    kit: dict[str, str],
    pool: Pool,
    postgres_url: str,
    exchange: str,
    collected: Collected,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "SWEEP_SECONDS", 0.2)
    monkeypatch.setattr(broker_module, "PUBLISH_SECONDS", 0.5)
    async with (
        proxy(kit["RABBITMQ_URL"]) as link,
        broker_module.connect(link.url, name="kit test") as unsteady,
        outbox.relay(pool, unsteady, url=postgres_url),
    ):
        await emit(pool, exchange, 0)
        await eventually(lambda: collected.has(1))
        for n in (1, 4):
            await link.cut()
            await asyncio.gather(*(emit(pool, exchange, n + more) for more in range(3)))
            await link.restore()
            await eventually(partial(collected.has, n + 3), seconds=30)
        await eventually(lambda: is_published(pool))
    assert set(collected.numbers) == set(range(7))


async def test_all_events_arrive_after_database_outage(
    *,
    postgres_url: str,
    pool: Pool,
    broker: Broker,
    exchange: str,
    collected: Collected,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "SWEEP_SECONDS", 0.2)
    async with (
        proxy(postgres_url) as link,
        postgres.connect(link.url, name="unsteady") as unsteady,
        outbox.relay(unsteady, broker, url=link.url),
    ):
        await emit(pool, exchange, 0)
        await eventually(lambda: collected.has(1))
        await link.cut()
        await emit(pool, exchange, 1)
        await link.restore()

        async def both() -> bool:
            """The first one arrives again if the link was cut before it was deleted."""
            return await collected.has(2) and set(collected.numbers) == {0, 1}

        await eventually(both)


async def test_sweep_counts_pending_events_and_deletes_old_inbox_rows(pool: Pool, exchange: str) -> None:
    old, young = event("kit", Happened(n=1)), event("kit", Happened(n=2))
    async with postgres.transaction(pool) as connection:
        await outbox.first_time(connection, "q", old.id)
        await outbox.first_time(connection, "q", young.id)
    await pool.execute("UPDATE inbox SET received_at = now() - interval '15 days' WHERE event_id = $1", old.id)
    await emit(pool, exchange, 1)
    await outbox.sweep(pool)
    assert OUTBOX_PENDING._value.get() == 1
    async with postgres.transaction(pool) as connection:
        assert not await outbox.first_time(connection, "q", young.id)
        assert await outbox.first_time(connection, "q", old.id)
