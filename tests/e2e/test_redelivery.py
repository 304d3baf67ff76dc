"""Redelivered events of any type change nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import httpx
import pytest
from aio_pika.abc import AbstractQueue
from client import Person, register
from clips import Clip
from environment import load
from prometheus_client.parser import text_string_to_metric_families
from test_bad_input import emptied
from test_deletion import rows_of

from conftest import until
from kinora import queues
from kinora.events import auth, media, video
from kinora_kit.events import Event

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

EXCHANGES = (auth.EXCHANGE, media.EXCHANGE, video.EXCHANGE)
NAMES = {queue.name for queue in queues.ALL}
PORTS = (8102, 8103)  # media and video, the consumers


@asynccontextmanager
async def overhearing() -> AsyncIterator[AbstractQueue]:
    """A queue that receives all events of all services."""
    # graphql's user may bind to all exchanges, so its credentials are used.
    async with await aio_pika.connect(load("graphql")["KINORA_RABBITMQ_URL"]) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(f"graphql.test.{id(channel)}", exclusive=True)
        for exchange in EXCHANGES:
            await queue.bind(exchange, "#")
        yield queue


async def taken_from(queue: AbstractQueue) -> list[Event]:
    found = []
    while (message := await queue.get(no_ack=True, fail=False)) is not None:
        found.append(Event.model_validate_json(message.body))
    return found


async def handled() -> Counter[str]:
    """The number of messages handled per queue so far, whatever the outcome."""
    found: Counter[str] = Counter()
    async with httpx.AsyncClient(timeout=60) as http:
        for port in PORTS:
            for family in text_string_to_metric_families((await http.get(f"http://127.0.0.1:{port}/metrics")).text):
                for sample in family.samples:
                    if sample.name == "kinora_events_handled_seconds_count" and sample.labels["queue"] in NAMES:
                        found[sample.labels["queue"]] += int(sample.value)
    return found


def owner_of(event: Event) -> str:
    """The service that owns the event; its exchange has the same name."""
    return event.source.rpartition("/")[2].removesuffix("-worker")


def deliveries(events: list[Event]) -> Counter[str]:
    """The number of messages per queue that publishing the events causes."""
    return Counter(queue.name for queue in queues.ALL for e in events if (owner_of(e), e.type) in queue.bindings)


async def publish(event: Event) -> None:
    """Publish like its owner."""
    owner = owner_of(event)
    async with await aio_pika.connect(load(owner)["KINORA_RABBITMQ_URL"]) as connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange(owner, ensure=False)
        body = event.model_dump_json(exclude_none=True).encode()
        await exchange.publish(aio_pika.Message(body, message_id=str(event.id)), event.type)


async def everything(person: Person, video_id: str) -> list[Any]:
    """Everything visible of the video, except URLs, whose signatures change over time."""
    shown = [(await person.get(path)).json() for path in (f"/media/{video_id}", f"/video/{video_id}", "/user/profile")]
    return [{key: value for key, value in item.items() if not key.endswith("_url")} for item in shown]


async def test_redelivered_events_change_nothing(person: Person, clip: Callable[[str], Clip]) -> None:
    async with overhearing() as queue:
        video_id = await person.upload(clip("short").path)
        assert (await person.outcome(video_id))["state"] == "ready"
        await person.patch("/user/profile", {"display_name": "Someone else"})

        async def is_ready() -> bool:
            return bool((await person.get(f"/media/{video_id}")).json().get("state") == "ready")

        await until(is_ready, what="the catalogue to be updated")
        await person.patch(f"/media/{video_id}", {"title": "Another title", "visibility": "unlisted"})
        gone = await person.upload(clip("short").path)
        await person.delete(f"/video/{gone}")
        async with register() as other:
            others = await other.upload(clip("short").path)
            assert (await other.outcome(others))["state"] == "ready"
            await other.delete("/user/profile", {"current_password": other.password})

        async def nothing_left() -> bool:
            return not await rows_of(other.id)

        await until(nothing_left, what="the rows of the other account to be gone")
        await until(emptied(others), what="the buckets to be empty")

        about = {person.id, video_id, gone, other.id, others}
        last = {
            ("video.ready", video_id),
            ("media.updated", video_id),
            ("video.deleted", gone),
            ("media.deleted", gone),
            ("user.updated", person.id),
            ("video.deleted", others),
            ("user.deleted", other.id),
        }
        events: list[Event] = []

        async def all_told() -> bool:
            events.extend(item for item in await taken_from(queue) if item.subject in about)
            return last <= {(item.type, item.subject) for item in events}

        await until(all_told, what="all events to be published")
        assert {"video.upload_started", "video.uploaded", "video.playable"} <= {item.type for item in events}

        async def settled() -> bool:
            before = await handled()
            await asyncio.sleep(1)
            return before == await handled()

        await until(settled, what="the consumers to be idle")
        before, count, more = await everything(person, video_id), await handled(), deliveries(events)
        assert set(more) == NAMES, "every queue receives some"
        for event in events:
            await publish(event)

        async def all_handled() -> bool:
            return await handled() == count + more

        await until(all_handled, what="exactly the redelivered events to be handled")
        assert await everything(person, video_id) == before
        assert (await person.get(f"/media/{gone}")).status_code == 404
        assert (await person.get(f"/video/{gone}")).status_code == 404
        assert not await rows_of(other.id)
        assert await emptied(others)()
