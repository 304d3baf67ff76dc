"""Every test creates its own schema, queues, keys and database, and removes them."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import asyncpg
import httpx
import pytest
from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel
from redis.asyncio import Redis

from kinora_kit import broker as broker_module
from kinora_kit import migrate, mongo, postgres, redis, s3
from kinora_kit.broker import Broker
from kinora_kit.mongo import Database
from kinora_kit.postgres import Pool
from kinora_kit.queues import Queue
from kinora_kit.s3 import ObjectStore
from kinora_kit.testing import eventually, free_port, no_session_has_ended


@pytest.fixture(scope="session")
def kit(environment: Callable[[str], dict[str, str]]) -> dict[str, str]:
    """The URLs of the stores, without the prefix: ``kit["POSTGRES_URL"]``."""
    return {name.removeprefix("KINORA_"): value for name, value in environment("kit-test").items()}


@pytest.fixture
def unique() -> str:
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
async def schema_url(kit: dict[str, str], unique: str) -> AsyncIterator[str]:
    """The URL of a separate, empty schema."""
    connection = await asyncpg.connect(kit["POSTGRES_URL"])
    await connection.execute(f"CREATE SCHEMA {unique}")
    yield f"{kit['POSTGRES_URL']}?search_path={unique}"
    await connection.execute(f"DROP SCHEMA {unique} CASCADE")
    await connection.close()


@pytest.fixture
async def postgres_url(schema_url: str) -> str:
    """A database with the kit's own tables and one more, ``things``."""
    connection = await asyncpg.connect(schema_url)
    for migration in migrate.migrations_of("kinora_kit"):
        await connection.execute(migration.sql)
    await connection.execute("CREATE TABLE things (n int)")
    await connection.close()
    return schema_url


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[Pool]:
    async with postgres.connect(postgres_url, name="kit test") as pool:
        yield pool


@pytest.fixture
async def broker(kit: dict[str, str]) -> AsyncIterator[Broker]:
    async with broker_module.connect(kit["RABBITMQ_URL"], name="kit test") as broker:
        yield broker


@pytest.fixture
async def channel(kit: dict[str, str]) -> AsyncIterator[AbstractChannel]:
    """A channel that bypasses the kit, to inspect its effects."""
    async with await aio_pika.connect(kit["RABBITMQ_URL"]) as connection, connection.channel() as channel:
        yield channel


@pytest.fixture
async def exchange(channel: AbstractChannel, unique: str) -> AsyncIterator[str]:
    await channel.declare_exchange(unique, ExchangeType.TOPIC, durable=True)
    yield unique
    await channel.exchange_delete(unique)


@pytest.fixture
async def queue_of(channel: AbstractChannel, unique: str) -> AsyncIterator[Callable[..., Queue]]:
    """``queue_of(retry_seconds=(1,))``: a Queue with a unique name, removed with its retry and dead-letter queues."""
    made: list[Queue] = []

    def of(**options: Any) -> Queue:
        made.append(Queue(f"{unique}.{len(made)}", **options))
        return made[-1]

    yield of
    for queue in made:
        for name in (queue.name, queue.dead, *(f"{queue.name}.retry.{seconds}" for seconds in queue.retry_seconds)):
            await channel.queue_delete(name)


@pytest.fixture
async def inbox(
    channel: AbstractChannel, exchange: str, unique: str
) -> AsyncIterator[Callable[[], Awaitable[list[Any]]]]:
    """A queue bound to everything from ``exchange``; calling it returns the messages since the last call."""
    queue = await channel.declare_queue(f"{unique}.inbox", durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(exchange, "#")

    async def take() -> list[Any]:
        taken: list[Any] = []
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            taken.append(message)
        return taken

    yield take
    await channel.queue_delete(queue.name)


@pytest.fixture
def depth(channel: AbstractChannel) -> Callable[[str], Awaitable[int]]:
    """The number of ready messages in a queue."""

    async def of(name: str) -> int:
        queue = await channel.declare_queue(name, passive=True)
        return queue.declaration_result.message_count or 0

    return of


@pytest.fixture
async def database(kit: dict[str, str], unique: str) -> AsyncIterator[Database]:
    async with mongo.connect(kit["MONGO_URL"], database=unique, name="kit test") as database:
        yield database
        await database.client.drop_database(unique)


@pytest.fixture
async def client(kit: dict[str, str], unique: str) -> AsyncIterator[Redis]:
    """A Redis client; keys that start with ``unique`` are deleted afterwards."""
    async with redis.connect(kit["REDIS_URL"], name="kit-test") as client:
        await no_session_has_ended(client)
        yield client
        async for key in client.scan_iter(match=f"{unique}*"):
            await client.delete(key)


@pytest.fixture
async def objects(kit: dict[str, str]) -> AsyncIterator[ObjectStore]:
    keys = kit["S3_ACCESS_KEY"], kit["S3_SECRET_KEY"]
    async with s3.connect(kit["S3_URL"], access_key=keys[0], secret_key=keys[1]) as store:
        yield store


class Running:
    """A real process that serves example_service.py."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self.output = folder / "output"
        environment = {f"KINORA_{name.upper()}": value for name, value in settings.items()}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "example_service.py")],
                env={
                    "PATH": os.environ["PATH"],
                    "KINORA_HTTP_PORT": str(self.port),
                    "KINORA_PASSWORD": "do-not-print-me",
                    **environment,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=20)

    async def accepts(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        try:
            await self.client.get("/healthz")
        except httpx.TransportError:
            return False
        return True

    def ended(self) -> bool:
        return self.process.poll() is not None

    async def logged(self, request_id: str) -> list[dict[str, Any]]:
        """The log lines of one request. The last one is written after the response has been sent."""
        found: list[dict[str, Any]] = []

        def complete() -> bool:
            lines = [json.loads(line) for line in self.output.read_text().splitlines() if line.startswith("{")]
            found[:] = [line for line in lines if line.get("request_id") == request_id]
            return bool(found) and found[-1]["event"] == "request"

        await eventually(complete)
        return found


@contextlib.asynccontextmanager
async def _running(folder: Path, **settings: str) -> AsyncIterator[Running]:
    folder.mkdir(exist_ok=True)
    service = Running(folder, **settings)
    try:
        await eventually(service.accepts, seconds=60)
        yield service
    finally:
        await service.client.aclose()
        service.process.kill()
        service.process.wait()


@pytest.fixture(scope="session")
def running() -> Callable[..., contextlib.AbstractAsyncContextManager[Running]]:
    """``running(folder, **settings)``: a process that serves example_service.py, stopped at the end of the block."""
    return _running
