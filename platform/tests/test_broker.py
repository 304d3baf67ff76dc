import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aio_pika.abc import AbstractChannel

from kinora_kit import broker as broker_module
from kinora_kit import tasks
from kinora_kit.broker import Broker, Unroutable
from kinora_kit.errors import Unavailable
from kinora_kit.testing import eventually, free_port, proxy

Take = Callable[[], Awaitable[list[Any]]]


async def test_publishes_a_persistent_message_and_returns_when_it_is_confirmed(
    broker: Broker, exchange: str, inbox: Take
) -> None:
    await broker.publish(b"{}", exchange=exchange, routing_key="a.b", message_id="7", headers={"x": 1})
    (message,) = await inbox()
    assert (message.body, message.routing_key, message.message_id) == (b"{}", "a.b", "7")
    assert message.delivery_mode == 2
    assert message.headers["x"] == 1


async def test_a_mandatory_message_without_a_queue_is_unroutable(broker: Broker, exchange: str) -> None:
    with pytest.raises(Unroutable, match=exchange):
        await broker.publish(b"", exchange=exchange, routing_key="nobody", message_id="1", mandatory=True)
    await broker.publish(b"", exchange=exchange, routing_key="nobody", message_id="2")


async def test_own_exchanges_are_there_before_anything_is_published(
    kit: dict[str, str], channel: AbstractChannel, unique: str
) -> None:
    async with broker_module.connect(kit["RABBITMQ_URL"], name="kit test", exchanges=(unique,)) as broker:
        await eventually_connected(broker)
        await channel.get_exchange(unique)
    await channel.exchange_delete(unique)


async def test_starts_without_its_broker_says_so_and_connects_when_it_comes(kit: dict[str, str], exchange: str) -> None:
    async with proxy(kit["RABBITMQ_URL"]) as cable:
        await cable.cut()
        async with broker_module.connect(cable.url, name="kit test") as broker:
            with pytest.raises(ConnectionError):
                await broker.check()
            await cable.mend()
            await broker.publish(b"", exchange=exchange, routing_key="a", message_id="1")
            await broker.check()


async def test_publishing_without_a_broker_ends_as_unavailable(
    kit: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "PUBLISH_SECONDS", 0.2)
    nowhere = f"amqp://127.0.0.1:{free_port()}"
    async with broker_module.connect(nowhere, name="kit test") as broker:
        with pytest.raises(Unavailable):
            await broker.publish(b"", exchange="any", routing_key="a", message_id="1")


async def test_a_connection_cut_under_publishers_makes_each_of_them_hear_unavailable_and_then_comes_back(
    kit: dict[str, str], exchange: str, inbox: Take
) -> None:
    async with proxy(kit["RABBITMQ_URL"]) as cable, broker_module.connect(cable.url, name="kit test") as broker:
        await broker.publish(b"", exchange=exchange, routing_key="a", message_id="first")
        cable.stall()  # so that all of them wait for a confirm when the connection dies
        publishing = [
            asyncio.create_task(broker.publish(b"", exchange=exchange, routing_key="a", message_id=str(n)))
            for n in range(5)
        ]
        await asyncio.wait(publishing, timeout=0.1)
        await cable.cut()
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        await cable.mend()
        await broker.publish(b"", exchange=exchange, routing_key="a", message_id="last")
        assert [message.message_id for message in await inbox()] == ["first", "last"]


async def test_publishing_to_an_exchange_that_is_not_there_leaves_the_next_publisher_unharmed(
    broker: Broker, exchange: str, unique: str
) -> None:
    with pytest.raises(Unavailable):
        await broker.publish(b"", exchange=f"{unique}.absent", routing_key="a", message_id="1")
    await broker.publish(b"", exchange=exchange, routing_key="a", message_id="2")


async def test_a_channel_asked_for_while_the_connection_dies_comes_from_the_next_one(kit: dict[str, str]) -> None:
    async with proxy(kit["RABBITMQ_URL"]) as cable, broker_module.connect(cable.url, name="kit test") as broker:
        await eventually_connected(broker)
        attempts = 0
        got = asyncio.Event()

        async def ask() -> None:
            nonlocal attempts
            attempts += 1
            await (await broker.channel(prefetch=3)).close()
            got.set()

        await cable.cut()
        async with tasks.background(asking=ask):
            await cable.mend()
            await asyncio.wait_for(got.wait(), 10)
        assert attempts < 5, "asked in a busy loop"


async def test_closing_does_not_wait_for_a_broker_that_has_fallen_silent(kit: dict[str, str]) -> None:
    async with (
        proxy(kit["RABBITMQ_URL"]) as cable,
        asyncio.timeout(10),
        broker_module.connect(cable.url, name="kit test") as broker,
    ):
        await eventually_connected(broker)
        cable.stall()


async def eventually_connected(broker: Broker) -> None:
    async def connected() -> bool:
        try:
            await broker.check()
        except ConnectionError:
            return False
        return True

    await eventually(connected)
