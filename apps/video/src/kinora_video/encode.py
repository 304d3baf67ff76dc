"""Encode a source in parts, so that any worker can encode any part, and encode it again.

One ffmpeg run encodes all renditions of a part and decodes it once. Parts join seamlessly because each one derives the
following from the Source alone:

* The output timeline: the source's first frame is presented at TIMELINE_START, in ticks of 1/90000 s, whatever the
  source's own clock. It does not start at zero because decode times precede the first frame (by two frames, with
  B-frames), and an MP4 fragment cannot have a negative time. There is no edit list, so that one init segment is valid
  for all parts.
* The boundaries: half a frame before the nominal times, between two frames, so that rounding cannot move a frame to the
  other part. A part decodes from a key frame before its first boundary, and the trim filter cuts exactly.
* The segments: a key frame at each segment boundary and nowhere else; the HLS muxer cuts at every key frame.
"""

import itertools
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg

from kinora_kit.errors import Unavailable
from kinora_video import feed, sandbox
from kinora_video.domain import Lane, Part, PartKind, Source
from kinora_video.ladder import AUDIO, MAX_FRAME_RATE, Rendition
from kinora_video.probe import SOURCE_OPTIONS, SourceRejected, SourceUnreachable, access_failed
from kinora_video.sandbox import Exit, Limits, OutputRefused, ToolFailed

TIMELINE_START = 10  # seconds, as in Apple's segmenter
TIMESCALE = 90_000
AUDIO_RATE = 48_000
AUDIO_KBPS = 128
POSTER_WIDTH = 1280
ENCODE_LIMITS = Limits()

# A demuxer searches for the key frame by decode time, which is up to 16 frames before its presentation time.
_SEEK_MARGIN_SECONDS = 1
_SEEK_MARGIN_FRAMES = 16
_SLOWEST = 60  # seconds of wall-clock time per second of video: four 2160p60 ladders in parallel on two cores
# For the decoder and for each encoder. By default their number grows with the cores, and each thread holds frames: a
# part of a 2160p source takes 1.8 GiB with 3, and 4.7 GiB with the defaults of 16 cores.
_THREADS = 3
_POLL_SECONDS = 0.1
_PLAYLIST_BYTES = 4 << 20  # 100 bytes per segment, for a day of segments
_INIT_BYTES = 64 << 10
_DURATION = re.compile(rb"^#EXTINF:(\d{1,6}(?:\.\d+)?),", re.MULTILINE)
_SHORTFALL_SECONDS = 2.0  # if more than this is missing of the declared duration, the source is truncated


class EncodeFailed(ToolFailed):
    """The part was not encoded, for a reason outside the source. Can be retried."""


@dataclass(frozen=True, slots=True)
class EncodedInit:
    """A rendition's init segment (the EXT-X-MAP), the same bytes from every part; `codecs` as in RFC 6381."""

    rendition: str
    path: Path
    size: int
    codecs: str


@dataclass(frozen=True, slots=True)
class EncodedSegment:
    """A finished media segment; `sequence` counts from 0 within the part, `duration` is in seconds."""

    rendition: str
    sequence: int
    duration: float
    path: Path
    size: int


def plan(
    source: Source, ladder: Sequence[Rendition], *, part_seconds: float = 12, segment_seconds: float = 4
) -> tuple[Part, ...]:
    """Split the job: first what a viewer needs first, then all renditions of each further range, in order.

    The lane "first" is for short work only. Long work has its own lanes: audio, which is always a single part, and all
    other video.

    A source is a single range, read once from its start, if its container has no reliable index or its frame rate
    varies. In the latter case, the duration of the last frame before a boundary is only known if both sides are encoded
    together, and a gap between two segments stalls a player.
    """
    names = tuple(rendition.name for rendition in ladder)
    ranges = list(_ranges(source, part_seconds, segment_seconds))
    first, *rest = ranges
    wanted: list[tuple[PartKind, tuple[float, float | None], tuple[str, ...], Lane]] = []
    if len(ranges) > 1:
        wanted.append(("video", first, names[:1], "first"))
    if source.has_audio:
        wanted.append(("audio", (0, None), (AUDIO,), "sound"))
    wanted.append(("poster", (0, None), (), "first"))
    if len(ranges) == 1:
        wanted.append(("video", first, names, "first" if source.duration <= part_seconds else "bulk"))
    elif names[1:]:
        wanted.append(("video", first, names[1:], "bulk"))
    wanted += [("video", span, names, "bulk") for span in rest]
    return tuple(
        Part(index, kind, start, end, renditions, lane, segment_seconds)
        for index, (kind, (start, end), renditions, lane) in enumerate(wanted)
    )


def _ranges(source: Source, part_seconds: float, segment_seconds: float) -> Iterator[tuple[float, float | None]]:
    """The first segment, then parts of `part_seconds`; a short remainder is added to the last one."""
    start, end = 0.0, segment_seconds
    divisible = source.seekable and not source.variable_frame_rate
    while divisible and source.duration - end >= segment_seconds / 2:
        yield start, end
        start, end = end, end + part_seconds
    yield start, None


async def encode(
    part: Part,
    source: Source,
    ladder: Sequence[Rendition],
    url: str,
    workdir: Path,
    *,
    on_progress: Callable[[float], None] = lambda seconds: None,
    limits: Limits = ENCODE_LIMITS,
) -> AsyncGenerator[EncodedInit | EncodedSegment, None]:
    """Encode a video or audio part into `workdir`, an empty folder, and yield each file as soon as it is finished.

    A rendition's init segment precedes its first segment. `on_progress` receives the seconds of the part that are
    finished in all its renditions. Close the generator (contextlib.aclosing) to stop early; ffmpeg has ended when that
    returns.

    Raises SourceRejected (truncated, unreadable) for a damaged source, SourceUnreachable if it could not be read,
    Unavailable if other runs use the memory that it needs, and EncodeFailed otherwise.
    """
    expected = (source.duration if part.end is None else min(part.end, source.duration)) - part.start
    limits = replace(limits, wall_seconds=max(limits.wall_seconds, expected * _SLOWEST))
    outputs = [_Output(name, workdir) for name in part.renditions]
    async with sandbox.start(_command(part, source, ladder), limits, folder=workdir, source=url) as process:
        end = None
        while end is None:
            end = await process.poll(_POLL_SECONDS)
            for file in _finished(outputs):
                yield file
            on_progress(min(output.seconds for output in outputs))
    done = min(output.seconds for output in outputs)
    _judge(end, source, missing=expected - done)
    if done == 0 and part.start == 0:
        raise SourceRejected("unreadable", "The video or audio of the file cannot be decoded.")


async def poster(
    source: Source, url: str, workdir: Path, *, at: float | None = None, limits: Limits = ENCODE_LIMITS
) -> Path:
    """A JPEG of the frame `at` that second, at most POSTER_WIDTH wide.

    By default the most representative of 50 frames, from a tenth of the duration on. Raises the errors of `encode`.
    """
    scale = min(Fraction(1), Fraction(POSTER_WIDTH, source.width))
    if at is None:
        position = source.duration / 10 if source.seekable else 0.0
        chosen = _input(_seek(source, position)).video
    else:
        last = max(0.0, source.duration - 2 * _half_frame(source))
        begin = source.video_start + min(at, last) - _half_frame(source)
        chosen = _input(_seek(source, at) if source.seekable else 0.0).video.filter("trim", start=f"{begin:.6f}")
    # Scaled first, because the thumbnail filter holds 50 frames in memory.
    chosen = chosen.filter("scale", max(2, round(source.width * scale)), max(2, round(source.height * scale)))
    if at is None:
        chosen = chosen.filter("thumbnail", 50)
    stream = chosen.filter("setsar", 1).output(
        "poster.jpg", **{"frames:v": 1, "update": 1, "q:v": 3, "pix_fmt": "yuvj420p", **_CLEAN}
    )
    end = await sandbox.run(_compile(stream), limits, folder=workdir, source=url)
    path = workdir / "poster.jpg"
    _judge(end, source, missing=0.0)
    try:
        sandbox.output_size(path)
    except OutputRefused as error:
        raise EncodeFailed(str(error)) from error
    except FileNotFoundError as error:
        raise SourceRejected("unreadable", "The video of the file cannot be decoded.") from error
    return path


def _finished(outputs: Sequence["_Output"]) -> list[EncodedInit | EncodedSegment]:
    try:
        return list(itertools.chain.from_iterable([output.finished() for output in outputs]))
    except (OutputRefused, FileNotFoundError) as error:
        raise EncodeFailed(f"ffmpeg's files do not match its playlist: {error}") from error


class _Output:
    """One rendition's files, found through the playlist, which ffmpeg replaces after each finished segment."""

    def __init__(self, rendition: str, workdir: Path) -> None:
        self.seconds = 0.0
        self._rendition = rendition
        self._workdir = workdir
        self._sequence = 0

    def finished(self) -> Iterator[EncodedInit | EncodedSegment]:
        """The files finished since the last call."""
        try:
            playlist = sandbox.read_output(self._workdir / f"{self._rendition}.m3u8", limit=_PLAYLIST_BYTES)
        except FileNotFoundError:
            return
        durations = [float(duration) for duration in _DURATION.findall(playlist)]
        for duration in durations[self._sequence :]:
            if self._sequence == 0:
                init = self._workdir / f"{self._rendition}-init.mp4"
                content = sandbox.read_output(init, limit=_INIT_BYTES)
                yield EncodedInit(self._rendition, init, len(content), codecs(content))
            path = self._workdir / f"{self._rendition}-{self._sequence}.m4s"
            yield EncodedSegment(self._rendition, self._sequence, duration, path, sandbox.output_size(path))
            self._sequence += 1
            self.seconds += duration


def codecs(init: bytes) -> str:
    """The RFC 6381 codec of an init segment: avc1.PPCCLL from the AVC configuration, or AAC-LC."""
    position = init.find(b"avcC")
    if position >= 0:
        return f"avc1.{init[position + 5 : position + 8].hex()}"  # after the version: profile, constraints, level
    return "mp4a.40.2"


_CLEAN = {"map_metadata": -1, "map_chapters": -1, "fflags": "+bitexact", "flags": "+bitexact"}

_HLS = {
    "format": "hls",
    "hls_time": 0.001,  # cut at every key frame
    "hls_list_size": 0,
    "hls_segment_type": "fmp4",
    "hls_flags": "temp_file",
    # frag_discont: keep the stream's decode times, instead of counting from the part's first packet.
    # write_btrt=0: a bit rate in the init segment would differ between parts.
    "hls_segment_options": "movflags=+frag_discont:use_editlist=0:write_btrt=0:avoid_negative_ts=disabled"
    f":video_track_timescale={TIMESCALE}",
    "avoid_negative_ts": "disabled",
    **_CLEAN,
}


def _command(part: Part, source: Source, ladder: Sequence[Rendition]) -> list[str]:
    if part.kind == "audio":
        return _compile(_audio_output(source, part))
    stream = _input(_seek(source, part.start)).video
    # Set the time base before any computation, so that all parts compute with the same numbers.
    shift = TIMELINE_START * TIMESCALE - round(source.video_start * TIMESCALE)
    stream = stream.filter("settb", f"1/{TIMESCALE}").filter("setpts", f"PTS+({shift})")
    if source.frame_rate > MAX_FRAME_RATE:
        stream = stream.filter("fps", MAX_FRAME_RATE)
    stream = stream.filter("trim", **_borders(part, source))
    renditions = [rendition for rendition in ladder if rendition.name in part.renditions]
    streams = stream.filter_multi_output("split", len(renditions))
    outputs = [
        _video_output(streams.stream(number), rendition, part, source) for number, rendition in enumerate(renditions)
    ]
    return _compile(ffmpeg.merge_outputs(*outputs))


def _video_output(stream: Any, rendition: Rendition, part: Part, source: Source) -> Any:
    return (
        stream.filter("scale", rendition.width, rendition.height, flags="bicubic")
        .filter("setsar", 1)
        .filter("format", "yuv420p")
        .output(
            f"{rendition.name}.m3u8",
            **_HLS,
            **_names(rendition.name),
            **{
                "c:v": "libx264",
                "threads": _THREADS,
                "preset": rendition.preset,
                "profile:v": "high",
                "crf": rendition.crf,
                "maxrate": f"{rendition.peak_kbps}k",
                "bufsize": f"{2 * rendition.peak_kbps}k",
                "fps_mode": "passthrough",
                "enc_time_base": f"1/{TIMESCALE}",
                "force_key_frames": f"expr:{_key_frames(part, source)}",
                "g": 1_000_000,
                "sc_threshold": 0,
                # The muxer uses packet durations, which would otherwise only be estimated from the frame rate.
                "bsf:v": "setts=pts=PTS:dts=DTS:duration='if(eq(NEXT_DTS,NOPTS),DURATION,NEXT_DTS-DTS)'",
                # With B-frames, decode times must precede a frame by the duration of its successors, which is unbounded
                # in screen recordings without motion.
                **({"bf": 0} if source.variable_frame_rate else {}),
            },
        )
    )


def _audio_output(source: Source, part: Part) -> Any:
    """Audio that starts and ends with the video: cut if it is longer, padded with silence if it is shorter."""
    return (
        _input(0.0)
        .audio.filter("asetpts", f"PTS-({source.video_start})/TB")
        .filter("aresample", AUDIO_RATE, **{"async": 1, "first_pts": 0})
        .filter("aformat", channel_layouts="stereo", sample_fmts="fltp")
        .filter("apad")
        .filter("atrim", end=source.duration)
        .filter("asetpts", f"PTS+{TIMELINE_START}/TB")
        .output(
            f"{AUDIO}.m3u8",
            **{**_HLS, "hls_time": part.segment_seconds},
            **_names(AUDIO),
            **{"c:a": "aac", "b:a": f"{AUDIO_KBPS}k"},
        )
    )


def _names(rendition: str) -> dict[str, str]:
    return {"hls_fmp4_init_filename": f"{rendition}-init.mp4", "hls_segment_filename": f"{rendition}-%d.m4s"}


def _borders(part: Part, source: Source) -> dict[str, str]:
    """The trim filter's arguments. The first part starts, and the last one ends, with the stream itself."""
    borders = {"start": part.start if part.start > 0 else None, "end": part.end}
    return {
        name: f"{TIMELINE_START + time - _half_frame(source):.6f}" for name, time in borders.items() if time is not None
    }


def _key_frames(part: Part, source: Source) -> str:
    """Forces a key frame at the first frame of each segment; `t` counts from the part's first frame.

    A range that is not a whole number of frames may have one frame more than its nominal duration. It is added to the
    part's last segment, instead of making a segment of one frame.
    """
    last = "INF" if part.end is None else round((part.end - part.start) / part.segment_seconds) - 1
    number = f"min(floor(({{}}+{_half_frame(source):.6f})/{part.segment_seconds}),{last})"
    return f"if(isnan(prev_forced_t),1,gt({number.format('t')},{number.format('prev_forced_t')}))"


def _half_frame(source: Source) -> float:
    return float(1 / (2 * min(source.frame_rate, Fraction(MAX_FRAME_RATE))))


def _seek(source: Source, position: float) -> float:
    """Where to start reading, in seconds from the container's first timestamp, so that `position` decodes correctly."""
    margin = max(_SEEK_MARGIN_SECONDS, _SEEK_MARGIN_FRAMES / float(source.frame_rate))
    return max(0.0, source.video_start - source.start_time + position - margin)


def _input(seek: float) -> Any:
    options: dict[str, Any] = {**SOURCE_OPTIONS, "threads": _THREADS}
    if seek > 0:
        options |= {"ss": f"{seek:.6f}", "noaccurate_seek": None}
    return ffmpeg.input(feed.URL, **options)


def _compile(stream: Any) -> list[str]:
    # Including warnings, because ffmpeg reports an HTTP error in the middle of a file as one.
    argv: list[str] = stream.global_args("-hide_banner", "-v", "warning", "-nostdin", "-copyts").compile()
    return argv


def _judge(end: Exit, source: Source, *, missing: float) -> None:
    """Raise if ffmpeg failed, or if too many seconds of the declared duration are `missing`."""
    message = end.stderr.strip()
    cut = "partial file" in end.stderr or "ended prematurely" in end.stderr
    # Even if ffmpeg succeeded: audio is padded with silence, and the last frames could be missing.
    if access_failed(end.stderr):
        raise SourceUnreachable(f"the source could not be read: {message}")
    if end.timed_out:
        raise EncodeFailed("ffmpeg took too long and was stopped")
    if end.out_of_memory:
        raise EncodeFailed("ffmpeg used more memory than the worker has, and was stopped")
    if end.crowded_out:
        raise Unavailable("The worker's memory is used by its other parts")
    if end.code == 0 and missing <= _SHORTFALL_SECONDS:
        return
    # In a video without motion, the last frame may last for any time, so a shortfall alone proves nothing. Matroska
    # declares a constant rate even for such sources.
    constant = not source.variable_frame_rate and source.container != "matroska"
    if cut or (end.code == 0 and constant):
        raise SourceRejected("truncated", "The file is incomplete: its video or audio ends too early.")
    if end.code > 0 and "Invalid data found" in end.stderr:
        raise SourceRejected("unreadable", "The file is damaged and cannot be decoded.")
    if end.code != 0:
        raise EncodeFailed(f"ffmpeg ended with {end.code}: {message}")
