"""Parts encoded separately, in any order, form one stream: every frame once, at its time, with its audio."""

import contextlib
import http.server
import itertools
import json
import random
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kinora_kit.testing import served
from kinora_video import hls
from kinora_video.domain import Part, Source
from kinora_video.encode import (
    AUDIO_RATE,
    TIMELINE_START,
    EncodedInit,
    EncodedSegment,
    encode,
    plan,
    poster,
)
from kinora_video.ladder import AUDIO, Rendition, ladder
from kinora_video.probe import SourceRejected, SourceUnreachable, probe
from kinora_video.sandbox import ToolFailed

MakeClip = Callable[..., Path]

AAC_FRAME = 1024 / AUDIO_RATE
TICK = 1 / 90_000
SEGMENT_SECONDS = 4

H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "3", "-g", "110", "-pix_fmt", "yuv420p"]
SOUND = ["-f", "lavfi", "-i", "sine=d=21.3:r=44100"]
AAC = ["-c:a", "aac", "-b:a", "64k"]


def picture(rate: str = "30", size: str = "426x240", seconds: float = 21.3) -> list[str]:
    return ["-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d={seconds}"]


CLIPS = {
    "thirty.mp4": [*picture(size="640x360"), *SOUND, *H264, *AAC],
    "ntsc.mp4": [*picture("30000/1001"), *SOUND, *H264, *AAC],
    "film.mp4": [*picture("24000/1001"), *SOUND, *H264, *AAC],
    "open_gop.mkv": [*picture("25"), *SOUND, *H264, "-x264-params", "open-gop=1", *AAC],
    "variable.mp4": [
        *(*picture("60"), *SOUND, "-vf", "select='lt(mod(n,17),5)+not(mod(n,11))',setpts=PTS+0.004*random(7)/TB"),
        *("-fps_mode", "passthrough", "-video_track_timescale", "90000", *H264, *AAC),
    ],
    "stands_still.mkv": [
        *(*picture("30", seconds=24), "-vf", "select='lt(t,1)+between(t,7,9)+gt(t,21)'"),
        *("-fps_mode", "passthrough", *H264),
    ],
    "odd.mkv": [*picture("25", "641x361"), *SOUND, *H264, "-pix_fmt", "yuv444p", *AAC],
    "silent.mp4": [*picture("25"), *H264],
    "transport.ts": [*picture("25"), *SOUND, *H264, *AAC],
    "late.mkv": [*picture("25"), *SOUND, "-output_ts_offset", "3.5", *H264, *AAC],
    "late.ts": [*picture("25"), *SOUND, "-output_ts_offset", "3.5", *H264, *AAC],
    "late.mp4": [*picture("25"), *SOUND, "-output_ts_offset", "3.5", *H264, *AAC],
    "short_sound.mp4": [*picture("25"), "-f", "lavfi", "-i", "sine=d=9", *H264, *AAC],
    "long_sound.mp4": [*picture("25"), "-f", "lavfi", "-i", "sine=d=30", *H264, *AAC],
    "late_sound.mp4": [*picture("25"), "-itsoffset", "2.5", *SOUND, *H264, *AAC],
    "brief.mp4": [*picture("25", seconds=1), "-f", "lavfi", "-i", "sine=d=1", *H264, *AAC],
    "recorded.webm": [
        *(*picture("25", "320x180"), *SOUND, "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"),
        *("-c:a", "libvorbis", "-live", "1"),
    ],
}


@dataclass
class Encoded:
    """All parts of a clip, encoded and laid out as in the store, with their playlists."""

    source: Source
    renditions: tuple[Rendition, ...]
    folder: Path

    def playlist(self, rendition: str) -> Path:
        return self.folder / f"{rendition}.m3u8"


async def encode_part(
    part: Part, source: Source, renditions: tuple[Rendition, ...], url: str, folder: Path
) -> list[EncodedInit | EncodedSegment]:
    folder.mkdir()
    async with contextlib.aclosing(encode(part, source, renditions, url, folder)) as files:
        return [file async for file in files]


async def encode_all(clip: Path, folder: Path) -> Encoded:
    source = await probe(served(clip))
    renditions = ladder(source)
    parts = [part for part in plan(source, renditions) if part.kind != "poster"]
    made = {}
    for part in random.Random(7).sample(parts, len(parts)):
        made[part.index] = await encode_part(part, source, renditions, served(clip), folder / str(part.index))

    tracks: dict[str, hls.Track] = {}
    for name in (*(rendition.name for rendition in renditions), *([AUDIO] if source.has_audio else [])):
        files = [file for index in sorted(made) for file in made[index] if file.rendition == name]
        inits = [file for file in files if isinstance(file, EncodedInit)]
        assert len({init.path.read_bytes() for init in inits}) == 1, "one init segment is valid for all parts"
        segments = [
            hls.Segment(str(file.path.relative_to(folder)), file.duration, file.size)
            for file in files
            if isinstance(file, EncodedSegment)
        ]
        init_key = str(inits[0].path.relative_to(folder))
        (folder / f"{name}.m3u8").write_text(
            hls.media_playlist(init_key, segments, target_seconds=SEGMENT_SECONDS, complete=True, uri=str)
        )
        tracks[name] = hls.Track(f"{name}.m3u8", inits[0].codecs, segments)
    videos = [
        hls.VideoTrack(t.key, t.codecs, t.segments, width=r.width, height=r.height, frame_rate=r.frame_rate)
        for r in renditions
        for t in [tracks[r.name]]
    ]
    (folder / "master.m3u8").write_text(hls.master_playlist(videos, tracks.get(AUDIO), uri=str))
    return Encoded(source, renditions, folder)


def read(path: Path, stream: str, entries: str) -> list[dict[str, str]]:
    """ffprobe's output for each frame or packet; any decoder message fails the test."""
    kind, _, _ = entries.partition("=")
    options = ["-allowed_extensions", "ALL"] if path.suffix == ".m3u8" else []
    done = subprocess.run(
        ["ffprobe", "-v", "error", *options, "-select_streams", stream, "-show_entries", entries, "-of", "json", path],
        check=True,
        capture_output=True,
    )
    assert done.stderr == b""
    answer: list[dict[str, str]] = json.loads(done.stdout)[f"{kind}s"]
    return answer


def frame_times(path: Path) -> list[float]:
    return [float(frame["pts_time"]) for frame in read(path, "v:0", "frame=pts_time")]


def play(master: Path) -> None:
    """Decode all renditions of a master playlist; any decoder message fails the test."""
    argv = ["ffmpeg", "-v", "error", "-allowed_extensions", "ALL", "-i", str(master), "-map", "0", "-f", "null", "-"]
    assert subprocess.run(argv, check=True, capture_output=True).stderr == b""


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", CLIPS)
async def test_parts_form_one_stream_with_every_frame_of_the_source(
    name: str, make_clip: MakeClip, workdir: Path
) -> None:
    clip = make_clip(name, *CLIPS[name])
    encoded = await encode_all(clip, workdir)

    wanted = frame_times(clip)
    for rendition in encoded.renditions:
        shown = frame_times(encoded.playlist(rendition.name))
        assert len(shown) == len(wanted)
        assert all(later > earlier for earlier, later in itertools.pairwise(shown))
        assert shown[0] == pytest.approx(TIMELINE_START, abs=TICK)
        for there, here in zip(wanted, shown, strict=True):
            assert here - shown[0] == pytest.approx(there - wanted[0], abs=2 * TICK)

    play(encoded.folder / "master.m3u8")
    if encoded.source.has_audio:
        packets = read(encoded.playlist(AUDIO), "a:0", "packet=pts_time,duration_time")
        begin = float(packets[0]["pts_time"])
        end = float(packets[-1]["pts_time"]) + float(packets[-1].get("duration_time", 0))
        assert begin == pytest.approx(TIMELINE_START, abs=AAC_FRAME + TICK)
        assert end - TIMELINE_START == pytest.approx(encoded.source.duration, abs=AAC_FRAME + TICK)
        gaps = [float(b["pts_time"]) - float(a["pts_time"]) for a, b in itertools.pairwise(packets)]
        assert gaps == pytest.approx([AAC_FRAME] * len(gaps), abs=2e-6)


async def test_part_encoded_again_has_the_same_frames(make_clip: MakeClip, workdir: Path) -> None:
    clip = make_clip("thirty.mp4", *CLIPS["thirty.mp4"])
    source = await probe(served(clip))
    part = next(part for part in plan(source, ladder(source)) if part.start > 0)

    once = await encode_part(part, source, ladder(source), served(clip), workdir / "once")
    again = await encode_part(part, source, ladder(source), served(clip), workdir / "again")

    assert contents(once) == contents(again)


def contents(files: list[EncodedInit | EncodedSegment]) -> dict[str, object]:
    """What must be the same each time a part is encoded: the bytes of init segments, and the times of frames.

    Not the sizes of frames: x264's rate control depends on the timing of its threads, and in about one of sixty parts a
    frame is a few bytes larger.
    """
    inits = {file.rendition: file.path.read_bytes() for file in files if isinstance(file, EncodedInit)}
    found: dict[str, object] = dict(inits)
    for file in files:
        if isinstance(file, EncodedSegment):
            whole = file.path.with_suffix(".whole.mp4")
            whole.write_bytes(inits[file.rendition] + file.path.read_bytes())
            found[file.path.name] = read(whole, "0", "packet=pts,dts,duration,flags")
    return found


async def test_rotated_video_is_encoded_upright(make_clip: MakeClip, workdir: Path) -> None:
    clip = make_clip("turned.mp4", *picture("25", "640x360", 2), *H264)
    turn(clip)

    encoded = await encode_all(clip, workdir)

    assert [(r.name, r.width, r.height) for r in encoded.renditions] == [("240p", 240, 426), ("360p", 360, 640)]
    (stream,) = read(encoded.playlist("360p"), "v:0", "stream=width,height,sample_aspect_ratio")
    assert stream == {"width": 360, "height": 640, "sample_aspect_ratio": "1:1"}


def turn(clip: Path) -> None:
    """Rotate an MP4 by 90 degrees in its track header (ISO 14496-12, 8.3.2), as ffmpeg's option for it has changed."""
    content = bytearray(clip.read_bytes())
    matrix = content.index(b"tkhd") + 44
    struct.pack_into(">9i", content, matrix, 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    clip.write_bytes(content)


async def test_high_frame_rate_is_reduced_to_60(make_clip: MakeClip, workdir: Path) -> None:
    clip = make_clip("fast.mp4", *picture("120", "320x180", 9), *H264)

    encoded = await encode_all(clip, workdir)

    times = frame_times(encoded.playlist("180p"))
    assert len(times) == 9 * 60
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([1 / 60] * (9 * 60 - 1), abs=TICK)


async def test_segments_are_yielded_while_the_rest_is_encoded(make_clip: MakeClip, workdir: Path) -> None:
    clip = make_clip("silent.mp4", *CLIPS["silent.mp4"])
    source = await probe(served(clip))
    whole = Part(0, "video", 0, None, ("240p",), "bulk", SEGMENT_SECONDS)
    progress: list[float] = []
    files = encode(whole, source, ladder(source), served(clip), workdir, on_progress=progress.append)
    async with contextlib.aclosing(files):
        kinds = [type(await anext(files)), type(await anext(files))]
        finished = (workdir / "240p.m3u8").read_text().endswith("#EXT-X-ENDLIST\n")

    assert kinds == [EncodedInit, EncodedSegment]
    assert not finished
    assert not running_in(workdir), "closing the generator stops ffmpeg"


def running_in(folder: Path) -> list[str]:
    """The processes with this working folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == folder:
                found.append(process.name)
    return found


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
async def test_file_cut_in_the_middle_is_rejected_as_truncated(suffix: str, make_clip: MakeClip, workdir: Path) -> None:
    clip = make_clip(f"whole.{suffix}", *picture("25"), *H264, "-movflags", "+faststart")
    cut = workdir / f"cut.{suffix}"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    source = await probe(served(cut))
    assert source.duration == pytest.approx(21.3, abs=0.1)

    refused = []
    for part in plan(source, ladder(source)):
        try:
            if part.kind == "video":
                await encode_part(part, source, ladder(source), served(cut), workdir / str(part.index))
        except SourceRejected as error:
            refused.append((part.start, error.code))

    assert refused == [(4, "truncated"), (16, "truncated")]


async def test_source_that_cannot_be_fetched_is_retried(make_clip: MakeClip, workdir: Path) -> None:
    clip = make_clip("silent.mp4", *CLIPS["silent.mp4"])
    source = await probe(served(clip))
    part = plan(source, ladder(source))[0]
    nobody = "http://127.0.0.1:9/source?signature=secret"

    with pytest.raises(ToolFailed) as failed:
        async for _ in encode(part, source, ladder(source), nobody, workdir):
            pass

    assert "secret" not in str(failed.value)


class Store(http.server.BaseHTTPRequestHandler):
    """Serves ranges of `content`, and fails from byte `breaks_at` on, like a store during a restart."""

    content = b""
    breaks_at = 0

    def do_GET(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start >= min(self.breaks_at, len(self.content)):
            self.send_error(503 if start >= self.breaks_at else 416)
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(self.content[start : self.breaks_at])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def stored(content: bytes, breaks_at: int) -> Iterator[str]:
    handler = type("Handler", (Store,), {"content": content, "breaks_at": breaks_at})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/source"
        server.shutdown()


@pytest.mark.parametrize("kind", ["video", "audio"])
async def test_source_whose_connection_breaks_is_retried(kind: str, make_clip: MakeClip, workdir: Path) -> None:
    clip = make_clip("front.mp4", *picture(), *SOUND, *H264, *AAC, "-movflags", "+faststart")
    content = clip.read_bytes()
    source = await probe(served(clip))
    part = next(part for part in reversed(plan(source, ladder(source))) if part.kind == kind)

    with stored(content, breaks_at=len(content) // 2) as url, pytest.raises(SourceUnreachable):
        async for _ in encode(part, source, ladder(source), url, workdir):
            pass


async def test_truncated_file_in_the_store_is_rejected_as_truncated(make_clip: MakeClip, workdir: Path) -> None:
    clip = make_clip("front.mp4", *picture(), *SOUND, *H264, *AAC, "-movflags", "+faststart")
    content = clip.read_bytes()[: clip.stat().st_size // 2]
    source = await probe(served(clip))
    part = plan(source, ladder(source))[-1]

    with stored(content, breaks_at=len(content) + 1) as url, pytest.raises(SourceRejected) as refused:
        async for _ in encode(part, source, ladder(source), url, workdir):
            pass

    assert refused.value.code == "truncated"


async def test_ranges_of_a_file_in_the_store_are_encoded(make_clip: MakeClip, workdir: Path) -> None:
    clip = make_clip("thirty.mp4", *CLIPS["thirty.mp4"])
    content = clip.read_bytes()

    with stored(content, breaks_at=len(content) + 1) as url:
        source = await probe(url)
        part = plan(source, ladder(source))[-1]
        there = await encode_part(part, source, ladder(source), url, workdir / "there")
    here = await encode_part(part, source, ladder(source), served(clip), workdir / "here")

    assert contents(there) == contents(here)


async def test_poster_shows_the_requested_second(make_clip: MakeClip, workdir: Path) -> None:
    halves = ["-f", "lavfi", "-i", "color=black:s=320x180:d=4", "-f", "lavfi", "-i", "color=white:s=320x180:d=4"]
    clip = make_clip("halves.mp4", *halves, "-filter_complex", "concat", *H264)

    path = await poster(await probe(served(clip)), served(clip), workdir, at=4.0)

    argv = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    shown = subprocess.run(argv, check=True, capture_output=True)
    assert min(shown.stdout) > 250


async def test_poster_has_the_aspect_ratio_of_the_video(make_clip: MakeClip, workdir: Path) -> None:
    clip = make_clip("wide.mp4", *picture("25", "1920x800", 3), *H264)

    path = await poster(await probe(served(clip)), served(clip), workdir)

    (stream,) = read(path, "v:0", "stream=codec_name,width,height")
    assert stream == {"codec_name": "mjpeg", "width": 1280, "height": 533}


async def test_plan_starts_with_what_a_viewer_needs_first(make_clip: MakeClip) -> None:
    source = await probe(served(make_clip("thirty.mp4", *CLIPS["thirty.mp4"])))
    both = ("240p", "360p")

    parts = plan(source, ladder(source))

    assert [(p.kind, p.start, p.end, p.renditions, p.lane) for p in parts] == [
        ("video", 0, 4, ("240p",), "first"),
        ("audio", 0, None, (AUDIO,), "sound"),
        ("poster", 0, None, (), "first"),
        ("video", 0, 4, ("360p",), "bulk"),
        ("video", 4, 16, both, "bulk"),
        ("video", 16, None, both, "bulk"),
    ]
    unseekable = plan(replace(source, seekable=False), ladder(source))
    assert [(p.start, p.end, p.lane) for p in unseekable if p.kind == "video"] == [(0, None, "bulk")]
    short = plan(replace(source, seekable=False, duration=10.0), ladder(source))
    assert [(p.start, p.end, p.lane) for p in short if p.kind == "video"] == [(0, None, "first")]
