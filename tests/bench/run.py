"""``make bench``: the platform's performance, compared with the machine's limit, measured in the same run.

Figures are only meaningful relative to the limit, or to another commit's figures on the same machine.
"""

import asyncio
import contextlib
import json
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "local")]

import ctl  # noqa: E402
from client import Person, global_id, register, video_id  # noqa: E402
from clips import make  # noqa: E402

from kinora_kit.testing import served  # noqa: E402
from kinora_video import encode  # noqa: E402
from kinora_video.domain import Part, PartKind, Source  # noqa: E402
from kinora_video.ladder import ladder  # noqa: E402
from kinora_video.probe import probe  # noqa: E402

REQUESTS = 400
CLIENTS = 10
LOAD_SECONDS = 5.0
UPLOAD_BYTES = 512 << 20
GATEWAY_PORT, AUTH_PORT = 8080, 8101
WATCHED = ("traefik", "auth", "media", "video", "graphql", "postgres", "mongo", "redis")
NESTED = """
    query ($id: ID!) {
      me { user { username } }
      media(id: $id) { title state owner { username } video { streamUrl posterUrl duration } }
    }
"""

console = Console(highlight=False, width=110)


@dataclass(frozen=True)
class Row:
    what: str
    measured: str
    limit: str
    ratio: float


def whole(source: Source, *, kind: PartKind, names: tuple[str, ...], end: float | None) -> Part:
    return Part(0, kind, 0.0, end, names, "bulk", 4.0)


async def raw_encode(source: Source, path: Path, part: Part) -> float:
    """Seconds that a single ffmpeg needs for a part, sandboxed as in the worker, on an otherwise idle machine."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        async for _ in encode.encode(part, source, ladder(source), served(path), Path(folder)):
            pass
        return time.perf_counter() - begun


async def bench_transcode(person: Person, folder: Path) -> list[Row]:
    clip = make("minute", folder).path
    source = await probe(served(clip))
    names = tuple(rendition.name for rendition in ladder(source))
    first_limit = await raw_encode(source, clip, whole(source, kind="video", names=names[:1], end=4.0))
    all_limit = await raw_encode(source, clip, whole(source, kind="video", names=names, end=None))
    sound_limit = await raw_encode(source, clip, whole(source, kind="audio", names=("audio",), end=None))

    created = await person.create(clip.name, clip.stat().st_size)
    video = video_id(created.headers["location"])
    first = asyncio.create_task(first_segment(person, video))
    await person.send(created.headers["location"], clip)
    sent = time.perf_counter()
    last = await person.outcome(video)
    ready = time.perf_counter() - sent
    if last["state"] != "ready":
        raise SystemExit(f"the clip was not transcoded: {last}")
    playable = await first - sent
    limit = all_limit + sound_limit
    return [
        Row(
            "last byte to first playable segment",
            f"{playable:.2f} s",
            f"{first_limit:.2f} s ffmpeg",
            playable / first_limit,
        ),
        Row(f"ladder of {len(names)}, 60 s 1080p30", f"{ready:.1f} s", f"{limit:.1f} s ffmpeg", ready / limit),
    ]


async def first_segment(person: Person, video: str) -> float:
    """The time when the first segment of the smallest rendition has been fetched."""
    while True:
        master = await person.http.get(f"/video/{video}/master.m3u8")
        if master.status_code == 200:
            playlist = next(line for line in master.text.splitlines() if line and not line.startswith("#"))
            listed = await person.http.get(f"/video/{video}/{playlist}")
            segment = next(line for line in listed.text.splitlines() if line and not line.startswith("#"))
            (await person.http.get(f"/video/{video}/{segment}")).raise_for_status()
            return time.perf_counter()
        await asyncio.sleep(0.02)


async def bench_upload(person: Person, folder: Path) -> Row:
    path = folder / "zeros.mp4"
    with path.open("wb") as file:
        file.truncate(UPLOAD_BYTES)
    target = folder / "dd"
    begun = time.perf_counter()
    command = ["dd", f"if={path}", f"of={target}", "bs=4M", "conv=fdatasync", "status=none"]
    await (await asyncio.create_subprocess_exec(*command)).wait()
    disk = UPLOAD_BYTES / (time.perf_counter() - begun) / 1e6
    target.unlink()

    created = await person.create(path.name, UPLOAD_BYTES)
    begun = time.perf_counter()
    sent = await person.send(created.headers["location"], path)
    if sent.status_code != 204:
        raise SystemExit(f"the upload failed: {sent.text}")
    through = UPLOAD_BYTES / (time.perf_counter() - begun) / 1e6
    return Row("upload through the gateway", f"{through:.0f} MB/s", f"{disk:.0f} MB/s dd fdatasync", through / disk)


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
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
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


def cpu_seconds() -> dict[str, float]:
    """From /proc, so that a client on the same cores does not count."""
    running = {name: psutil.Process(info["pid"]) for name, info in ctl.processes().items() if name in WATCHED}
    return {
        name: sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))
        for name, process in running.items()
    }


async def loaded(run: Callable[[list[float]], Awaitable[object]]) -> Load:
    found: list[float] = []
    before, begun = cpu_seconds(), time.perf_counter()
    await run(found)
    seconds, after = time.perf_counter() - begun, cpu_seconds()
    spent = {name: 1000 * (after[name] - before[name]) / len(found) for name in WATCHED}
    return Load(seconds, sorted(found), spent)


async def saturate(request: Request, *, clients: int) -> Load:
    """Each client sends its next request when it has the response."""
    async with wires(request.port, clients) as open_wires:
        end = time.perf_counter() + LOAD_SECONDS

        async def client(wire: Wire, found: list[float]) -> None:
            while (begun := time.perf_counter()) < end:
                await wire.ask(request.bytes)
                found.append(1000 * (time.perf_counter() - begun))

        return await loaded(lambda found: asyncio.gather(*(client(wire, found) for wire in open_wires)))


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


def added(loads: Sequence[Load], percent: int) -> float:
    """What ForwardAuth adds: the gateway's share of a guarded route, minus that of a public one."""
    direct_open, direct_signed, gateway_open, gateway_signed = (load.at(percent) for load in loads)
    return (gateway_signed - direct_signed) - (gateway_open - direct_open)


async def bench_forward_auth(person: Person) -> list[Row]:
    # A nonexistent path is the only route without ForwardAuth and without throttling.
    open_route, signed_route = "/nowhere", "/user/profile"
    identity = {"X-User-Id": person.id, "X-Session-Id": "01890000-0000-7000-8000-000000000000"}
    verify = Request.of(AUTH_PORT, "/user/token_verify", person.headers)
    signed = Request.of(GATEWAY_PORT, signed_route, person.headers)
    requests = [
        Request.of(AUTH_PORT, open_route, {}),
        Request.of(AUTH_PORT, signed_route, identity),
        Request.of(GATEWAY_PORT, open_route, {}),
        signed,
    ]

    def row(what: str, loads: Sequence[Load]) -> Row:
        p50, p99 = added(loads, 50), added(loads, 99)
        hop = loads[2].at(50) - loads[0].at(50)
        return Row(what, f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", f"{hop:.2f} ms gateway hop", p50 / hop)

    await one_by_one([*requests, verify])  # warm-up
    *alone, verify_alone = await one_by_one([*requests, verify])
    busy = (await saturate(signed, clients=CLIENTS)).rate / 2
    half = [await at_rate(request, busy) for request in requests]
    most = await saturate(verify, clients=CLIENTS)
    verify_half = await at_rate(verify, most.rate / 2)
    return [
        row("ForwardAuth adds, one client", alone),
        row(f"ForwardAuth adds, at {busy:.0f}/s", half),
        *(
            Row(
                f"GET /user/token_verify, {what}",
                f"p50 {load.at(50):.2f} ms, p99 {load.at(99):.2f} ms",
                f"{alone[0].at(50):.2f} ms open route",
                load.at(50) / alone[0].at(50),
            )
            for what, load in (("one client", verify_alone), (f"at {most.rate / 2:.0f}/s", verify_half))
        ),
        Row(
            f"GET /user/token_verify, {CLIENTS} clients",
            f"{most.rate:.0f}/s, {most.cpu['auth']:.2f} ms CPU",
            f"{1000 / most.cpu['auth']:.0f}/s of one core",
            most.rate * most.cpu["auth"] / 1000,
        ),
    ]


async def bench_graphql(person: Person, video: str) -> list[Row]:
    body = {"query": NESTED, "variables": {"id": global_id("Media", video)}}
    nested = Request.of(GATEWAY_PORT, "/graphql", person.headers, body)
    await saturate(nested, clients=CLIENTS)  # warm-up
    public = await saturate(Request.of(GATEWAY_PORT, "/nowhere", {}), clients=CLIENTS)
    load = await saturate(nested, clients=CLIENTS)
    cpu = sum(load.cpu.values())
    return [
        Row(
            f"nested query, {CLIENTS} clients",
            f"{load.rate:.0f}/s, p50 {load.at(50):.0f} ms",
            f"{public.rate:.0f}/s open route",
            load.rate / public.rate,
        ),
        *(
            Row(f"  CPU of {name}", f"{spent:.2f} ms", f"{cpu:.1f} ms of all", spent / cpu)
            for name, spent in load.cpu.items()
        ),
    ]


async def main() -> None:
    table = Table("benchmark", "measured", "limit in the same run", "ratio", box=None)
    with tempfile.TemporaryDirectory() as folder, console.status("measuring") as status:
        async with register() as person:
            status.update("measuring ForwardAuth")
            rows = await bench_forward_auth(person)
            status.update("measuring GraphQL")
            video = await person.upload(make("short", Path(folder)).path)
            await person.outcome(video)
            rows += await bench_graphql(person, video)
            status.update("measuring the upload")
            rows.append(await bench_upload(person, Path(folder)))
            status.update("measuring the transcode (a few minutes)")
            rows += await bench_transcode(person, Path(folder))
    for row in rows:
        table.add_row(row.what, row.measured, row.limit, f"{row.ratio:.2f}")
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
