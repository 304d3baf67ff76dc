"""Upload and transcode, compared with the disk and with ffmpeg."""

import asyncio
import tempfile
import time
from pathlib import Path

from client import Person, register, video_id
from clips import make
from measure import Row

from kinora_kit.testing import served
from kinora_video import encode
from kinora_video.domain import Part, PartKind, Source
from kinora_video.ladder import ladder
from kinora_video.probe import probe

UPLOAD_BYTES = 512 << 20


async def bench(folder: Path) -> list[Row]:
    async with register() as person:
        return [await bench_upload(person, folder), *await bench_transcode(person, folder)]


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
