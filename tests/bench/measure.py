"""Load, and what it costs: latency, and CPU by process."""

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ctl
import psutil

ROOT = Path(__file__).resolve().parents[2]
REQUESTS = 400
LOAD_SECONDS = 5.0
GATEWAY_PORT = 8080
WATCHED = ("traefik", "auth", "media", "video", "graphql", "postgres", "mongo", "redis")


@dataclass(frozen=True)
class Row:
    what: str
    measured: str
    limit: str
    ratio: float


class Wire:
    """One connection. httpx takes longer for a request than what is measured."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> None:
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", head)
        body = await self._reader.readexactly(int(length[1]) if length else 0)
        if int(head[9:12]) not in (200, 404) or b'"errors"' in body:
            raise SystemExit(f"unexpected response: {head + body!r}")


@contextlib.asynccontextmanager
async def wires(port: int, count: int) -> AsyncIterator[list[Wire]]:
    """Each from its own address, because rate limits are by address."""
    addresses = [(f"127.0.0.{number}", 0) for number in range(2, 2 + count)]
    opened = [await asyncio.open_connection("127.0.0.1", port, local_addr=address) for address in addresses]
    try:
        yield [Wire(*pair) for pair in opened]
    finally:
        for _, writer in opened:
            writer.close()


@dataclass(frozen=True)
class Request:
    port: int
    bytes: bytes

    @classmethod
    def of(cls, port: int, path: str, headers: dict[str, str], body: object = None) -> "Request":
        content = b"" if body is None else json.dumps(body).encode()
        if content:
            headers = {**headers, "Content-Type": "application/json", "Content-Length": str(len(content))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{'POST' if content else 'GET'} {path} HTTP/1.1\r\nHost: localhost:{port}\r\n{lines}\r\n"
        return cls(port, head.encode() + content)


@dataclass(frozen=True)
class Load:
    """What a run of requests took."""

    seconds: float
    latencies: Sequence[float]
    """In milliseconds, ascending."""
    cpu: dict[str, float]
    """CPU milliseconds per request, by process."""

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def at(self, percent: int) -> float:
        return self.latencies[len(self.latencies) * percent // 100]


def platform() -> dict[str, psutil.Process]:
    infos = ctl.processes()
    return {name: psutil.Process(infos[name]["pid"]) for name in WATCHED}


def cpu_seconds(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    """From /proc, so that a client on the same cores does not count. Children are included."""
    return {
        name: sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))
        for name, process in processes.items()
    }


async def loaded(
    run: Callable[[list[float]], Awaitable[object]], processes: Mapping[str, psutil.Process] | None = None
) -> Load:
    """``processes``: whose CPU counts; the platform's by default."""
    counted = platform() if processes is None else processes
    found: list[float] = []
    before, begun = cpu_seconds(counted), time.perf_counter()
    await run(found)
    seconds, after = time.perf_counter() - begun, cpu_seconds(counted)
    return Load(seconds, sorted(found), {name: 1000 * (after[name] - before[name]) / len(found) for name in counted})


async def saturate(*requests: Request, clients: int, processes: Mapping[str, psutil.Process] | None = None) -> Load:
    """Each client sends its request again when it has the response. The requests are distributed over the clients."""
    async with wires(requests[0].port, clients) as open_wires:
        end = time.perf_counter() + LOAD_SECONDS

        async def client(wire: Wire, request: Request, found: list[float]) -> None:
            while (begun := time.perf_counter()) < end:
                await wire.ask(request.bytes)
                found.append(1000 * (time.perf_counter() - begun))

        each = list(zip(open_wires, itertools.cycle(requests), strict=False))
        return await loaded(lambda found: asyncio.gather(*(client(*one, found) for one in each)), processes)


async def at_rate(request: Request, rate: float) -> Load:
    """Requests at regular times, whether or not others have been answered."""
    async with wires(request.port, 64) as open_wires:
        free: asyncio.Queue[Wire] = asyncio.Queue()
        for wire in open_wires:
            free.put_nowait(wire)

        async def one(due: float, found: list[float]) -> None:
            await asyncio.sleep(due - time.perf_counter())
            wire = await free.get()
            await wire.ask(request.bytes)
            free.put_nowait(wire)
            found.append(1000 * (time.perf_counter() - due))

        begun = time.perf_counter()
        due = [begun + number / rate for number in range(int(LOAD_SECONDS * rate))]
        return await loaded(lambda found: asyncio.gather(*(one(each, found) for each in due)))


async def one_by_one(requests: Sequence[Request]) -> list[Load]:
    """Each request in turn, so that all meet the same conditions."""
    found: list[list[float]] = [[] for _ in requests]
    async with contextlib.AsyncExitStack() as stack:
        open_wires = [(await stack.enter_async_context(wires(each.port, 1)))[0] for each in requests]
        for _ in range(REQUESTS):
            for request, wire, latencies in zip(requests, open_wires, found, strict=True):
                begun = time.perf_counter()
                await wire.ask(request.bytes)
                latencies.append(1000 * (time.perf_counter() - begun))
    return [Load(sum(each) / 1000, sorted(each), {}) for each in found]
