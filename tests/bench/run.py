"""``make bench``: the platform's performance, compared with the machine's limit, measured in the same run.

Figures are only meaningful relative to the limit, or to another commit's figures on the same machine.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "local")]

from client import GATEWAY, Person, register, video_id  # noqa: E402
from clips import make  # noqa: E402

from kinora_kit.testing import served  # noqa: E402
from kinora_video import encode  # noqa: E402
from kinora_video.domain import Part, PartKind, Source  # noqa: E402
from kinora_video.ladder import ladder  # noqa: E402
from kinora_video.probe import probe  # noqa: E402

REQUESTS = 400
UPLOAD_BYTES = 512 << 20
DIRECT_AUTH = "http://127.0.0.1:8101"

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


async def latencies(http: httpx.AsyncClient, url: str, headers: dict[str, str]) -> list[float]:
    """Latencies in milliseconds of REQUESTS sequential requests."""
    found = []
    for number in range(REQUESTS + 20):
        begun = time.perf_counter()
        await http.get(url, headers=headers)
        if number >= 20:  # the first ones are warm-up
            found.append(1000 * (time.perf_counter() - begun))
    return sorted(found)


async def bench_forward_auth(person: Person) -> Row:
    # A nonexistent path is the only route without ForwardAuth and without throttling.
    open_route, signed_route = "/nowhere", "/user/profile"
    headers = {"X-User-Id": person.id, "X-Session-Id": "01890000-0000-7000-8000-000000000000"}
    async with httpx.AsyncClient() as http:
        direct_open = await latencies(http, DIRECT_AUTH + open_route, {})
        direct_signed = await latencies(http, DIRECT_AUTH + signed_route, headers)
        gateway_open = await latencies(http, GATEWAY + open_route, {})
        gateway_signed = await latencies(http, GATEWAY + signed_route, person.headers)
    # The gateway's overhead on a route with ForwardAuth, minus that on one without.
    p50, p99 = (
        (gateway_signed[at] - direct_signed[at]) - (gateway_open[at] - direct_open[at])
        for at in (REQUESTS // 2, REQUESTS * 99 // 100)
    )
    hop = statistics.median(gateway_open) - statistics.median(direct_open)
    return Row(
        "ForwardAuth, added latency", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", f"{hop:.2f} ms gateway hop", p50 / hop
    )


async def main() -> None:
    table = Table("benchmark", "measured", "limit in the same run", "ratio", box=None)
    with tempfile.TemporaryDirectory() as folder, console.status("measuring") as status:
        async with register() as person:
            status.update("measuring ForwardAuth")
            rows = [await bench_forward_auth(person)]
            status.update("measuring the upload")
            rows.append(await bench_upload(person, Path(folder)))
            status.update("measuring the transcode (a few minutes)")
            rows += await bench_transcode(person, Path(folder))
    for row in rows:
        table.add_row(row.what, row.measured, row.limit, f"{row.ratio:.2f}")
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
