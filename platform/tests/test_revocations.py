"""No process accepts a session once ``announce`` has returned, whatever happens to Redis or to the process."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from kinora_kit import redis, revocations, tasks
from kinora_kit.errors import Unavailable
from kinora_kit.metrics import SESSIONS_CHECKED
from kinora_kit.revocations import Revocations, announce, restore
from kinora_kit.testing import Proxy, eventually, free_port, no_session_has_ended, proxy


class Auth:
    """What the auth service has recorded; it is asked while Redis cannot be."""

    def __init__(self) -> None:
        self.ended: set[UUID] = set()
        self.asked = 0

    async def has_ended(self, session_id: UUID, token: str) -> bool:
        self.asked += 1
        return session_id in self.ended

    async def all_ended(self) -> dict[UUID, float]:
        return dict.fromkeys(self.ended, 60.0)


class Server:
    """A Redis server of one test. It starts with what was last saved, like a replica that was promoted before it had
    received everything."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self._port}/0"

    async def start(self) -> None:
        options = ["--port", str(self._port), "--dir", str(self._folder), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)

        async def answers() -> bool:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.close()
                return True
            return False

        await eventually(answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    await server.start()
    yield server
    server.kill()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is asked again at once after it failed."""
    monkeypatch.setattr(revocations, "RETRY_SECONDS", 0.0)


def counted(source: str) -> float:
    return float(SESSIONS_CHECKED.labels(source)._value.get())


async def test_announced_session_is_rejected_by_all_readers(client: Redis, kit: dict[str, str]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(redis.connect(kit["REDIS_URL"], name="kit-test")) for _ in range(5)]
        readers = [Revocations(each, None) for each in clients]
        living = uuid4()
        for session_id in [uuid4() for _ in range(10)]:
            for reader in readers:
                assert not await reader.has_ended(session_id, "")
                assert not await reader.has_ended(living, "")
            await announce(client, {session_id: 60})
            assert all([await reader.has_ended(session_id, "") for reader in readers])
        assert not any([await reader.has_ended(living, "") for reader in readers])


async def test_redis_is_asked_once_for_a_session_and_then_for_news(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Revocations(client, None)
    sessions = [uuid4() for _ in range(20)]
    before = {source: counted(source) for source in ("memory", "log", "redis")}

    async def check_all() -> dict[str, float]:
        assert not any(await asyncio.gather(*(reader.has_ended(each, "") for each in sessions)))
        since = {source: counted(source) - before[source] for source in before}
        before.update({source: counted(source) for source in before})
        return since

    monkeypatch.setattr(revocations, "TRUST_SECONDS", 60.0)
    for session_id in sessions:
        await reader.has_ended(session_id, "")
    assert await check_all() == {"memory": 20, "log": 0, "redis": 20}
    monkeypatch.setattr(revocations, "TRUST_SECONDS", 0.0)
    calls = await commands(client)
    assert await check_all() == {"memory": 0, "log": 20, "redis": 0}
    assert 1 <= (await commands(client))["xrange"] - calls["xrange"] <= 20
    assert (await commands(client))["exists"] == calls["exists"]


async def commands(client: Redis) -> dict[str, int]:
    """How often the server has executed each command."""
    statistics = await client.info("commandstats")
    return {name: statistics.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("xrange", "exists")}


async def test_reader_that_missed_entries_of_the_log_asks_again(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, living, ended = Revocations(client, None), uuid4(), uuid4()
    assert not await reader.has_ended(living, "")
    assert not await reader.has_ended(ended, "")
    monkeypatch.setattr(revocations, "LOG_ENTRIES", 3)
    await announce(client, {ended: 60, **{uuid4(): 60 for _ in range(5)}})
    assert str(ended) not in str(await client.xrange(revocations.LOG))
    assert await reader.has_ended(ended, "")
    assert not await reader.has_ended(living, "")


@pytest.mark.parametrize("failure", [Proxy.cut, Proxy.stall])
@pytest.mark.usefixtures("impatient")
async def test_reader_without_connection_asks_auth(
    client: Redis, kit: dict[str, str], failure: Callable[[Proxy], object]
) -> None:
    auth, living, ended = Auth(), uuid4(), uuid4()
    async with proxy(kit["REDIS_URL"]) as link, redis.connect(link.url, name="kit-test") as behind_cable:
        reader = Revocations(behind_cable, auth.has_ended)
        assert not await reader.has_ended(living, "")
        assert not await reader.has_ended(ended, "")
        if (closing := failure(link)) is not None:
            await closing  # type: ignore[misc]
        auth.ended.add(ended)
        await announce(client, {ended: 60})
        assert await reader.has_ended(ended, "")
        assert not await reader.has_ended(living, "")
        assert auth.asked == 2
        await link.restore()

        async def redis_is_asked() -> bool:
            before = auth.asked
            assert await reader.has_ended(ended, "")
            return auth.asked == before

        await eventually(redis_is_asked)
        assert not await reader.has_ended(living, "")


@pytest.mark.parametrize("kept", ["nothing", "what was written before the session ended", "everything"])
@pytest.mark.usefixtures("impatient")
async def test_restarted_redis_is_not_asked_before_it_has_all_revocations(server: Server, kept: str) -> None:
    auth, living, ended = Auth(), uuid4(), uuid4()
    async with redis.connect(server.url, name="kit-test") as here, redis.connect(server.url, name="kit-test") as there:
        reader, fresh = Revocations(here, auth.has_ended), Revocations(there, auth.has_ended)
        await restore(here, auth.all_ended)
        assert not await reader.has_ended(living, "")
        assert not await reader.has_ended(ended, "")
        assert auth.asked == 0
        if kept == "what was written before the session ended":
            await here.save()
        auth.ended.add(ended)
        await announce(here, {ended: 60})
        if kept == "everything":
            await here.save()
        server.kill()
        await server.start()
        assert await here.exists(revocations.revocation_key(ended)) == (kept == "everything")
        for one in (reader, fresh):
            assert await one.has_ended(ended, "")
            assert not await one.has_ended(living, "")
        assert auth.asked == 4
        await restore(here, auth.all_ended)
        for one in (reader, fresh):
            assert await one.has_ended(ended, "")
            assert not await one.has_ended(living, "")
        assert auth.asked == 4


async def test_reader_without_redis_and_auth_rejects(server: Server) -> None:
    async with redis.connect(server.url, name="kit-test") as here:
        reader, session_id = Revocations(here, None), uuid4()
        with pytest.raises(Unavailable):
            await reader.has_ended(session_id, "")
        await no_session_has_ended(here)
        assert not await reader.has_ended(session_id, "")


READER = """
import asyncio, sys, uuid
from kinora_kit import redis
from kinora_kit.revocations import Revocations

async def main():
    async with redis.connect(sys.argv[1], name="kit-test") as client:
        reader = Revocations(client, None)
        for line in sys.stdin:
            print(await reader.has_ended(uuid.UUID(line.strip()), ""), flush=True)

asyncio.run(main())
"""


async def test_paused_process_rejects_the_session_when_it_continues(client: Redis, kit: dict[str, str]) -> None:
    command = [sys.executable, "-c", READER, kit["REDIS_URL"]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None

        def ask(session_id: UUID) -> None:
            print(session_id, file=reader.stdin, flush=True)

        for session_id in [uuid4() for _ in range(5)]:
            ask(session_id)
            assert reader.stdout.readline() == "False\n"
            ask(session_id)
            assert reader.stdout.readline() == "False\n"
            reader.send_signal(signal.SIGSTOP)
            await announce(client, {session_id: 60})
            ask(session_id)
            reader.send_signal(signal.SIGCONT)
            assert reader.stdout.readline() == "True\n"
        reader.stdin.close()


class LateAnswer(Redis):
    """Holds back one answer of Redis."""

    def __init__(self, client: Redis) -> None:
        super().__init__(connection_pool=client.connection_pool)
        self.answered, self.released = asyncio.Event(), asyncio.Event()

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        made = super().pipeline(transaction, shard_hint)
        if not self.answered.is_set():
            execute = made.execute

            async def held_back(raise_on_error: bool = True) -> list[Any]:
                answer = await execute(raise_on_error)
                self.answered.set()
                await self.released.wait()
                return answer

            made.execute = held_back  # type: ignore[method-assign]
        return made


async def test_late_answer_does_not_undo_news(client: Redis) -> None:
    late, session_id = LateAnswer(client), uuid4()
    reader = Revocations(late, None)
    asking = asyncio.create_task(reader.has_ended(session_id, ""))
    await late.answered.wait()
    await announce(client, {session_id: 60})
    assert await reader.has_ended(session_id, "")
    late.released.set()
    assert not await asking, "it was asked before the session ended"
    assert await reader.has_ended(session_id, "")


async def test_next_is_set_when_a_session_ends(client: Redis, kit: dict[str, str]) -> None:
    async with redis.connect(kit["REDIS_URL"], name="kit-test") as other:
        reader = Revocations(other, None)
        async with tasks.background(follow=reader.follow):
            for _ in range(3):
                session_id = uuid4()
                assert not await reader.has_ended(session_id, "")
                news = reader.next()
                await announce(client, {session_id: 60})
                await asyncio.wait_for(news.wait(), 10)
                assert await reader.has_ended(session_id, "")
