"""The data of videos, their uploads and parts: the states of a video, who may see it, and its progress.

    uploading -> processing -> playable -> ready
        any of these -> failed, deleted

Every change that is visible in the progress increments ``version``, so that clients can discard older states.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Literal, get_args
from uuid import UUID

from kinora_kit.errors import InvalidInput
from kinora_kit.identity import Caller
from kinora_video.errors import NotTheOwner, VideoNotFound

State = Literal["uploading", "processing", "playable", "ready", "failed", "deleted"]
Visibility = Literal["private", "unlisted", "public"]

VISIBILITIES: tuple[str, ...] = get_args(Visibility)
TRANSCODING: frozenset[State] = frozenset({"processing", "playable"})
STREAMING: frozenset[State] = frozenset({"playable", "ready"})
UPLOAD_EXPIRED, FILE_TOO_LARGE = "upload_expired", "file_too_large"
NEVER_WHOLE = frozenset({UPLOAD_EXPIRED, FILE_TOO_LARGE})
"""The failures of a video whose upload never completed."""
GONE: frozenset[State] = frozenset({"failed", "deleted"})


def parse_visibility(text: str) -> Visibility:
    """Raises InvalidInput."""
    if text not in VISIBILITIES:
        raise InvalidInput(f"visibility must be one of {', '.join(VISIBILITIES)}")
    return text  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Source:
    """An uploaded video as displayed: rotated by its display matrix, with square pixels.

    Times are in seconds. ``duration`` is that of the video stream; ``start_time`` is the first timestamp of the
    container and ``video_start`` that of the first frame, on the same clock. ``seekable``: seeking needs no reading up
    to the time.
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


@dataclass(frozen=True)
class Video:
    """``size`` is None while deferred, ``source`` until probed.

    ``poster`` is the key of an object below the video's prefix. ``poster_time``: the second that the owner chose for
    it, if any. ``visibility_changes``: their number so far. ``draft_id``: of the media service, if the upload was
    created with one.
    """

    id: UUID
    owner_id: UUID
    title: str
    filename: str
    size: int | None
    visibility: Visibility
    visibility_changes: int
    state: State
    bytes_received: int
    version: int
    source: Source | None
    poster: str | None
    poster_time: float | None
    failure_code: str
    failure_detail: str
    created_at: datetime
    transcoding_at: datetime | None
    draft_id: UUID | None

    def visible_to(self, caller: Caller | None) -> bool:
        return self.state != "deleted" and (self.visibility != "private" or self.owned_by(caller))

    def owned_by(self, caller: Caller | None) -> bool:
        return caller is not None and caller.user_id == self.owner_id

    def must_be_visible_to(self, caller: Caller | None) -> None:
        if not self.visible_to(caller):
            raise VideoNotFound

    def must_be_owned_by(self, caller: Caller | None) -> None:
        """Raises NotTheOwner, or VideoNotFound if the video is hidden from the caller."""
        self.must_be_visible_to(caller)
        if not self.owned_by(caller):
            raise NotTheOwner


@dataclass(frozen=True)
class Upload:
    """A tus upload: the file of a video, or a partial upload (tus, concatenation).

    ``ended``: its bytes are deleted. ``multipart_id`` is None until a hook has reported it, ``final_id`` (the video
    that uses a partial upload) until it is used.
    """

    id: UUID
    owner_id: UUID
    partial: bool
    size: int | None
    multipart_id: str | None
    ended: bool
    final_id: UUID | None


PartKind = Literal["video", "audio", "poster"]
Lane = Literal["first", "sound", "bulk"]


@dataclass(frozen=True, slots=True)
class Part:
    """Work for one worker: ``renditions`` from ``start`` to ``end`` seconds of the video (None: to its end)."""

    index: int
    kind: PartKind
    start: float
    end: float | None
    renditions: tuple[str, ...]
    lane: Lane
    segment_seconds: float


@dataclass(frozen=True)
class PlannedPart:
    part: Part
    cost: float
    progress: float
    attempts: int
    done: bool


@dataclass(frozen=True)
class StoredRendition:
    """The stored part of a rendition; ``segments`` are those from its start up to the first gap.

    ``width``, ``height`` and ``frame_rate`` (a fraction, "30000/1001") are 0 for audio. ``codecs`` is None until the
    init segment is stored. ``target_seconds``: the intended duration of a segment; ``complete``: all are stored.
    """

    name: str
    kind: Literal["video", "audio"]
    width: int
    height: int
    frame_rate: str
    codecs: str | None
    segments: Sequence["StoredSegment"]
    target_seconds: float
    complete: bool


@dataclass(frozen=True)
class StoredSegment:
    """``duration`` in seconds, ``size`` in bytes."""

    rendition: str
    part_index: int
    sequence: int
    duration: float
    size: int

    @property
    def key(self) -> str:
        return segment_key(self.rendition, self.part_index, self.sequence)


def segment_key(rendition: str, part_index: int, sequence: int) -> str:
    """Below the video's prefix. Encoding a part again gives the same keys with the same frames."""
    return f"{rendition}/{part_index:05}-{sequence:05}.m4s"


def poster_key(at: float | None) -> str:
    """The key of the poster at that second; None: of the poster that was chosen automatically."""
    return "poster.jpg" if at is None else f"poster-{round(1000 * at)}.jpg"


def init_key(rendition: str) -> str:
    return f"{rendition}/init.mp4"


def unbroken(parts: Sequence[PlannedPart], segments: Sequence[StoredSegment]) -> list[StoredSegment]:
    """The segments of one rendition from its start up to the first gap. ``parts`` are the parts of that rendition.

    The run ends with the first part that is not done, including the segments that this part has stored so far.
    """
    by_part: dict[int, list[StoredSegment]] = {}
    for segment in sorted(segments, key=lambda segment: segment.sequence):
        by_part.setdefault(segment.part_index, []).append(segment)
    run: list[StoredSegment] = []
    for planned in sorted(parts, key=lambda planned: planned.part.start):
        for expected, segment in enumerate(by_part.get(planned.part.index, ())):
            if segment.sequence != expected:
                return run
            run.append(segment)
        if not planned.done:
            return run
    return run


@dataclass(frozen=True)
class Progress:
    """Progress of the transcoding, 0 to 1, in total and per rendition."""

    whole: float
    renditions: dict[str, float]


def progress_of(parts: Sequence[PlannedPart], duration: float) -> Progress:
    """Weighted by cost in total, and by duration per rendition. Never decreases, because no part's progress does."""
    cost = sum(planned.cost for planned in parts)
    whole = sum(planned.cost * planned.progress for planned in parts) / cost if cost else 0.0
    seconds: dict[str, float] = {}
    total: dict[str, float] = {}
    for planned in parts:
        end = duration if planned.part.end is None else planned.part.end
        length = max(0.0, end - planned.part.start)
        for rendition in planned.part.renditions:
            total[rendition] = total.get(rendition, 0.0) + length
            seconds[rendition] = seconds.get(rendition, 0.0) + length * planned.progress
    return Progress(
        whole=min(1.0, whole),
        renditions={name: min(1.0, seconds[name] / total[name]) if total[name] else 0.0 for name in total},
    )


def time_left(progress: float, elapsed_seconds: float) -> float | None:
    """The estimated remaining seconds at the average speed so far; None while there is too little to extrapolate."""
    if progress < 0.02 or elapsed_seconds <= 0:
        return None
    return elapsed_seconds * (1 - progress) / progress
