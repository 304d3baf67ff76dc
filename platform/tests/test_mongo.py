import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from aio_pika.abc import AbstractChannel

from kinora_kit import broker as broker_module
from kinora_kit import mongo
from kinora_kit.broker import Broker
from kinora_kit.errors import Unavailable
from kinora_kit.events import Event, Payload, event
from kinora_kit.mongo import OUTBOX, Collection, Database, IndexModel
from kinora_kit.queues import Queue
from kinora_kit.testing import eventually, proxy

Take = Callable[[], Awaitable[list[Any]]]
QueueOf = Callable[..., Queue]


class Happened(Payload):
    type: ClassVar[str] = "kit.happened"
    n: int

    @property
    def subject(self) -> str:
        return str(self.n)


@pytest.fixture
def things(database: Database) -> Collection:
    return database["things"]


async def change(things: Collection, exchange: str, *numbers: int) -> list[Event]:
    """Change one document, with one event for each number."""
    events = [event("kit", Happened(n=n)) for n in numbers]
    entries = [mongo.pending(happened, exchange=exchange) for happened in events]
    await things.update_one(
        {"_id": "one"}, {"$inc": {"changes": 1}, "$push": {OUTBOX: {"$each": entries}}}, upsert=True
    )
    return events


async def is_published(things: Collection) -> bool:
    return await things.count_documents({f"{OUTBOX}.id": {"$exists": True}}) == 0


async def test_uuids_and_times_round_trip(things: Collection) -> None:
    document = {"_id": uuid4(), "at": datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)}
    await things.insert_one(document)
    assert await things.find_one() == document


async def test_check_raises_while_database_is_down(kit: dict[str, str], database: Database) -> None:
    await mongo.check(database)
    async with proxy(kit["MONGO_URL"]) as link, mongo.connect(link.url, database="any", name="kit test") as away:
        await link.cut()
        with pytest.raises(mongo.MongoError):
            await mongo.check(away)


async def test_relay_publishes_pending_events_in_order_and_removes_them(
    things: Collection, broker: Broker, exchange: str, inbox: Take
) -> None:
    events = await change(things, exchange, 1, 2) + await change(things, exchange, 3)
    relay = mongo.Relay([things], broker)
    assert await relay.publish_pending() == 3
    assert await relay.publish_pending() == 0
    messages = await inbox()
    assert [Event.model_validate_json(message.body) for message in messages] == events
    assert [message.message_id for message in messages] == [str(happened.id) for happened in events]
    assert {message.routing_key for message in messages} == {"kit.happened"}
    assert await things.find_one() == {"_id": "one", "changes": 2, OUTBOX: []}


async def test_relay_publishes_to_feeds_too(things: Collection, broker: Broker, exchange: str, inbox: Take) -> None:
    await change(things, exchange, 7)
    relay = mongo.Relay([things], broker, {Happened.type: (exchange, "n"), "kit.other": ("no-exchange", "n")})
    assert await relay.publish_pending() == 1
    messages = await inbox()
    assert [message.routing_key for message in messages] == ["kit.happened", "7"]
    assert messages[0].body == messages[1].body


async def test_relay_publishes_at_once_when_woken(
    things: Collection, broker: Broker, exchange: str, inbox: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo, "POLL_SECONDS", 60)
    relay = mongo.Relay([things], broker)
    async with relay.running():
        for n in range(3):
            await change(things, exchange, n)
            relay.wake()
            await eventually(lambda: is_published(things), seconds=5)
    assert len(await inbox()) == 3


async def test_relay_publishes_soon_without_wake(
    things: Collection, broker: Broker, exchange: str, inbox: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo, "POLL_SECONDS", 0.1)
    async with mongo.Relay([things], broker).running():
        for n in range(2):
            await change(things, exchange, n)
            await eventually(lambda: is_published(things))
    assert len(await inbox()) == 2


async def test_crash_after_publish_republishes_with_the_same_id(
    things: Collection, broker: Broker, exchange: str, inbox: Take
) -> None:
    (happened,) = await change(things, exchange, 1)

    class DiesOnceConfirmed(Broker):
        async def publish(self, *args: Any, **options: Any) -> None:
            await broker.publish(*args, **options)
            raise Unavailable

    with pytest.raises(Unavailable):
        await mongo.Relay([things], DiesOnceConfirmed("amqp://unused", name="unused")).publish_pending()
    assert await mongo.Relay([things], broker).publish_pending() == 1
    messages = await inbox()
    assert [message.message_id for message in messages] == [str(happened.id)] * 2
    assert [Event.model_validate_json(message.body) for message in messages] == [happened] * 2


async def test_all_events_arrive_after_broker_and_database_outage(
    *,
    kit: dict[str, str],
    unique: str,
    things: Collection,
    exchange: str,
    inbox: Take,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mongo, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(broker_module, "PUBLISH_SECONDS", 0.5)
    async with (
        proxy(kit["RABBITMQ_URL"]) as broker_cable,
        proxy(kit["MONGO_URL"]) as database_cable,
        broker_module.connect(broker_cable.url, name="kit test") as broker,
        mongo.connect(database_cable.url, database=unique, name="kit test") as database,
        mongo.Relay([database["things"]], broker).running(),
    ):
        await change(things, exchange, 0)
        await eventually(lambda: is_published(things))
        for n, link in enumerate((broker_cable, database_cable), start=1):
            await link.cut()
            await change(things, exchange, n)
            await link.restore()
            await eventually(lambda: is_published(things), seconds=30)
    numbers = [Event.model_validate_json(message.body).read(Happened).n for message in await inbox()]
    assert list(dict.fromkeys(numbers)) == [0, 1, 2]


async def test_event_waits_for_its_queue_without_blocking_others(
    *,
    things: Collection,
    kit: dict[str, str],
    channel: AbstractChannel,
    queue_of: QueueOf,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mongo, "BATCH", 2)
    monkeypatch.setattr(broker_module, "MISSING_SECONDS", 0)
    expected = queue_of(bindings=[(unique, Happened.type)])
    other = f"{unique}.other"
    for name in (unique, other):
        await channel.declare_exchange(name, "topic", durable=True)
    waiting = [event("kit", Happened(n=n)) for n in range(3)]
    others = [event("kit", Happened(n=n)) for n in range(3, 6)]
    for happened in waiting:  # more than a batch of them come first
        entries = [mongo.pending(happened, exchange=unique)]
        await things.insert_one({"_id": str(happened.id), OUTBOX: entries})
    await things.insert_many([{OUTBOX: [mongo.pending(happened, exchange=other)]} for happened in others])
    attempts: list[str] = []

    async def left() -> set[str]:
        return {document["_id"] async for document in things.find({f"{OUTBOX}.id": {"$exists": True}})}

    async with broker_module.connect(kit["RABBITMQ_URL"], name="kit test", queues=[expected]) as broker:
        publish = broker.publish

        async def counting(*args: Any, **options: Any) -> None:
            attempts.append(options["message_id"])
            await publish(*args, **options)

        monkeypatch.setattr(broker, "publish", counting)
        relay = mongo.Relay([things], broker)
        async with relay.running():

            async def only_the_waiting() -> bool:
                return await left() == {str(happened.id) for happened in waiting}

            await eventually(only_the_waiting)
            await asyncio.sleep(0.5)
            # One attempt each: no busy loop.
            assert sorted(attempts) == sorted(str(happened.id) for happened in waiting + others)
            queue = await channel.declare_queue(expected.name, durable=True, arguments={"x-queue-type": "quorum"})
            relay.wake()
            await eventually(lambda: is_published(things))
    seen = [(await queue.get(no_ack=True)).message_id for _ in waiting]
    assert seen == [str(happened.id) for happened in waiting]
    for name in (unique, other):
        await channel.exchange_delete(name)


async def test_relay_publishes_more_than_one_batch(
    things: Collection, broker: Broker, exchange: str, inbox: Take
) -> None:
    await things.insert_many(
        [{OUTBOX: [mongo.pending(event("kit", Happened(n=n)), exchange=exchange)]} for n in range(mongo.BATCH + 20)]
    )
    async with mongo.Relay([things], broker).running():
        await eventually(lambda: is_published(things))
    assert len(await inbox()) == mongo.BATCH + 20


async def test_indexes_become_as_declared(database: Database) -> None:
    things = database["indexed"]

    def declare(*indexes: IndexModel) -> dict[str, list[IndexModel]]:
        return {"indexed": list(indexes)}

    async def keys() -> dict[str, list[tuple[str, int]]]:
        return {name: index["key"] for name, index in (await things.index_information()).items() if name != "_id_"}

    await mongo.ensure_indexes(database, declare(IndexModel("a", name="first"), IndexModel("b", name="second")))
    assert await keys() == {"first": [("a", 1)], "second": [("b", 1)]}
    changed = declare(IndexModel([("a", 1), ("c", -1)], name="first"), mongo.OUTBOX_INDEX)
    for _ in range(2):
        await mongo.ensure_indexes(database, changed)
        assert await keys() == {"first": [("a", 1), ("c", -1)], "outbox": [("outbox.id", 1)]}
