"""What a source is, found by ffprobe within limits; and the refusal of everything that is not a video.

A file is a video only by what it contains: demuxers, decoders and protocols are allow-lists, so a playlist or a script
under a video's name is not even opened (the HLS-in-AVI and concat readings of local files, PHDays 2017).
"""

import json
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kinora_video import feed, sandbox
from kinora_video.sandbox import Limits, ToolFailed

_SEEKABLE = frozenset({"mov", "matroska"})  # containers whose index can be trusted to find a time
# In ffmpeg's own notation, to be handed to it as they are.
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
# May stand beside the picture and are not used: ffprobe opens every stream's decoder, and fails when it may not.
_COMPANIONS = "png,bmp,mov_text,subrip,srt,ass,ssa,webvtt,text,dvdsub,dvbsub,pgssub,cc_dec"
# Decoders whose names differ from their codecs'.
_DECODERS = "libdav1d,libaom-av1,flv,mp1float,mp2float,mp3float,dca,libopus,libvorbis,libspeex,amrnb,amrwb"

_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})  # how an MP4 or QuickTime file begins

_CLOCK = re.compile(r"(\d{1,6}):(\d\d):(\d\d(?:\.\d+)?)")

_PROBE = Limits(memory_bytes=2 << 30, cpu_seconds=30, wall_seconds=60.0, file_bytes=0)
_NETWORK_TIMEOUT_MICROSECONDS = 15_000_000

# 416 is a range beyond the end of the file, which is how a file that was cut short answers.
_ACCESS_ERROR = re.compile(
    "HTTP error (?!416)|Server returned|Connection (refused|reset|timed out)|Failed to resolve"
    "|Stream ends prematurely|Input/output error|Permission denied"
)


class SourceRejected(Exception):
    """The source cannot become a video, however often it is tried.

    `code` is stable: empty_file, not_a_video, no_video_stream, truncated, too_long, too_large_dimensions,
    too_many_streams, unsupported_codec, frame_rate_too_high, unreadable. `detail` is a sentence for the owner.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """What is accepted: seconds, pixels, frames per second and numbers of streams."""

    duration: float = 12 * 3600.0
    side: int = 8192
    pixels: int = 8192 * 4320
    frame_rate: int = 300
    streams: int = 32


ACCEPTED = SourceLimits()


@dataclass(frozen=True, slots=True)
class Source:
    """A video as it will be seen: turned as its display matrix says, with square pixels.

    Times are seconds. `duration` is that of the video stream; `start_time` is the container's first timestamp and
    `video_start` the first frame's, on the same clock. `seekable`: a time can be found without reading up to it.
    """

    container: str
    size: int | None
    duration: float
    start_time: float
    video_start: float
    seekable: bool
    video_codec: str
    width: int
    height: int
    pixel_format: str
    frame_rate: Fraction
    variable_frame_rate: bool
    audio_codec: str | None
    audio_channels: int
    audio_rate: int

    @property
    def has_audio(self) -> bool:
        return self.audio_codec is not None


SOURCE_OPTIONS = {
    "format_whitelist": _DEMUXERS,
    "codec_whitelist": f"{_VIDEO_CODECS},{_AUDIO_CODECS},{_COMPANIONS},{_DECODERS}",
    "protocol_whitelist": "http,tcp",
    "rw_timeout": str(_NETWORK_TIMEOUT_MICROSECONDS),
    "reconnect": "1",
    "reconnect_delay_max": "5",
}
"""ffmpeg's input options, with which it opens nothing but the source."""


class SourceUnreachable(ToolFailed):
    """The way to the source failed and not the source: wait for it, and hold it against nobody."""


def access_failed(stderr: str) -> bool:
    """Whether a tool's messages (warnings too) tell of the way to the source and not of the source."""
    return _ACCESS_ERROR.search(stderr) is not None


async def probe(url: str, limits: SourceLimits = ACCEPTED) -> Source:
    """Look at the source at `url`, http or https.

    Raises SourceRejected, SourceUnreachable, or ToolFailed when it did not work this time.
    """
    answer = await _ffprobe(url)
    streams = answer.get("streams", [])
    container = answer["format"]["format_name"].split(",")[0]
    if len(streams) > limits.streams:
        raise SourceRejected(
            "too_many_streams", f"The file has {len(streams)} streams; at most {limits.streams} are accepted."
        )
    video = _first(streams, "video")
    audio = _first(streams, "audio")
    if video is None:
        raise SourceRejected("no_video_stream", "The file has no moving picture in it.")
    if video.get("codec_name") not in _VIDEO_CODECS.split(","):
        raise _unsupported("picture", video.get("codec_name", "unknown"))
    if audio is not None and audio.get("codec_name") not in _AUDIO_CODECS.split(","):
        raise _unsupported("sound", audio.get("codec_name", "unknown"))

    width, height = _display_size(video)
    if max(width, height) > limits.side or width * height > limits.pixels:
        raise SourceRejected(
            "too_large_dimensions",
            f"The picture is {width} x {height}; at most {limits.side} on a side"
            f" and {limits.pixels} pixels are accepted.",
        )

    start_time = float(answer["format"].get("start_time", 0.0))
    video_start = float(video.get("start_time", start_time))
    declared = _declared_duration(video, answer["format"], start_time, video_start)
    rate = _fraction(video.get("avg_frame_rate"))
    duration = declared
    if duration is None or not rate:
        # Recordings of a browser (WebM of a MediaRecorder) declare neither: read them through once.
        duration, frames = await _measure(url)
        rate = Fraction(frames / duration).limit_denominator(1001) if duration > 0 else Fraction(0)
    if not rate or duration <= 0 or video.get("nb_frames") == "1":
        raise SourceRejected("not_a_video", "The file is a still picture or has no length.")
    if duration > limits.duration:
        raise SourceRejected(
            "too_long",
            f"The video lasts {duration / 60:.0f} minutes; at most {limits.duration / 60:.0f} are accepted.",
        )
    if rate > limits.frame_rate:
        raise SourceRejected(
            "frame_rate_too_high",
            f"The video has {float(rate):.0f} frames per second; at most {limits.frame_rate} are accepted.",
        )
    base_rate = _fraction(video.get("r_frame_rate"))
    size = answer["format"].get("size")
    return Source(
        container=container,
        size=int(size) if size is not None else None,
        duration=duration,
        start_time=start_time,
        video_start=video_start,
        seekable=container in _SEEKABLE and declared is not None,
        video_codec=video["codec_name"],
        width=width,
        height=height,
        pixel_format=video.get("pix_fmt", "unknown"),
        frame_rate=rate,
        # r_frame_rate is the lowest rate on whose grid all timestamps lie; a camera that misses a frame in a
        # hundred still counts as constant.
        variable_frame_rate=not base_rate or abs(rate / base_rate - 1) > Fraction(1, 100),
        audio_codec=audio["codec_name"] if audio else None,
        audio_channels=int(audio.get("channels", 0)) if audio else 0,
        audio_rate=int(audio.get("sample_rate", 0)) if audio else 0,
    )


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
        raise _unsupported("picture or sound", refused[1])
    head = await _head(url)
    if not head:
        raise SourceRejected("empty_file", "The file is empty.")
    if "moov atom not found" in end.stderr and head[4:8] in _BOXES:
        raise SourceRejected("truncated", "The file is incomplete: its index is missing.")
    if "not on whitelist" in end.stderr or "Invalid data found" in end.stderr:
        raise SourceRejected("not_a_video", "The file is not a video in a format that is accepted.")
    raise SourceRejected("unreadable", "The file could not be read as a video.")


async def _head(url: str) -> bytes:
    """The first bytes of the source, as ffmpeg's raw demuxer cuts them (at most 1 KiB)."""
    options = {"f": "data", "format_whitelist": "data"}
    end = await _ffmpeg(url, options, ["-map", "0:0", "-c", "copy", "-frames:d", "1", "-f", "data", "pipe:1"])
    if access_failed(end.stderr):
        raise SourceUnreachable("the source could not be read")
    if end.code != 0:
        raise ToolFailed("the source's beginning could not be read")
    return end.stdout


async def _measure(url: str) -> tuple[float, int]:
    """The length of the picture in seconds and its number of frames, by reading the whole source."""
    output = ["-map", "0:v:0", "-c", "copy", "-f", "null", "-", "-progress", "pipe:1", "-stats_period", "3600"]
    end = await _ffmpeg(url, {}, output)
    if access_failed(end.stderr):
        raise SourceUnreachable("the source could not be read through")
    if end.timed_out:
        raise ToolFailed("it took too long to read the source through")
    last = dict(line.split("=", 1) for line in end.stdout.decode().split() if "=" in line)
    microseconds, frames = last.get("out_time_us", ""), int(last.get("frame", "0"))
    if frames < 2 or not microseconds.isdigit():
        return 0.0, frames
    return int(microseconds) / 1e6 * frames / (frames - 1), frames  # out_time ends at the last frame's beginning


async def _ffmpeg(url: str, options: dict[str, str], output: list[str]) -> sandbox.Exit:
    given = [word for name, value in (SOURCE_OPTIONS | options).items() for word in (f"-{name}", value)]
    argv = ["ffmpeg", "-v", "warning", "-nostdin", *given, "-i", feed.URL, *output]
    return await sandbox.run(argv, _PROBE, source=url)


def _first(streams: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """The stream that players would choose; a cover picture is not a video."""
    return next(
        (
            stream
            for stream in streams
            if stream.get("codec_type") == kind and not stream.get("disposition", {}).get("attached_pic")
        ),
        None,
    )


def _unsupported(what: str, codec: str) -> SourceRejected:
    return SourceRejected("unsupported_codec", f"The {what} is coded as {codec}, which is not accepted.")


def _display_size(video: dict[str, Any]) -> tuple[int, int]:
    width, height = int(video.get("width", 0)), int(video.get("height", 0))
    if width <= 0 or height <= 0:
        raise SourceRejected("unreadable", "The picture's size cannot be found in the file.")
    width = max(1, round(width * (_fraction(video.get("sample_aspect_ratio")) or 1)))
    turned = any(abs(int(data.get("rotation", 0))) % 180 == 90 for data in video.get("side_data_list", []))
    return (height, width) if turned else (width, height)


def _declared_duration(
    video: dict[str, Any], container: dict[str, Any], start_time: float, video_start: float
) -> float | None:
    if "duration" in video:
        return float(video["duration"])
    end = video.get("tags", {}).get("DURATION")  # Matroska's, from zero to the end of the stream
    if end is not None and (parts := _CLOCK.fullmatch(end)):
        return int(parts[1]) * 3600 + int(parts[2]) * 60 + float(parts[3]) - video_start
    if "duration" in container:
        return float(container["duration"]) - (video_start - start_time)
    return None


def _fraction(text: str | None) -> Fraction:
    """ffprobe's "30000/1001" or "64:45"; zero when it is not known."""
    numerator, _, denominator = (text or "0/1").replace(":", "/").partition("/")
    if not numerator.isdigit() or not denominator.isdigit() or int(denominator) == 0:
        return Fraction(0)
    return Fraction(int(numerator), int(denominator))
