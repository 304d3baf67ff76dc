"""After an outage of a part of the platform, nothing accepted is lost, and recovery is automatic."""

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


async def test_video_becomes_ready_after_broker_outage(person: Person, clip: Callable[[str], Clip]) -> None:
    async with stopped("rabbitmq"):
        video = await person.upload(clip("short").path)
    assert (await person.outcome(video))["state"] == "ready"

    async def listed() -> bool:
        return bool((await person.get(f"/media/{video}")).json().get("state") == "ready")

    await until(listed, what="the catalogue to be updated")


async def test_video_becomes_ready_after_object_store_outage(person: Person, clip: Callable[[str], Clip]) -> None:
    video = await person.upload(clip("vertical").path)
    async with aclosing(person.follow(video)) as states:
        async for progress in states:
            if progress["progress"] > 0:
                break
    assert progress["state"] in ("processing", "playable"), "the worker is transcoding"

    async def noticed() -> bool:
        return "object_store" in await reported("video-worker")

    async with stopped("minio"):
        await until(noticed, what="the worker to report its object store")
        since = time.monotonic()

        async def long_enough() -> bool:
            assert await noticed()
            return time.monotonic() - since >= AWAY_SECONDS

        await until(long_enough, what="the outage to last")
    assert (await person.outcome(video))["state"] == "ready"


async def test_upload_that_ended_during_outage_is_processed(person: Person, clip: Callable[[str], Clip]) -> None:
    path = clip("short").path
    created = await person.create(path.name, path.stat().st_size)
    location = created.headers["location"]
    # Directly to tusd: the gateway would ask the stopped service.
    direct = location.replace("http://localhost:8080", "http://127.0.0.1:8108")
    async with stopped("video"):
        sent = await person.send(direct, path)
        assert sent.status_code == 204
    video = location.rpartition("/")[2].partition("+")[0]
    assert (await person.outcome(video))["state"] == "ready"
