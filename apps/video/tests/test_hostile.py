"""Files that are not videos are rejected with a code, cannot read other files, and reach no host."""

import asyncio
import contextlib
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kinora_kit.testing import eventually, served
from kinora_video import launch, sandbox
from kinora_video.encode import encode, plan
from kinora_video.ladder import ladder
from kinora_video.probe import ACCEPTED, SourceRejected, probe
from kinora_video.sandbox import Limits

MakeClip = Callable[..., Path]

LIMITS = Limits(wall_seconds=20)
H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]


def picture(size: str = "320x180", seconds: float = 2, rate: int = 25) -> list[str]:
    return ["-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d={seconds}"]


class Listener:
    """A local host that must not be reached; counts connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    listening = Listener()
    async with await asyncio.start_server(listening.connected, "127.0.0.1", 0) as server:
        listening.port = server.sockets[0].getsockname()[1]
        yield listening


def hls_playlist(*addresses: str) -> bytes:
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:10", "#EXT-X-MEDIA-SEQUENCE:0"]
    for address in addresses:
        lines += ["#EXTINF:10.0,", address]
    return "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode()


def gab2_avi(playlist: bytes) -> bytes:
    """An AVI with a playlist in its subtitle stream (GAB2 chunk), as published for CVE-2017-9993."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    def listing(name: bytes, *chunks: bytes) -> bytes:
        return chunk(b"LIST", name + b"".join(chunks))

    def stream(kind: bytes, codec: bytes, form: bytes) -> bytes:
        header = struct.pack("<4s4sIHHIIIIIIII4H", kind, codec, 0, 0, 0, 0, 1, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0)
        return listing(b"strl", chunk(b"strh", header), chunk(b"strf", form))

    bitmap = struct.pack("<IiiHH4sIiiII", 40, 320, 180, 1, 24, b"H264", 0, 0, 0, 0, 0)
    header = struct.pack("<10I16x", 40000, 0, 0, 0x10, 1, 0, 2, 0, 320, 180)
    streams = [stream(b"vids", b"H264", bitmap), stream(b"txts", b"\0\0\0\0", b"")]
    name = "subtitle".encode("utf-16-le")
    gab2 = b"GAB2\0" + struct.pack("<HI", 2, len(name)) + name + struct.pack("<HI", 4, len(playlist)) + playlist
    return chunk(
        b"RIFF",
        b"AVI " + listing(b"hdrl", chunk(b"avih", header), *streams) + listing(b"movi", chunk(b"01tx", gab2)),
    )


def huge_png() -> bytes:
    """A PNG of 60000 x 60000 pixels in a few bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


NOT_VIDEOS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty_file"),
    "text": (b"This is a text, and not a video.\n" * 50, "not_a_video"),
    "random": (os.urandom(100_000), "not_a_video"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "not_a_video"),
    "png": (huge_png(), "not_a_video"),
    "concat": (b"ffconcat version 1.0\nfile /etc/passwd\nfile http://127.0.0.1:PORT/x.ts\n", "not_a_video"),
    "hls of a file": (hls_playlist("file:///etc/passwd"), "not_a_video"),
    "hls of a host": (hls_playlist("http://127.0.0.1:PORT/x.ts"), "not_a_video"),
    "hls by concat": (hls_playlist("concat:http://127.0.0.1:PORT/a?|file:///etc/passwd"), "not_a_video"),
    "sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video PORT RTP/AVP 96\n", "not_a_video"),
}


@pytest.mark.sample(8)
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "avi", ""])
@pytest.mark.parametrize("what", NOT_VIDEOS)
async def test_file_that_is_not_a_video_is_rejected_and_reaches_no_host(
    what: str, suffix: str, listener: Listener, workdir: Path
) -> None:
    content, code = NOT_VIDEOS[what]
    path = workdir / f"source.{suffix}"
    path.write_bytes(content.replace(b"PORT", str(listener.port).encode()))

    with pytest.raises(SourceRejected) as refused:
        await probe(served(path))

    assert refused.value.code == code
    assert refused.value.detail.endswith(".")
    assert listener.connections == 0


async def test_playlist_in_the_subtitles_of_an_avi_is_not_followed(listener: Listener, workdir: Path) -> None:
    playlist = hls_playlist("file:///etc/passwd", f"http://127.0.0.1:{listener.port}/x.ts")
    path = workdir / "source.avi"
    path.write_bytes(gab2_avi(playlist))

    with contextlib.suppress(SourceRejected):
        source = await probe(served(path))
        async for _ in encode(plan(source, ladder(source))[-1], source, ladder(source), served(path), workdir):
            pass

    assert listener.connections == 0


async def test_data_reference_of_a_quicktime_file_is_not_followed(
    listener: Listener, make_clip: MakeClip, workdir: Path
) -> None:
    """A `url ` reference instead of "in this file" (ISO 14496-12, 8.7.2)."""
    content = make_clip("plain.mp4", *picture(), *H264).read_bytes()
    inside = struct.pack(">I4sI", 12, b"url ", 1)
    outside = struct.pack(">I4sI", 12, b"url ", 0)
    path = workdir / "source.mp4"
    path.write_bytes(content.replace(inside, outside))

    await probe(served(path))

    assert listener.connections == 0


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("still.gif", [*picture(), "-frames:v", "1"], "not_a_video"),
        ("still.jpg", [*picture(), "-frames:v", "1"], "not_a_video"),
        ("one_frame.mp4", [*picture(), "-frames:v", "1", *H264], "not_a_video"),
        ("sound.mp4", ["-f", "lavfi", "-i", "sine=d=2", "-c:a", "aac"], "no_video_stream"),
        ("line.mp4", [*picture("16x9000", 0.2), *H264], "too_large_dimensions"),
        ("ffv1.mkv", [*picture(), "-c:v", "ffv1"], "unsupported_codec"),
        ("fast.mp4", [*picture("64x64", 0.2, 1000), *H264], "frame_rate_too_high"),
    ],
)
async def test_unsupported_video_is_rejected(name: str, arguments: list[str], code: str, make_clip: MakeClip) -> None:
    with pytest.raises(SourceRejected) as refused:
        await probe(served(make_clip(name, *arguments)))

    assert refused.value.code == code


async def test_video_of_1_by_65535_pixels_is_rejected(make_clip: MakeClip, workdir: Path) -> None:
    content = make_clip("plain_mpeg4.avi", *picture(), "-c:v", "wmv1").read_bytes()
    path = workdir / "source.avi"
    path.write_bytes(content.replace(struct.pack("<ii", 320, 180), struct.pack("<ii", 1, 65535)))

    with pytest.raises(SourceRejected) as refused:
        await probe(served(path))

    assert refused.value.code == "too_large_dimensions"


async def test_size_declared_only_by_the_container_is_not_trusted(make_clip: MakeClip, workdir: Path) -> None:
    content = make_clip("plain.mp4", *picture(), *H264).read_bytes()
    path = workdir / "source.mp4"
    path.write_bytes(content.replace(struct.pack(">HH", 320, 180), struct.pack(">HH", 1, 65535)))

    source = await probe(served(path))

    assert (source.width, source.height) == (320, 180)


async def test_probe_applies_the_limits_of_the_caller(make_clip: MakeClip) -> None:
    clip = served(make_clip("plain.mp4", *picture(), *H264))

    for limits, code in [
        (replace(ACCEPTED, duration=1.0), "too_long"),
        (replace(ACCEPTED, streams=0), "too_many_streams"),
        (replace(ACCEPTED, side=300), "too_large_dimensions"),
        (replace(ACCEPTED, frame_rate=20), "frame_rate_too_high"),
    ]:
        with pytest.raises(SourceRejected) as refused:
            await probe(clip, limits)
        assert refused.value.code == code


async def test_mp4_without_its_index_is_rejected_as_truncated(make_clip: MakeClip, workdir: Path) -> None:
    content = make_clip("plain.mp4", *picture(), *H264).read_bytes()
    path = workdir / "source"
    path.write_bytes(content[: content.index(b"moov") - 4])

    with pytest.raises(SourceRejected) as refused:
        await probe(served(path))

    assert refused.value.code == "truncated"


async def test_negative_timestamps_are_encoded(make_clip: MakeClip, workdir: Path) -> None:
    clip = make_clip(
        "negative.mkv", *picture(seconds=6), *H264, "-output_ts_offset", "-2", "-avoid_negative_ts", "disabled"
    )
    source = await probe(served(clip))

    for part in plan(source, ladder(source)):
        if part.kind == "video":
            folder = workdir / str(part.index)
            folder.mkdir()
            assert [file async for file in encode(part, source, ladder(source), served(clip), folder)]


async def test_noise_in_the_middle_of_a_file_does_not_hang_ffmpeg(make_clip: MakeClip, workdir: Path) -> None:
    content = bytearray(make_clip("plain.mp4", *picture(), *H264).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5000] = os.urandom(5000)
    path = workdir / "source.mp4"
    path.write_bytes(content)

    with contextlib.suppress(SourceRejected):
        source = await probe(served(path))
        async for _ in encode(plan(source, ladder(source))[-1], source, ladder(source), served(path), workdir):
            pass


async def test_tool_has_a_minimal_environment_and_no_input() -> None:
    os.environ["KINORA_SECRET_FOR_THE_TEST"] = "secret"
    try:
        end = await sandbox.run(["sh", "-c", "export -p; exec cat"], LIMITS)
    finally:
        del os.environ["KINORA_SECRET_FOR_THE_TEST"]

    assert b"secret" not in end.stdout
    assert end.code == 0


async def test_tool_is_killed_at_its_time_and_output_limits(workdir: Path) -> None:
    slept = await sandbox.run(["sleep", "60"], replace(LIMITS, wall_seconds=2))
    spun = await sandbox.run(["sh", "-c", "while :; do :; done"], replace(LIMITS, cpu_seconds=1))
    wrote = await sandbox.run(
        ["sh", "-c", "exec cat /dev/zero > file"], replace(LIMITS, file_bytes=100_000), folder=workdir
    )
    talked = await sandbox.run(["cat", "/dev/zero"], replace(LIMITS, stdout_bytes=1000))
    ate = await sandbox.run(["dd", "if=/dev/zero", "of=/dev/null", "bs=1G"], replace(LIMITS, memory_bytes=500 << 20))

    assert (slept.timed_out, slept.code) == (True, -signal.SIGKILL)
    assert spun.code in {-signal.SIGXCPU, -signal.SIGKILL}
    assert wrote.code != 0
    assert (workdir / "file").stat().st_size == 100_000
    assert talked.code == -signal.SIGKILL
    assert "memory exhausted" in ate.stderr


def alive(marker: str) -> bool:
    """Whether any process has `marker` among its arguments."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if marker.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                return True
    return False


async def test_cancelled_task_kills_its_tool() -> None:
    task = asyncio.create_task(sandbox.run(["sleep", "61.25"], LIMITS))
    await eventually(lambda: alive("61.25"))

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not alive("61.25")


async def test_tool_is_killed_with_its_parent() -> None:
    program = (
        "import asyncio; from kinora_video import sandbox;"
        "asyncio.run(sandbox.run(['sleep', '62.25'], sandbox.Limits()))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        await eventually(lambda: alive("62.25") and not alive(launch.__file__))
    finally:
        parent.kill()
        parent.wait()

    await eventually(lambda: not alive("62.25"))
