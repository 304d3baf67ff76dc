from typing import ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from kinora_kit.events import Payload

EXCHANGE = "video"
PROGRESS_EXCHANGE = "video.progress"
"""Carries the progress events below, with the video's id as routing key, for those who watch one video."""

State = Literal["uploading", "processing", "playable", "ready", "failed", "deleted"]


class _Video(Payload):
    video_id: UUID
    owner_id: UUID

    @property
    def subject(self) -> str:
        return str(self.video_id)


class UploadStarted(_Video):
    type: ClassVar[str] = "video.upload_started"
    title: str
    filename: str
    size: int
    visibility: Literal["private", "unlisted", "public"]


class Uploaded(_Video):
    """All bytes are in the store."""

    type: ClassVar[str] = "video.uploaded"
    size: int


class Playable(_Video):
    """The first seconds play."""

    type: ClassVar[str] = "video.playable"
    duration: float
    width: int
    height: int


class Ready(_Video):
    type: ClassVar[str] = "video.ready"
    duration: float
    width: int
    height: int


class Failed(_Video):
    type: ClassVar[str] = "video.failed"
    code: str
    detail: str


class Deleted(_Video):
    type: ClassVar[str] = "video.deleted"


class RenditionProgress(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    progress: float


class _Progress(_Video):
    """The whole state at one moment, so that whoever gets one needs none before it."""

    state: State
    version: int
    """Grows with every change; what comes with a smaller one is older."""
    bytes_received: int
    bytes_total: int
    progress: float
    """Transcoding, 0 to 1, never falling."""
    renditions: tuple[RenditionProgress, ...] = ()
    time_left: float | None = None
    """Seconds, None while it cannot be told."""
    failure_code: str = ""
    failure_detail: str = ""


class UploadProgressed(_Progress):
    type: ClassVar[str] = "video.upload_progressed"


class TranscodeProgressed(_Progress):
    type: ClassVar[str] = "video.transcode_progressed"
