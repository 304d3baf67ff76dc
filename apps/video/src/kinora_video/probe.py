"""Probes a source with ffprobe, within limits, and rejects everything that is not a video.

Only the content of a file decides: demuxers, decoders and protocols are allow-listed, so a playlist or script with the
name of a video is not even opened (reading local files by HLS in AVI, or by concat: PHDays 2017).
"""

import json
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kinora_video import feed, sandbox
from kinora_video.domain import Source
from kinora_video.sandbox import Limits, ToolFailed

_SEEKABLE = frozenset({"mov", "matroska"})  # containers with a reliable index for seeking
# In ffmpeg's notation, passed to it unchanged.
_DEMUXERS = "mov,matroska,webm,mpegts,mpeg,avi,flv,ogg,asf"
_VIDEO_CODECS = (
    "h264,hevc,av1,vp8,vp9,mpeg1video,mpeg2video,mpeg4,h263,flv1,vp6,vp6f,theora,prores,dnxhd,mjpeg,dvvideo"
    ",msmpeg4v1,msmpeg4v2,msmpeg4v3,wmv1,wmv2,wmv3,vc1"
)
_AUDIO_CODECS = (
    "aac,mp1,mp2,mp3,ac3,eac3,dts,opus,vorbis,flac,alac,wmav1,wmav2,wmapro,amr_nb,amr_wb,speex,nellymoser"
    ",adpcm_ms,adpcm_ima_wav,adpcm_swf,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_f32le,pcm_u8,pcm_alaw"
    ",pcm_mulaw"
)
# Not used, but allowed beside the video: ffprobe opens the decoder of every stream, and fails if it is not allowed.
_COMPANIONS = "png,bmp,mov_text,subrip,srt,ass,ssa,webvtt,text,dvdsub,dvbsub,pgssub,cc_dec"
# Decoders whose names differ from those of their codecs.
_DECODERS = "libdav1d,libaom-av1,flv,mp1float,mp2float,mp3float,dca,libopus,libvorbis,libspeex,amrnb,amrwb"

_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})  # the first boxes of MP4 and QuickTime files

_CLOCK = re.compile(r"(\d{1,6}):(\d\d):(\d\d(?:\.\d+)?)")

_PROBE = Limits(memory_bytes=2 << 30, cpu_seconds=30, wall_seconds=60.0, file_bytes=0)
_NETWORK_TIMEOUT_MICROSECONDS = 15_000_000

# Not 416, a range beyond the end, which is the response for a truncated file.
_ACCESS_ERROR = re.compile(
    "HTTP error (?!416)|Server returned|Connection (refused|reset|timed out)|Failed to resolve"
    "|Stream ends prematurely|Input/output error|Permission denied"
)


class SourceRejected(Exception):
    """The source cannot be transcoded; retries are pointless.

    `code` is stable: empty_file, not_a_video, no_video_stream, truncated, too_long, too_large_dimensions,
    too_many_streams, unsupported_codec, frame_rate_too_high, unreadable. `detail` is a message for the owner.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """The limits of accepted sources: seconds, pixels, frames per second, number of streams."""

    duration: float = 12 * 3600.0
    side: int = 8192
    pixels: int = 8192 * 4320
    frame_rate: int = 300
    streams: int = 32


ACCEPTED = SourceLimits()


SOURCE_OPTIONS = {
    "format_whitelist": _DEMUXERS,
    "codec_whitelist": f"{_VIDEO_CODECS},{_AUDIO_CODECS},{_COMPANIONS},{_DECODERS}",
    "protocol_whitelist": "http,tcp",
    "rw_timeout": str(_NETWORK_TIMEOUT_MICROSECONDS),
    "reconnect": "1",
    "reconnect_delay_max": "5",
}
"""ffmpeg's input options, which allow it to open nothing but the source."""


class SourceUnreachable(ToolFailed):
    """The source could not be fetched, like in an outage: retried, and not counted as a failed attempt."""


def access_failed(stderr: str) -> bool:
    """Whether a tool's messages, including warnings, report a failure to fetch the source."""
    return _ACCESS_ERROR.search(stderr) is not None


_Described = dict[str, Any]
"""A stream, or the container, as described by ffprobe."""


@dataclass(frozen=True, slots=True)
class _Timing:
    """As in Source. `declared`: the file declares its duration."""

    start_time: float
    video_start: float
    duration: float
    declared: bool
    frame_rate: Fraction


async def probe(url: str, limits: SourceLimits = ACCEPTED) -> Source:
    """Probe the source at `url`, http or https.

    Raises SourceRejected, SourceUnreachable, or ToolFailed, which can be retried.
    """
    answer = await _ffprobe(url)
    container = answer["format"]
    video, audio = _choose_streams(answer.get("streams", []), limits)
    sides = _display_size(video)
    _check_size(*sides, limits)
    timing = await _timing(url, container, video)
    _check_timing(timing, video, limits)
    return _source(container, video, audio, sides, timing)


def _choose_streams(streams: list[_Described], limits: SourceLimits) -> tuple[_Described, _Described | None]:
    """The streams of video and audio that players would choose, whose codecs are accepted."""
    if len(streams) > limits.streams:
        raise SourceRejected(
            "too_many_streams", f"The file has {len(streams)} streams; at most {limits.streams} are accepted."
        )
    video, audio = _first(streams, "video"), _first(streams, "audio")
    if video is None:
        raise SourceRejected("no_video_stream", "The file has no video stream.")
    if video.get("codec_name") not in _VIDEO_CODECS.split(","):
        raise _unsupported("video", video.get("codec_name", "unknown"))
    if audio is not None and audio.get("codec_name") not in _AUDIO_CODECS.split(","):
        raise _unsupported("audio", audio.get("codec_name", "unknown"))
    return video, audio


def _check_size(width: int, height: int, limits: SourceLimits) -> None:
    if max(width, height) > limits.side or width * height > limits.pixels:
        raise SourceRejected(
            "too_large_dimensions",
            f"The video is {width} x {height}; at most {limits.side} per side and {limits.pixels} pixels are accepted.",
        )


async def _timing(url: str, container: _Described, video: _Described) -> _Timing:
    """As declared by the file, or measured; zeros if it has no duration."""
    start_time = float(container.get("start_time", 0.0))
    video_start = float(video.get("start_time", start_time))
    declared = _declared_duration(video, container, start_time, video_start)
    frame_rate = _fraction(video.get("avg_frame_rate"))
    if declared is not None and frame_rate:
        return _Timing(start_time, video_start, declared, True, frame_rate)
    # Recordings of browsers (WebM from MediaRecorder) declare neither: read the whole file once.
    duration, frames = await _measure(url)
    frame_rate = Fraction(frames / duration).limit_denominator(1001) if duration > 0 else Fraction(0)
    return _Timing(start_time, video_start, duration, declared is not None, frame_rate)


def _check_timing(timing: _Timing, video: _Described, limits: SourceLimits) -> None:
    if not timing.frame_rate or timing.duration <= 0 or video.get("nb_frames") == "1":
        raise SourceRejected("not_a_video", "The file is a still image or has no duration.")
    if timing.duration > limits.duration:
        raise SourceRejected(
            "too_long",
            f"The video is {timing.duration / 60:.0f} minutes long; at most {limits.duration / 60:.0f} are accepted.",
        )
    if timing.frame_rate > limits.frame_rate:
        raise SourceRejected(
            "frame_rate_too_high",
            f"The video has {float(timing.frame_rate):.0f} frames per second;"
            f" at most {limits.frame_rate} are accepted.",
        )


def _source(
    container: _Described, video: _Described, audio: _Described | None, sides: tuple[int, int], timing: _Timing
) -> Source:
    name, size = container["format_name"].split(",")[0], container.get("size")
    return Source(
        container=name,
        size=int(size) if size is not None else None,
        duration=timing.duration,
        start_time=timing.start_time,
        video_start=timing.video_start,
        seekable=name in _SEEKABLE and timing.declared,
        video_codec=video["codec_name"],
        width=sides[0],
        height=sides[1],
        pixel_format=video.get("pix_fmt", "unknown"),
        frame_rate=timing.frame_rate,
        variable_frame_rate=_frame_rate_varies(video, timing.frame_rate),
        audio_codec=audio["codec_name"] if audio else None,
        audio_channels=int(audio.get("channels", 0)) if audio else 0,
        audio_rate=int(audio.get("sample_rate", 0)) if audio else 0,
    )


def _frame_rate_varies(video: _Described, frame_rate: Fraction) -> bool:
    # r_frame_rate is the lowest rate that can represent all timestamps; a camera that drops one frame in a hundred
    # still counts as constant.
    lowest = _fraction(video.get("r_frame_rate"))
    return not lowest or abs(frame_rate / lowest - 1) > Fraction(1, 100)


_ENTRIES = (
    "format=format_name,duration,start_time,size"
    ":stream=codec_type,codec_name,width,height,sample_aspect_ratio,pix_fmt,avg_frame_rate,r_frame_rate"
    ",start_time,duration,nb_frames,channels,sample_rate"
    ":stream_disposition=attached_pic:stream_side_data=rotation:stream_tags=DURATION"
)


async def _ffprobe(url: str) -> Any:
    options = [word for name, value in SOURCE_OPTIONS.items() for word in (f"-{name}", value)]
    end = await sandbox.run(
        ["ffprobe", "-v", "error", "-of", "json", "-show_entries", _ENTRIES, *options, feed.URL], _PROBE, source=url
    )
    if end.code == 0:
        return json.loads(end.stdout)
    message = end.stderr.strip()
    if access_failed(end.stderr):
        raise SourceUnreachable(f"ffprobe ended with {end.code}: {message}")
    if not (message or end.timed_out):
        raise ToolFailed(f"ffprobe ended with {end.code}: {message}")
    if refused := re.search(r"Codec \((\w+)\) not on whitelist", end.stderr):
        raise _unsupported("video or audio", refused[1])
    head = await _head(url)
    if not head:
        raise SourceRejected("empty_file", "The file is empty.")
    if "moov atom not found" in end.stderr and head[4:8] in _BOXES:
        raise SourceRejected("truncated", "The file is incomplete: its index is missing.")
    if "not on whitelist" in end.stderr or "Invalid data found" in end.stderr:
        raise SourceRejected("not_a_video", "The file is not a video in a supported format.")
    raise SourceRejected("unreadable", "The file could not be read as a video.")


async def _head(url: str) -> bytes:
    """The first bytes of the source: a packet of ffmpeg's raw demuxer (at most 1 KiB)."""
    options = {"f": "data", "format_whitelist": "data"}
    end = await _ffmpeg(url, options, ["-map", "0:0", "-c", "copy", "-frames:d", "1", "-f", "data", "pipe:1"])
    if access_failed(end.stderr):
        raise SourceUnreachable("the source could not be read")
    if end.code != 0:
        raise ToolFailed("the start of the source could not be read")
    return end.stdout


async def _measure(url: str) -> tuple[float, int]:
    """The duration of the video stream in seconds and its number of frames, by reading the whole source."""
    output = ["-map", "0:v:0", "-c", "copy", "-f", "null", "-", "-progress", "pipe:1", "-stats_period", "3600"]
    end = await _ffmpeg(url, {}, output)
    if access_failed(end.stderr):
        raise SourceUnreachable("the source could not be read to its end")
    if end.timed_out:
        raise ToolFailed("reading the whole source took too long")
    last = dict(line.split("=", 1) for line in end.stdout.decode().split() if "=" in line)
    microseconds, frames = last.get("out_time_us", ""), int(last.get("frame", "0"))
    if frames < 2 or not microseconds.isdigit():
        return 0.0, frames
    return int(microseconds) / 1e6 * frames / (frames - 1), frames  # out_time ends with the start of the last frame


async def _ffmpeg(url: str, options: dict[str, str], output: list[str]) -> sandbox.Exit:
    given = [word for name, value in (SOURCE_OPTIONS | options).items() for word in (f"-{name}", value)]
    argv = ["ffmpeg", "-v", "warning", "-nostdin", *given, "-i", feed.URL, *output]
    return await sandbox.run(argv, _PROBE, source=url)


def _first(streams: list[_Described], kind: str) -> _Described | None:
    """The stream that players would choose; cover art is not a video."""
    return next(
        (
            stream
            for stream in streams
            if stream.get("codec_type") == kind and not stream.get("disposition", {}).get("attached_pic")
        ),
        None,
    )


def _unsupported(what: str, codec: str) -> SourceRejected:
    return SourceRejected("unsupported_codec", f"The codec of the {what}, {codec}, is not supported.")


def _display_size(video: _Described) -> tuple[int, int]:
    width, height = int(video.get("width", 0)), int(video.get("height", 0))
    if width <= 0 or height <= 0:
        raise SourceRejected("unreadable", "The file does not declare the size of its video.")
    width = max(1, round(width * (_fraction(video.get("sample_aspect_ratio")) or 1)))
    turned = any(abs(int(data.get("rotation", 0))) % 180 == 90 for data in video.get("side_data_list", []))
    return (height, width) if turned else (width, height)


def _declared_duration(video: _Described, container: _Described, start_time: float, video_start: float) -> float | None:
    if "duration" in video:
        return float(video["duration"])
    end = video.get("tags", {}).get("DURATION")  # Matroska: from zero to the end of the stream
    if end is not None and (parts := _CLOCK.fullmatch(end)):
        return int(parts[1]) * 3600 + int(parts[2]) * 60 + float(parts[3]) - video_start
    if "duration" in container:
        return float(container["duration"]) - (video_start - start_time)
    return None


def _fraction(text: str | None) -> Fraction:
    """Parses ffprobe's "30000/1001" or "64:45"; zero if unknown."""
    numerator, _, denominator = (text or "0/1").replace(":", "/").partition("/")
    if not numerator.isdigit() or not denominator.isdigit() or int(denominator) == 0:
        return Fraction(0)
    return Fraction(int(numerator), int(denominator))
