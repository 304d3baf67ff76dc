"""Parts of the platform go away and come back; nothing that was accepted is lost, and nobody has to be told."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import ctl
import httpx
import pytest
from client import Person
from clips import Clip

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

SERVICES = {"auth": 8101, "media": 8102, "video": 8103, "graphql": 8105, "video-worker": 8113}
# Which services name which store at /readyz, and by what name.
NEEDS = {
    "postgres": {"auth": "postgres", "video": "postgres", "video-worker": "postgres"},
    "redis": {"auth": "redis", "video": "redis", "graphql": "redis"},
    "rabbitmq": {"auth": "rabbitmq", "media": "rabbitmq", "video": "rabbitmq", "graphql": "rabbitmq"},
    "mongo": {"media": "mongo"},
    "minio": {"video": "object_store", "video-worker": "object_store"},
}

AWAY_SECONDS = 8


async def checks(service: str) -> dict[str, str]:
    """The dependencies of a service, each "ok" or what is wrong with it."""
    async with httpx.AsyncClient(timeout=30) as http:
        answer = await http.get(f"http://127.0.0.1:{SERVICES[service]}/readyz")
        found: dict[str, str] = answer.json()["checks"]
        return found


async def all_ready() -> bool:
    try:
        return all([all(value == "ok" for value in (await checks(service)).values()) for service in SERVICES])
    except httpx.HTTPError:
        return False


@asynccontextmanager
async def stopped(process: str) -> AsyncIterator[None]:
    """Without one process for a while; all services are ready again when this returns."""
    await asyncio.to_thread(ctl.stop, [process])
    try:
        yield
    finally:
        await asyncio.to_thread(ctl.start, [process])
        await until(all_ready, what=f"all services to be ready after {process} came back")


@pytest.mark.parametrize("store", NEEDS)
async def test_a_store_that_is_away_is_named_and_its_return_is_noticed(store: str) -> None:
    async with stopped(store):
        for service, name in NEEDS[store].items():

            async def named(service: str = service, name: str = name) -> bool:
                return (await checks(service))[name] != "ok"

            await until(named, what=f"{service} to name {name}")
            async with httpx.AsyncClient() as http:
                alive = await http.get(f"http://127.0.0.1:{SERVICES[service]}/healthz")
            assert alive.status_code == 200


async def test_what_is_asked_while_the_database_is_away_is_answered_as_unavailable(person: Person) -> None:
    async with stopped("postgres"):
        answer = await person.http.get(f"/user/{person.id}")
        assert answer.status_code == 503
        assert answer.json()["code"] == "unavailable"
    assert (await person.http.get(f"/user/{person.id}")).status_code == 200


async def test_without_redis_nobody_is_taken_for_signed_in(person: Person) -> None:
    async with stopped("redis"):
        assert (await person.get("/user/profile")).status_code >= 500
    assert (await person.get("/user/profile")).status_code == 200


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
        return (await checks("video-worker"))["object_store"] != "ok"

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


@pytest.mark.parametrize("process", ["auth", "media", "video", "graphql", "tusd", "traefik"])
async def test_a_process_that_is_killed_comes_back(process: str, person: Person) -> None:
    before = ctl.processes()[process]["pid"]
    os.kill(before, signal.SIGKILL)

    async def again() -> bool:
        info = ctl.processes()[process]
        return info["statename"] == "RUNNING" and info["pid"] != before and await all_ready()

    await until(again, what=f"{process} to come back")

    async def answered() -> bool:
        try:
            return (await person.get(f"/user/{person.id}")).status_code == 200
        except httpx.HTTPError:
            return False

    await until(answered, what="the gateway to answer")
