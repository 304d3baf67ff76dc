from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Self
from uuid import UUID

import strawberry

from kinora.events.video import TranscodeProgressed
from kinora.video.v1 import video_pb2 as pb
from kinora_graphql.costs import ListSize
from kinora_graphql.node.types import Node
from kinora_graphql.scalars import BigInt
from kinora_kit.structs import moment

if TYPE_CHECKING:
    from kinora_graphql.context import Context


@strawberry.enum
class VideoState(StrEnum):
    UPLOADING = "uploading"
    PROCESSING = "processing"
    PLAYABLE = "playable"
    READY = "ready"
    FAILED = "failed"
    DELETED = "deleted"


ENDS = frozenset({VideoState.READY, VideoState.FAILED, VideoState.DELETED})


@strawberry.type(description="Why processing a video failed.")
class Failure:
    code: str
    detail: str

    @classmethod
    def of(cls, code: str, detail: str) -> Self | None:
        return cls(code=code, detail=detail) if code else None


@strawberry.type
class Rendition:
    name: str = strawberry.field(description='"1080p", or "audio".')
    width: int | None = strawberry.field(description="Pixels; null for audio.")
    height: int | None = strawberry.field(description="Pixels; null for audio.")
    codecs: str
    average_bandwidth: BigInt = strawberry.field(description="Bits per second, averaged over the whole video.")


@strawberry.type
class Video(Node):
    state: VideoState
    duration: float | None = strawberry.field(description="Seconds; null until the source has been probed.")
    width: int | None = strawberry.field(description="Pixels of the source; null until it has been probed.")
    height: int | None = strawberry.field(description="Pixels of the source; null until it has been probed.")
    stream_url: str | None = strawberry.field(
        description="The HLS master playlist; null until the first seconds are playable."
    )
    poster_url: str | None = strawberry.field(description="A JPEG image; null until it has been made.")
    failure: Failure | None = strawberry.field(description="Null unless processing failed.")
    message: strawberry.Private[pb.Video]
    """For fields that take long to convert, and are rarely selected in lists."""

    @strawberry.field(directives=[ListSize(assumed_size=8)])
    def renditions(self) -> list[Rendition]:
        return [
            Rendition(
                name=rendition.name,
                width=rendition.width or None,
                height=rendition.height or None,
                codecs=rendition.codecs,
                average_bandwidth=BigInt(rendition.average_bandwidth),
            )
            for rendition in self.message.renditions
        ]

    @strawberry.field
    def created_at(self) -> datetime:
        return moment(self.message.created_at)

    @classmethod
    def of(cls, video: pb.Video) -> Self:
        return cls(
            uuid=UUID(video.id),
            state=VideoState(video.state),
            duration=video.duration if video.HasField("duration") else None,
            width=video.width or None,
            height=video.height or None,
            stream_url=video.stream_url or None,
            poster_url=video.poster_url or None,
            failure=Failure.of(video.failure_code, video.failure_detail),
            message=video,
        )

    @classmethod
    async def load(cls, context: "Context", uuid: UUID) -> Self | None:
        video = await context.loaders.videos.load(uuid)
        return cls.of(video) if video else None


@strawberry.type
class RenditionProgress:
    name: str
    progress: float = strawberry.field(description="0 to 1, never decreasing.")


@strawberry.type(description="A snapshot of the state of upload and transcoding.")
class VideoProgress:
    state: VideoState
    version: BigInt = strawberry.field(description="Increases with every change.")
    bytes_received: BigInt = strawberry.field(description="Bytes.")
    bytes_total: BigInt = strawberry.field(description="Bytes.")
    progress: float = strawberry.field(description="Transcoding progress: 0 to 1, never decreasing.")
    time_left: float | None = strawberry.field(description="Estimated seconds; null while unknown.")
    renditions: list[RenditionProgress] = strawberry.field(directives=[ListSize(assumed_size=8)])
    failure: Failure | None = strawberry.field(description="Null unless processing failed.")

    @classmethod
    def of(cls, progress: pb.Progress) -> Self:
        return cls._of(progress, time_left=progress.time_left if progress.HasField("time_left") else None)

    @classmethod
    def of_event(cls, progress: TranscodeProgressed) -> Self:
        return cls._of(progress, time_left=progress.time_left)

    @classmethod
    def _of(cls, progress: pb.Progress | TranscodeProgressed, *, time_left: float | None) -> Self:
        return cls(
            state=VideoState(progress.state),
            version=BigInt(progress.version),
            bytes_received=BigInt(progress.bytes_received),
            bytes_total=BigInt(progress.bytes_total),
            progress=progress.progress,
            time_left=time_left,
            renditions=[RenditionProgress(name=item.name, progress=item.progress) for item in progress.renditions],
            failure=Failure.of(progress.failure_code, progress.failure_detail),
        )
