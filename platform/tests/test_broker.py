import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aio_pika.abc import AbstractChannel

from kinora_kit import broker as broker_module
from kinora_kit import tasks
from kinora_kit.broker import Broker, Unroutable
from kinora_kit.consumer import declare
from kinora_kit.errors import Unavailable
from kinora_kit.queues import Queue
from kinora_kit.testing import eventually, free_port, proxy

Take = Callable[[], Awaitable[list[Any]]]
QueueOf = Callable[..., Queue]


async def taken(channel: AbstractChannel, queue: Queue) -> list[Any]:
    """The messages in a queue."""
    source = await channel.get_queue(queue.name)
    found: list[Any] = []
    while (message := await source.get(no_ack=True, fail=False)) is not None:
        found.append(message)
    return found


async def test_publish_returns_after_confirm_of_persistent_message(broker: Broker, exchange: str, inbox: Take) -> None:
    await broker.publish(b"{}", exchange=exchange, routing_key="a.b", message_id="7", headers={"x": 1})
    (message,) = await inbox()
    assert (message.body, message.routing_key, message.message_id) == (b"{}", "a.b", "7")
    assert message.delivery_mode == 2
    assert message.headers["x"] == 1


async def test_mandatory_message_without_queue_is_unroutable(broker: Broker, exchange: str) -> None:
    with pytest.raises(Unroutable, match=exchange):
        await broker.publish(b"", exchange=exchange, routing_key="nobody", message_id="1", mandatory=True)
    await broker.publish(b"", exchange=exchange, routing_key="nobody", message_id="2")


async def test_event_is_not_published_before_each_of_its_queues_exists(
    kit: dict[str, str], channel: AbstractChannel, exchange: str, queue_of: QueueOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on the existing connection, and although one of the queues would accept it."""
    monkeypatch.setattr(broker_module, "MISSING_SECONDS", 0)
    early, late = queue_of(bindings=[(exchange, "kit.happened")]), queue_of(bindings=[(exchange, "kit.happened")])
    await declare(channel, early)
    async with broker_module.connect(kit["RABBITMQ_URL"], name="kit test", queues=[early, late]) as broker:
        with pytest.raises(Unroutable, match=late.name):
            await broker.publish(b"", exchange=exchange, routing_key="kit.happened", message_id="1")
        await broker.publish(b"", exchange=exchange, routing_key="kit.other", message_id="2")
        await declare(channel, late)
        await broker.publish(b"", exchange=exchange, routing_key="kit.happened", message_id="3")
    for queue in (early, late):
        assert [message.message_id for message in await taken(channel, queue)] == ["3"]


async def test_publisher_adds_bindings_that_the_queue_does_not_have_yet(
    kit: dict[str, str], channel: AbstractChannel, exchange: str, queue_of: QueueOf
) -> None:
    """While its consumers still run the release before: the event waits in the queue for the next one."""
    queue = queue_of(bindings=[(exchange, "kit.old")])
    await declare(channel, queue)
    newer = replace(queue, bindings=[(exchange, "kit.old"), (exchange, "kit.new")])
    async with broker_module.connect(kit["RABBITMQ_URL"], name="kit test", queues=[newer]) as broker:
        await broker.publish(b"", exchange=exchange, routing_key="kit.new", message_id="1")
    assert [message.message_id for message in await taken(channel, queue)] == ["1"]


async def test_queues_are_looked_for_again_on_a_new_connection(
    kit: dict[str, str], channel: AbstractChannel, exchange: str, queue_of: QueueOf
) -> None:
    """The broker may have lost its data."""
    queue = queue_of(bindings=[(exchange, "kit.happened")])
    await declare(channel, queue)
    async with (
        proxy(kit["RABBITMQ_URL"]) as link,
        broker_module.connect(link.url, name="kit test", queues=[queue]) as broker,
    ):
        await broker.publish(b"", exchange=exchange, routing_key="kit.happened", message_id="1")
        await channel.queue_delete(queue.name)
        await link.cut()
        await link.restore()

        async def misses_the_queue() -> bool:
            try:
                await broker.publish(b"", exchange=exchange, routing_key="kit.happened", message_id="2")
            except Unavailable:  # the lost connection has not been noticed
                return False
            except Unroutable:
                return True
            raise AssertionError("published without the queue")

        await eventually(misses_the_queue)


async def test_own_exchanges_are_declared_on_connect(
    kit: dict[str, str], channel: AbstractChannel, unique: str
) -> None:
    async with broker_module.connect(kit["RABBITMQ_URL"], name="kit test", exchanges=(unique,)) as broker:
        await eventually_connected(broker)
        await channel.get_exchange(unique)
    await channel.exchange_delete(unique)


async def test_broker_connects_once_available(kit: dict[str, str], exchange: str) -> None:
    async with proxy(kit["RABBITMQ_URL"]) as link:
        await link.cut()
        async with broker_module.connect(link.url, name="kit test") as broker:
            with pytest.raises(ConnectionError):
                await broker.check()
            await link.restore()
            await broker.publish(b"", exchange=exchange, routing_key="a", message_id="1")
            await broker.check()


async def test_publish_without_connection_raises_unavailable(
    kit: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "PUBLISH_SECONDS", 0.2)
    nowhere = f"amqp://127.0.0.1:{free_port()}"
    async with broker_module.connect(nowhere, name="kit test") as broker:
        with pytest.raises(Unavailable):
            await broker.publish(b"", exchange="any", routing_key="a", message_id="1")


async def test_publishers_get_unavailable_when_connection_is_lost_and_broker_reconnects(
    kit: dict[str, str], exchange: str, inbox: Take
) -> None:
    async with proxy(kit["RABBITMQ_URL"]) as link, broker_module.connect(link.url, name="kit test") as broker:
        await broker.publish(b"", exchange=exchange, routing_key="a", message_id="first")
        link.stall()  # so that all of them wait for a confirm when the connection is cut
        publishing = [
            asyncio.create_task(broker.publish(b"", exchange=exchange, routing_key="a", message_id=str(n)))
            for n in range(5)
        ]
        await asyncio.wait(publishing, timeout=0.1)
        await link.cut()
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        await link.restore()
        await broker.publish(b"", exchange=exchange, routing_key="a", message_id="last")
        assert [message.message_id for message in await inbox()] == ["first", "last"]


async def test_publish_to_missing_exchange_does_not_affect_next_publisher(
    broker: Broker, exchange: str, unique: str
) -> None:
    with pytest.raises(Unavailable):
        await broker.publish(b"", exchange=f"{unique}.absent", routing_key="a", message_id="1")
    await broker.publish(b"", exchange=exchange, routing_key="a", message_id="2")


async def test_channel_waits_for_the_next_connection(kit: dict[str, str]) -> None:
    async with proxy(kit["RABBITMQ_URL"]) as link, broker_module.connect(link.url, name="kit test") as broker:
        await eventually_connected(broker)
        attempts = 0
        got = asyncio.Event()

        async def ask() -> None:
            nonlocal attempts
            attempts += 1
            await (await broker.channel(prefetch=3)).close()
            got.set()

        await link.cut()
        async with tasks.background(asking=ask):
            await link.restore()
            await asyncio.wait_for(got.wait(), 10)
        assert attempts < 5, "asked in a busy loop"


async def test_close_does_not_wait_for_unresponsive_broker(kit: dict[str, str]) -> None:
    async with (
        proxy(kit["RABBITMQ_URL"]) as link,
        asyncio.timeout(10),
        broker_module.connect(link.url, name="kit test") as broker,
    ):
        await eventually_connected(broker)
        link.stall()


async def eventually_connected(broker: Broker) -> None:
    async def connected() -> bool:
        try:
            await broker.check()
        except ConnectionError:
            return False
        return True

    await eventually(connected)
