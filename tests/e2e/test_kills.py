"""Every process is killed once, in random order, while users upload and edit.

Afterwards every video is ready with all its frames, no confirmed write of the catalogue is lost, and no outbox entry,
dead letter or temporary file remains. The seed is in the test's id; KINORA_SEED=7 uses another one.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aio_pika
import asyncpg
import ctl
import httpx
import psutil
import pytest
from client import TUS, Person, register, video_id
from clips import Clip
from environment import ROOT, load
from parts import PARTS
from test_bad_input import emptied
from test_deletion import rows_of
from test_journey import assert_plays

from conftest import until
from kinora import queues
from kinora_kit import mongo
from kinora_video.wiring import BULK, FIRST, SOUND

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

SEEDS = [int(os.environ["KINORA_SEED"])] if "KINORA_SEED" in os.environ else [11, 12, 13]
# Without Prometheus, on which nothing depends.
PROCESSES = sorted(PARTS.keys() - {"prometheus"})
QUEUES = (*queues.ALL, FIRST, SOUND, BULK)
UPLOAD_SECONDS = 1.5
PIECES = 30


def schedule(seed: int) -> list[tuple[float, str]]:
    """(seconds to wait, process to kill), each process once; deterministic for a seed."""
    chance = random.Random(seed)
    return [(chance.uniform(0.3, 1.5), process) for process in chance.sample(PROCESSES, len(PROCESSES))]


def kill(process: str) -> None:
    """Kill a process with all its children, like a container."""
    pid = ctl.processes()[process]["pid"]
    if not pid:
        return  # it is starting
    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        for member in (leader, *leader.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


@dataclass
class Load:
    """The users' operations, and what was confirmed to them."""

    clip: Clip
    over: asyncio.Event = field(default_factory=asyncio.Event)
    videos: list[tuple[Person, str]] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    titles: list[int] = field(default_factory=list)

    async def upload_on(self, person: Person) -> None:
        while not self.over.is_set():
            self.videos.append((person, await upload(person, self.clip)))

    async def insert_on(self, collection: mongo.Collection) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            with contextlib.suppress(mongo.MongoError):
                await collection.insert_one({"_id": number})
                self.documents.append(number)

    async def rename_on(self, person: Person, video: str) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            with contextlib.suppress(httpx.HTTPError):
                if (await person.patch(f"/media/{video}", {"title": str(number)})).status_code == 200:
                    self.titles.append(number)


async def upload(person: Person, clip: Clip) -> str:
    """Upload slowly, and resume after every failure, like tus clients."""
    location = ""
    while not location:
        with contextlib.suppress(httpx.HTTPError):
            created = await person.create(clip.path.name, clip.path.stat().st_size)
            location = created.headers["location"] if created.status_code == 201 else ""
        await asyncio.sleep(0.1)
    while True:
        with contextlib.suppress(httpx.HTTPError, KeyError):
            offset = await person.offset(location)
            if offset == clip.path.stat().st_size:
                return video_id(location)
            headers = {**person.headers, **TUS, "Upload-Offset": str(offset)}
            headers |= {"Content-Type": "application/offset+octet-stream"}
            headers |= {"Content-Length": str(clip.path.stat().st_size - offset)}
            await person.http.patch(location, headers=headers, content=slowly(clip.path, offset))
        await asyncio.sleep(0.1)


async def slowly(path: Path, offset: int) -> AsyncIterator[bytes]:
    piece = path.stat().st_size // PIECES + 1
    with path.open("rb") as file:
        file.seek(offset)
        while data := file.read(piece):
            yield data
            await asyncio.sleep(UPLOAD_SECONDS / PIECES)


async def outboxes() -> int:
    """The number of unpublished events."""
    count = 0
    for service in ("auth", "video"):
        connection = await asyncpg.connect(load(service)["KINORA_POSTGRES_URL"])
        try:
            count += await connection.fetchval("SELECT count(*) FROM outbox")
        finally:
            await connection.close()
    async with mongo.connect(load("media")["KINORA_MONGO_URL"], database="media", name="kills") as database:
        return count + await database["media"].count_documents({f"{mongo.OUTBOX}.id": {"$exists": True}})


async def dead_letters() -> dict[str, int]:
    found = {}
    for queue in QUEUES:
        url = load(queue.name.partition(".")[0])["KINORA_RABBITMQ_URL"]
        async with await aio_pika.connect(url) as connection, connection.channel() as channel:
            declared = await channel.declare_queue(queue.dead, passive=True)
            found[queue.name] = declared.declaration_result.message_count or 0
    return found


async def all_healthy() -> bool:
    troubles = await asyncio.to_thread(lambda: ctl.troubles(PROCESSES, ctl.processes()))
    return not any(troubles.values())


@pytest.mark.sample(1)
@pytest.mark.parametrize("seed", SEEDS)
async def test_killing_every_process_loses_nothing(seed: int, clip: Callable[[str], Clip]) -> None:
    source, dead = clip("short"), await dead_letters()
    async with register() as person, register() as other, in_kit_test(f"kills_{seed}") as collection:
        work = Load(source)
        edited = await person.upload(source.path)
        assert (await person.outcome(edited))["state"] == "ready"

        async def listed() -> bool:
            return (await person.get(f"/media/{edited}")).status_code == 200

        await until(listed, what="the catalogue to be updated")
        async with asyncio.TaskGroup() as people:
            people.create_task(work.upload_on(person))
            people.create_task(work.upload_on(other))
            people.create_task(work.rename_on(person, edited))
            people.create_task(work.insert_on(collection))
            for seconds, process in schedule(seed):
                await asyncio.sleep(seconds)
                await asyncio.to_thread(kill, process)
            work.over.set()
        await until(all_healthy, what="all processes to be healthy")

        for owner, video in work.videos:
            assert (await owner.outcome(video))["state"] == "ready"
            shown = (await owner.get(f"/video/{video}")).json()
            await assert_plays(person.http, shown["stream_url"], source)

            async def in_the_catalogue(owner: Person = owner, video: str = video) -> bool:
                return bool((await owner.get(f"/media/{video}")).json().get("state") == "ready")

            await until(in_the_catalogue, what="the catalogue to be updated")
        assert work.titles
        assert int((await person.get(f"/media/{edited}")).json()["title"]) >= work.titles[-1]
        found = {document["_id"] async for document in collection.find({}, {"_id": True})}
        assert len(work.documents) > len(PROCESSES)
        assert not set(work.documents) - found

        async def all_published() -> bool:
            return await outboxes() == 0

        await until(all_published, what="the outboxes to be empty")
        assert await dead_letters() == dead
        assert not list((ROOT / ".kinora/state/video-worker").iterdir()), "the worker has left temporary files"
        for owner in (person, other):
            gone = await owner.delete("/user/profile", {"current_password": owner.password})
            assert gone.status_code == 204, gone.text

            async def nothing_left(owner: Person = owner) -> bool:
                return not await rows_of(owner.id)

            await until(nothing_left, what="the rows of the account to be gone")
        for _, video in work.videos:
            await until(emptied(video), what="the buckets to be empty")


@contextlib.asynccontextmanager
async def in_kit_test(name: str) -> AsyncIterator[mongo.Collection]:
    """A collection in a separate database, which is dropped afterwards."""
    async with mongo.connect(load("kit-test")["KINORA_MONGO_URL"], database=name, name="kills") as database:
        await database.client.drop_database(name)
        yield database["things"]
        await database.client.drop_database(name)
