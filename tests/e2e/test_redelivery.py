"""An event that comes again, of whatever kind, changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import httpx
import pytest
from aio_pika.abc import AbstractQueue
from client import Person
from clips import Clip
from environment import load

from conftest import until
from kinora.events import auth, media, video
from kinora_kit.events import Event

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

EXCHANGES = (auth.EXCHANGE, media.EXCHANGE, video.EXCHANGE)
PORTS = {"auth": 8101, "media": 8102, "video": 8103}


@asynccontextmanager
async def overhearing() -> AsyncIterator[AbstractQueue]:
    """A queue that gets all events of all owners."""
    # The gateway's API has the right to listen to everyone, so its account is borrowed.
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


async def handled() -> float:
    """Messages that the services' consumers have carried out so far, commands to workers left out."""
    total = 0.0
    async with httpx.AsyncClient() as http:
        for port in (PORTS["media"], PORTS["video"]):
            for line in (await http.get(f"http://127.0.0.1:{port}/metrics")).text.splitlines():
                if line.startswith("kinora_events_handled_seconds_count"):
                    total += float(line.rpartition(" ")[2])
    return total


async def publish(event: Event) -> None:
    """Publish as its owner does."""
    owner = event.source.rpartition("/")[2].removesuffix("-worker")
    async with await aio_pika.connect(load(owner)["KINORA_RABBITMQ_URL"]) as connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange(owner, ensure=False)
        body = event.model_dump_json(exclude_none=True).encode()
        await exchange.publish(aio_pika.Message(body, message_id=str(event.id)), event.type)


async def everything(person: Person, video_id: str) -> list[Any]:
    """What can be seen of the video, less the addresses, whose signatures change with time."""
    shown = [(await person.get(path)).json() for path in (f"/media/{video_id}", f"/video/{video_id}", "/user/profile")]
    return [{key: value for key, value in item.items() if not key.endswith("_url")} for item in shown]


async def test_a_redelivered_event_of_any_kind_changes_nothing(person: Person, clip: Callable[[str], Clip]) -> None:
    async with overhearing() as queue:
        video_id = await person.upload(clip("short").path)
        assert (await person.outcome(video_id))["state"] == "ready"
        await person.patch("/user/profile", {"display_name": "Someone else"})

        async def is_ready() -> bool:
            return bool((await person.get(f"/media/{video_id}")).json().get("state") == "ready")

        await until(is_ready, what="the catalogue to follow")
        await person.patch(f"/media/{video_id}", {"title": "Another title", "visibility": "unlisted"})
        gone = await person.upload(clip("short").path)
        await person.delete(f"/video/{gone}")
        events: list[Event] = []

        async def all_told() -> bool:
            events.extend(await taken_from(queue))
            mine = [item for item in events if item.subject in (video_id, gone, person.id)]
            kinds = {item.type for item in mine}
            return {"video.ready", "media.updated", "video.deleted", "media.deleted", "user.updated"} <= kinds

        await until(all_told, what="all events to be told")
        mine = [item for item in events if item.subject in (video_id, gone, person.id)]
        assert {"video.upload_started", "video.uploaded", "video.playable", "video.ready"} <= {e.type for e in mine}

        async def settled() -> bool:
            before = await handled()
            await asyncio.sleep(0.5)
            return before == await handled()

        await until(settled, what="the consumers to be at rest")
        before, count = await everything(person, video_id), await handled()
        consumed = [e for e in mine if e.type.startswith("video.") or e.type in ("media.updated", "media.deleted")]
        for event in mine:
            await publish(event)

        async def all_handled() -> bool:
            return await handled() >= count + len(consumed)

        await until(all_handled, what="the redelivered events to be handled")
        assert await everything(person, video_id) == before
        assert (await person.get(f"/media/{gone}")).status_code == 404
        assert (await person.get(f"/video/{gone}")).status_code == 404
