"""Parts of the platform go away and come back; nothing that was accepted is lost, and nobody has to be told."""

import time
from collections.abc import Callable
from contextlib import aclosing

import pytest
from client import Person
from clips import Clip
from test_outages import reported, stopped

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

AWAY_SECONDS = 8


async def test_a_video_gets_ready_although_the_broker_was_away(person: Person, clip: Callable[[str], Clip]) -> None:
    async with stopped("rabbitmq"):
        video = await person.upload(clip("short").path)
    assert (await person.outcome(video))["state"] == "ready"

    async def listed() -> bool:
        return bool((await person.get(f"/media/{video}")).json().get("state") == "ready")

    await until(listed, what="the catalogue to follow")


async def test_a_video_gets_ready_although_its_object_store_was_away(
    person: Person, clip: Callable[[str], Clip]
) -> None:
    video = await person.upload(clip("vertical").path)
    async with aclosing(person.follow(video)) as states:
        async for progress in states:
            if progress["progress"] > 0:
                break
    assert progress["state"] in ("processing", "playable"), "the worker is at work"

    async def noticed() -> bool:
        return "object_store" in await reported("video-worker")

    async with stopped("minio"):
        await until(noticed, what="the worker to name its object store")
        since = time.monotonic()

        async def long_enough() -> bool:
            assert await noticed()
            return time.monotonic() - since >= AWAY_SECONDS

        await until(long_enough, what="the outage to last")
    assert (await person.outcome(video))["state"] == "ready"


async def test_an_upload_whose_end_the_service_missed_is_found(person: Person, clip: Callable[[str], Clip]) -> None:
    path = clip("short").path
    created = await person.create(path.name, path.stat().st_size)
    location = created.headers["location"]
    # Straight to tusd: the gateway would ask the service that is away.
    direct = location.replace("http://localhost:8080", "http://127.0.0.1:8108")
    async with stopped("video"):
        sent = await person.send(direct, path)
        assert sent.status_code == 204
    video = location.rpartition("/")[2].partition("+")[0]
    assert (await person.outcome(video))["state"] == "ready"
