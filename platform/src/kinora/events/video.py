from typing import ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from kinora_kit.events import Payload

EXCHANGE = "video"
PROGRESS_EXCHANGE = "video.progress"
"""The exchange for the progress events below, with the video's id as routing key."""

UPLOADS_EXCHANGE = "video.uploads"
"""The same events once more, with the owner's id as routing key."""

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
    draft_id: UUID | None = None
    """The draft of the media service that describes the video, if it was created with one."""


class Uploaded(_Video):
    """All bytes are in the object store."""

    type: ClassVar[str] = "video.uploaded"
    size: int


class Playable(_Video):
    """The first seconds are playable."""

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
    """A snapshot of the whole state, so that a subscriber needs no earlier message."""

    state: State
    version: int
    """Increases with every change; a smaller version is an older state."""
    bytes_received: int
    bytes_total: int
    """0 as long as it is not known."""
    progress: float
    """Transcoding progress, 0 to 1, never decreasing."""
    renditions: tuple[RenditionProgress, ...] = ()
    time_left: float | None = None
    """Estimated seconds, None while unknown."""
    failure_code: str = ""
    failure_detail: str = ""


class UploadProgressed(_Progress):
    type: ClassVar[str] = "video.upload_progressed"


class TranscodeProgressed(_Progress):
    type: ClassVar[str] = "video.transcode_progressed"
