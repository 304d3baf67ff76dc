"""The life of a video, and who may see it.

    uploading -> processing -> playable -> ready
        any of these -> failed, deleted

Every change that a viewer of the progress would see raises ``version``, so that what is older is known by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args
from uuid import UUID

from kinora_kit.identity import Caller
from kinora_video.encode import Part
from kinora_video.errors import NotTheOwner, VideoNotFound
from kinora_video.probe import Source

State = Literal["uploading", "processing", "playable", "ready", "failed", "deleted"]
Visibility = Literal["private", "unlisted", "public"]

VISIBILITIES: tuple[str, ...] = get_args(Visibility)
TRANSCODING: frozenset[State] = frozenset({"processing", "playable"})
STREAMING: frozenset[State] = frozenset({"playable", "ready"})
UPLOAD_EXPIRED, FILE_TOO_LARGE = "upload_expired", "file_too_large"
NEVER_WHOLE = frozenset({UPLOAD_EXPIRED, FILE_TOO_LARGE})
"""The failures of a video whose bytes never were all there."""
GONE: frozenset[State] = frozenset({"failed", "deleted"})


@dataclass(frozen=True)
class Video:
    """``size`` is absent as long as the client has not said it, ``source`` until probed.

    ``poster`` is the key of an object below the video's prefix. ``poster_time`` is the second that the owner chose for
    it, absent if none was. ``visibility_changes`` counts them.
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

    def visible_to(self, caller: Caller | None) -> bool:
        return self.state != "deleted" and (self.visibility != "private" or self.owned_by(caller))

    def owned_by(self, caller: Caller | None) -> bool:
        return caller is not None and caller.user_id == self.owner_id

    def must_be_visible_to(self, caller: Caller | None) -> None:
        if not self.visible_to(caller):
            raise VideoNotFound

    def must_be_owned_by(self, caller: Caller | None) -> None:
        """Raises VideoNotFound to those who may not even know of the video, NotTheOwner to the others."""
        self.must_be_visible_to(caller)
        if not self.owned_by(caller):
            raise NotTheOwner


@dataclass(frozen=True)
class Upload:
    """What takes bytes by tus: the file of a video, or a part of a file that is uploaded by itself (``partial``).

    ``ended``: nothing is left of it. ``multipart_id`` is absent until it was told to us, ``final_id`` (the video that
    a partial upload becomes a part of) until it is used.
    """

    id: UUID
    owner_id: UUID
    partial: bool
    size: int | None
    multipart_id: str | None
    ended: bool
    final_id: UUID | None


@dataclass(frozen=True)
class PlannedPart:
    part: Part
    cost: float
    progress: float
    attempts: int
    done: bool


@dataclass(frozen=True)
class StoredRendition:
    """A rendition as far as it is stored; ``segments`` are those from its beginning on, without a gap.

    ``width``, ``height`` and ``frame_rate`` (a fraction, "30000/1001") are 0 for sound. ``codecs`` is absent before its
    init segment. ``target_seconds`` is the segment length aimed at; ``complete``: there is no more to come.
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
    """Seconds and bytes."""

    rendition: str
    part_index: int
    sequence: int
    duration: float
    size: int

    @property
    def key(self) -> str:
        return segment_key(self.rendition, self.part_index, self.sequence)


def segment_key(rendition: str, part_index: int, sequence: int) -> str:
    """Below the video's prefix. The same work done again gives the same key, and the same frames."""
    return f"{rendition}/{part_index:05}-{sequence:05}.m4s"


def poster_key(at: float | None) -> str:
    """Each moment has a key of its own; without one it is the poster that was chosen by itself."""
    return "poster.jpg" if at is None else f"poster-{round(1000 * at)}.jpg"


def init_key(rendition: str) -> str:
    return f"{rendition}/init.mp4"


def unbroken(parts: Sequence[PlannedPart], segments: Sequence[StoredSegment]) -> list[StoredSegment]:
    """The segments of one rendition from its beginning up to the first gap. ``parts`` are those that make it.

    A part that is not done ends the run, but what it has stored already belongs to it.
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
    """How far the transcoding is, 0 to 1, in all and by rendition."""

    whole: float
    renditions: dict[str, float]


def progress_of(parts: Sequence[PlannedPart], duration: float) -> Progress:
    """Weighed by cost for the whole, by time for a rendition. It never falls, because no part's progress does."""
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
    """Seconds until all is done if it goes on as it did; None as long as too little has happened to tell."""
    if progress < 0.02 or elapsed_seconds <= 0:
        return None
    return elapsed_seconds * (1 - progress) / progress
