"""Parts made apart, in any order, are one stream: every frame of the source once, at its time, and the sound with it."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import random
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kinora_video import hls
from kinora_video.encode import (
    AUDIO_RATE,
    TIMELINE_START,
    EncodedInit,
    EncodedSegment,
    EncodeFailed,
    Part,
    encode,
    plan,
    poster,
)
from kinora_video.ladder import AUDIO, Rendition, ladder
from kinora_video.probe import Source, SourceRejected, probe

MakeClip = Callable[..., Path]

AAC_FRAME = 1024 / AUDIO_RATE
TICK = 1 / 90_000
SEGMENT_SECONDS = 4

H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "3", "-g", "110", "-pix_fmt", "yuv420p"]
SOUND = ["-f", "lavfi", "-i", "sine=d=21.3:r=44100"]
AAC = ["-c:a", "aac", "-b:a", "64k"]


def picture(rate: str = "30", size: str = "640x360", seconds: float = 21.3) -> list[str]:
    return ["-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d={seconds}"]


CLIPS = {
    "thirty.mp4": [*picture(), *SOUND, *H264, *AAC],
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
    """All parts of a clip, encoded and laid out as they would be stored, with playlists over them."""

    source: Source
    renditions: tuple[Rendition, ...]
    folder: Path
    master: Path
    digests: dict[str, str]

    def playlist(self, rendition: str) -> Path:
        return self.folder / f"{rendition}.m3u8"


async def encode_part(
    part: Part, source: Source, renditions: tuple[Rendition, ...], clip: Path, folder: Path
) -> list[EncodedInit | EncodedSegment]:
    folder.mkdir()
    async with contextlib.aclosing(encode(part, source, renditions, str(clip), folder)) as files:
        return [file async for file in files]


async def encode_all(clip: Path, folder: Path) -> Encoded:
    source = await probe(str(clip))
    renditions = ladder(source)
    parts = [part for part in plan(source, renditions) if part.kind != "poster"]
    made = {}
    for part in random.Random(7).sample(parts, len(parts)):
        made[part.index] = await encode_part(part, source, renditions, clip, folder / str(part.index))

    digests = {}
    tracks: dict[str, hls.Track] = {}
    for name in (*(rendition.name for rendition in renditions), *([AUDIO] if source.has_audio else [])):
        inits = [file for index in sorted(made) for file in made[index] if is_init(file, name)]
        assert len({init.path.read_bytes() for init in inits}) == 1, "one init segment serves all parts"
        segments = [
            file
            for index in sorted(made)
            for file in made[index]
            if isinstance(file, EncodedSegment) and file.rendition == name
        ]
        stored = [hls.Segment(str(s.path.relative_to(folder)), s.duration, s.size) for s in segments]
        assert all(segment.path.stat().st_size == segment.size for segment in segments)
        digests |= {f"{name}/{s.key}": hashlib.sha256((folder / s.key).read_bytes()).hexdigest() for s in stored}
        (folder / f"{name}.m3u8").write_text(
            hls.media_playlist(
                str(inits[0].path.relative_to(folder)),
                stored,
                target_seconds=SEGMENT_SECONDS,
                complete=True,
                uri=str,
            )
        )
        tracks[name] = hls.Track(f"{name}.m3u8", inits[0].codecs, stored)
    videos = [
        hls.VideoTrack(
            tracks[r.name].key, tracks[r.name].codecs, tracks[r.name].segments, r.width, r.height, r.frame_rate
        )
        for r in renditions
    ]
    master = folder / "master.m3u8"
    master.write_text(hls.master_playlist(videos, tracks.get(AUDIO), uri=str))
    return Encoded(source, renditions, folder, master, digests)


def is_init(file: EncodedInit | EncodedSegment, rendition: str) -> bool:
    return isinstance(file, EncodedInit) and file.rendition == rendition


def read(path: Path, stream: str, entries: str) -> list[dict[str, str]]:
    """ffprobe's answer for each frame or packet; any message of a decoder fails the test."""
    kind = entries.split("=")[0]
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


@pytest.mark.parametrize("name", CLIPS)
async def test_parts_are_one_stream_with_every_frame_of_the_source(
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

    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-allowed_extensions", "ALL", "-i", encoded.master, "-map", "0", "-f", "null", "-"],
        check=True,
        capture_output=True,
    )
    assert done.stderr == b""

    if encoded.source.has_audio:
        packets = read(encoded.playlist(AUDIO), "a:0", "packet=pts_time,duration_time")
        begin = float(packets[0]["pts_time"])
        end = float(packets[-1]["pts_time"]) + float(packets[-1].get("duration_time", 0))
        assert begin == pytest.approx(TIMELINE_START, abs=AAC_FRAME + TICK)
        assert end - TIMELINE_START == pytest.approx(encoded.source.duration, abs=AAC_FRAME + TICK)
        gaps = [float(b["pts_time"]) - float(a["pts_time"]) for a, b in itertools.pairwise(packets)]
        assert gaps == pytest.approx([AAC_FRAME] * len(gaps), abs=2e-6)
