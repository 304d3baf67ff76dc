"""HLS playlists, as text (RFC 8216bis, protocol version 7: fragmented MP4 with EXT-X-MAP).

Pure functions. A playlist lists exactly the given segments: the caller must pass stored segments only, from the first
one on without a gap.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

Uri = Callable[[str], str]
"""Maps an object's key to its URL for players, signed if necessary."""

_AUDIO_GROUP = "audio"


@dataclass(frozen=True, slots=True)
class Segment:
    """A stored media segment: its key, its duration in seconds, its size in bytes."""

    key: str
    duration: float
    size: int


@dataclass(frozen=True, slots=True)
class Track:
    """A rendition in the master playlist; `key` is that of its media playlist."""

    key: str
    codecs: str
    segments: Sequence[Segment]


@dataclass(frozen=True, slots=True)
class VideoTrack(Track):
    """A video rendition, in pixels and frames per second."""

    width: int
    height: int
    frame_rate: Fraction


def media_playlist(
    init_key: str, segments: Sequence[Segment], *, target_seconds: float, complete: bool, uri: Uri
) -> str:
    """A rendition's playlist: a growing EVENT playlist, or VOD once `complete`.

    `target_seconds` is the intended segment duration: the target duration of a growing playlist must not change
    (4.4.3.1), so it is derived from the segments only if one of them is longer.
    """
    target = max([target_seconds, *(segment.duration for segment in segments)])
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        f"#EXT-X-TARGETDURATION:{math.floor(target + 0.5)}",
        "#EXT-X-MEDIA-SEQUENCE:0",
        f"#EXT-X-PLAYLIST-TYPE:{'VOD' if complete else 'EVENT'}",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        f'#EXT-X-MAP:URI="{uri(init_key)}"',
    ]
    for segment in segments:
        lines += [f"#EXTINF:{segment.duration:.6f},", uri(segment.key)]
    if complete:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"


def master_playlist(videos: Sequence[VideoTrack], audio: Track | None, *, uri: Uri) -> str:
    """The list of renditions; bit rates are measured over the given segments, including audio."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-INDEPENDENT-SEGMENTS"]
    if audio is not None:
        lines.append(
            f'#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="{_AUDIO_GROUP}",NAME="Audio",DEFAULT=YES,AUTOSELECT=YES'
            f',CHANNELS="2",URI="{uri(audio.key)}"'
        )
    sound = [] if audio is None else [audio]
    for video in videos:
        tracks = [video, *sound]
        attributes = [
            f"BANDWIDTH={sum(map(_peak_rate, tracks))}",
            f"AVERAGE-BANDWIDTH={sum(map(_average_rate, tracks))}",
            f"RESOLUTION={video.width}x{video.height}",
            f"FRAME-RATE={float(video.frame_rate):.3f}",
            f'CODECS="{",".join(track.codecs for track in tracks)}"',
            *([f'AUDIO="{_AUDIO_GROUP}"'] if sound else []),
        ]
        lines += [f"#EXT-X-STREAM-INF:{','.join(attributes)}", uri(video.key)]
    return "\n".join(lines) + "\n"


def _peak_rate(track: Track) -> int:
    """The highest bit rate of any segment."""
    return max((math.ceil(8 * part.size / part.duration) for part in track.segments if part.duration > 0), default=0)


def _average_rate(track: Track) -> int:
    seconds = sum(segment.duration for segment in track.segments)
    return math.ceil(8 * sum(segment.size for segment in track.segments) / seconds) if seconds > 0 else 0
