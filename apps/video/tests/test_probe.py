"""Probing of sources from various containers and cameras."""

import functools
import http.server
import struct
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from kinora_kit.testing import served
from kinora_video.probe import SourceRejected, probe
from kinora_video.sandbox import ToolFailed

MakeClip = Callable[..., Path]

H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
SOUND = ["-f", "lavfi", "-i", "sine=d=2:r=44100", "-c:a", "aac"]


def picture(size: str = "320x180", rate: str = "25", seconds: float = 2) -> list[str]:
    return ["-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d={seconds}"]


@pytest.fixture
def address(make_clip: MakeClip) -> Iterator[str]:
    """The clips' folder over HTTP, without ranges, so the index must be at the start of the file."""
    folder = make_clip("plain.mp4", *picture(), *SOUND, *H264, "-movflags", "+faststart").parent

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def test_probe_describes_a_source(make_clip: MakeClip) -> None:
    clip = make_clip("plain.mp4", *picture(), *SOUND, *H264, "-movflags", "+faststart")

    source = await probe(served(clip))

    assert source.container == "mov"
    assert source.size == clip.stat().st_size
    assert source.duration == pytest.approx(2.0)
    assert (source.width, source.height, source.pixel_format) == (320, 180, "yuv420p")
    assert (source.frame_rate, source.variable_frame_rate) == (Fraction(25), False)
    assert (source.video_codec, source.audio_codec) == ("h264", "aac")
    assert (source.has_audio, source.audio_channels, source.audio_rate) == (True, 1, 44100)
    assert source.seekable


async def test_probe_reads_over_http(address: str, make_clip: MakeClip) -> None:
    clip = make_clip("plain.mp4", *picture(), *SOUND, *H264, "-movflags", "+faststart")

    assert await probe(f"{address}/plain.mp4") == await probe(served(clip))


async def test_probe_can_be_retried_if_the_source_cannot_be_fetched(address: str) -> None:
    for url in (f"{address}/nothing.mp4?signature=secret", "http://127.0.0.1:9/plain.mp4?signature=secret"):
        with pytest.raises(ToolFailed) as failed:
            await probe(url)
        assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("name", "arguments", "container", "seekable"),
    [
        ("plain.mkv", [*H264], "matroska", True),
        ("plain.webm", ["-c:v", "libvpx", "-deadline", "realtime"], "matroska", True),
        ("plain.ts", [*H264], "mpegts", False),
        ("plain.avi", ["-c:v", "mpeg4"], "avi", False),
        ("plain.flv", [*H264], "flv", False),
        ("plain.mpg", ["-c:v", "mpeg2video"], "mpeg", False),
        ("plain.ogv", ["-c:v", "libtheora"], "ogg", False),
        ("plain.wmv", ["-c:v", "wmv2"], "asf", False),
    ],
)
async def test_probe_of_each_container(
    name: str, arguments: list[str], container: str, seekable: bool, make_clip: MakeClip
) -> None:
    source = await probe(served(make_clip(name, *picture(), *arguments)))

    assert (source.container, source.seekable) == (container, seekable)
    assert (source.width, source.height) == (320, 180)
    assert source.duration == pytest.approx(2.0, abs=0.1)
    assert source.frame_rate == pytest.approx(25, rel=0.03)


async def test_recording_without_a_duration_is_measured(make_clip: MakeClip) -> None:
    arguments = ["-c:v", "libvpx", "-deadline", "realtime", "-live", "1"]
    source = await probe(served(make_clip("recorded.webm", *picture(), *arguments)))

    assert source.duration == pytest.approx(2.0, abs=0.05)
    assert source.frame_rate == pytest.approx(25, rel=0.03)
    assert not source.seekable


async def test_size_of_non_square_pixels_is_the_displayed_one(make_clip: MakeClip) -> None:
    source = await probe(served(make_clip("pal.mp4", *picture("720x576"), "-vf", "setsar=64/45", *H264)))

    assert (source.width, source.height) == (1024, 576)


@pytest.mark.parametrize(
    ("matrix", "size"),
    [
        ((0, 1, 0, -1, 0, 0), (180, 320)),
        ((0, -1, 0, 1, 0, 0), (180, 320)),
        ((-1, 0, 0, 0, -1, 0), (320, 180)),
    ],
)
async def test_size_of_rotated_video_is_the_displayed_one(
    matrix: tuple[int, ...], size: tuple[int, int], make_clip: MakeClip, workdir: Path
) -> None:
    content = bytearray(make_clip("plain.mp4", *picture(), *SOUND, *H264, "-movflags", "+faststart").read_bytes())
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, *(n << 16 for n in matrix), 0, 0, 1 << 30)
    (workdir / "turned.mp4").write_bytes(content)

    source = await probe(served(workdir / "turned.mp4"))

    assert (source.width, source.height) == size


async def test_variable_frame_rate_is_detected(make_clip: MakeClip) -> None:
    varying = ["-vf", "select='lt(mod(n,7),3)'", "-fps_mode", "passthrough"]
    source = await probe(served(make_clip("varying.mp4", *picture("320x180", "60"), *varying, *H264)))

    assert source.variable_frame_rate
    assert source.frame_rate < 30


async def test_video_start_may_differ_from_that_of_the_container(make_clip: MakeClip) -> None:
    late = ["-itsoffset", "1.5", *picture(), *SOUND, *H264, "-map", "0:v", "-map", "1:a"]
    source = await probe(served(make_clip("late_picture.mkv", *late)))

    assert source.start_time == pytest.approx(0.0, abs=0.05)
    assert source.video_start == pytest.approx(1.5, abs=0.05)
    assert source.duration == pytest.approx(2.0, abs=0.05)


async def test_cover_art_is_not_a_video(make_clip: MakeClip) -> None:
    cover = make_clip("cover.png", *picture(), "-frames:v", "1")
    song = make_clip("song.m4a", *SOUND, "-movflags", "+faststart")
    covered = [
        "-i",
        str(song),
        "-i",
        str(cover),
        "-map",
        "0",
        "-map",
        "1",
        "-c",
        "copy",
        "-disposition:v",
        "attached_pic",
    ]

    with pytest.raises(SourceRejected) as refused:
        await probe(served(make_clip("covered.m4a", *covered)))

    assert refused.value.code == "no_video_stream"


async def test_subtitles_and_cover_art_beside_the_video_are_ignored(make_clip: MakeClip, workdir: Path) -> None:
    words = workdir / "words.srt"
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\nWords\n")
    cover = make_clip("cover.png", *picture(), "-frames:v", "1")
    video = make_clip("plain.mp4", *picture(), *SOUND, *H264, "-movflags", "+faststart")
    inputs = ["-i", str(cover), "-i", str(video), "-i", str(words), "-map", "0", "-map", "1", "-map", "2"]
    dressed = [*inputs, "-c", "copy", "-c:s", "mov_text", "-disposition:v:0", "attached_pic"]

    source = await probe(served(make_clip("dressed.mp4", *dressed)))

    assert (source.video_codec, source.frame_rate) == ("h264", Fraction(25))
