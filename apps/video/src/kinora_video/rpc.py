"""gRPC API of videos: platform/protos/kinora/video/v1/video.proto."""
# ruff: noqa: N802 - method names come from the proto

from typing import Any

import grpc

from kinora.events.video import TranscodeProgressed, UploadProgressed
from kinora.video.v1 import video_pb2 as pb
from kinora.video.v1 import video_pb2_grpc as pb_grpc
from kinora_kit import export, logs
from kinora_kit.commands import command
from kinora_kit.errors import InvalidInput
from kinora_kit.export import Exporter
from kinora_kit.ids import parse_id
from kinora_kit.rpc import fields, optional_caller, signed_in
from kinora_kit.structs import timestamp
from kinora_video.domain import parse_visibility
from kinora_video.uploads import Uploads
from kinora_video.videos import VideoChange, Videos
from kinora_video.watching import Shown, Watching

MAX_IDS = 100


def _video(shown: Shown) -> pb.Video:
    video, source = shown.video, shown.video.source
    message = pb.Video(
        id=str(video.id),
        owner_id=str(video.owner_id),
        state=video.state,
        visibility=video.visibility,
        renditions=[
            pb.Rendition(
                name=row.name, width=row.width, height=row.height, codecs=row.codecs or "", average_bandwidth=bandwidth
            )
            for row, bandwidth in shown.renditions
        ],
        stream_url=shown.stream_url,
        poster_url=shown.poster_url,
        failure_code=video.failure_code,
        failure_detail=video.failure_detail,
        created_at=timestamp(video.created_at),
    )
    if source is not None:
        message.duration, message.width, message.height = source.duration, source.width, source.height
    return message


def _progress(progress: TranscodeProgressed | UploadProgressed) -> pb.Progress:
    return pb.Progress(
        video_id=str(progress.video_id),
        state=progress.state,
        version=progress.version,
        bytes_received=progress.bytes_received,
        bytes_total=progress.bytes_total,
        progress=progress.progress,
        renditions=[pb.RenditionProgress(name=item.name, progress=item.progress) for item in progress.renditions],
        time_left=progress.time_left,
        failure_code=progress.failure_code,
        failure_detail=progress.failure_detail,
    )


class VideosServicer(pb_grpc.VideosServicer):
    def __init__(self, watching: Watching) -> None:
        self._watching = watching

    async def ListVideos(self, request: pb.ListVideosRequest, context: Any) -> pb.ListVideosResponse:
        if len(request.ids) > MAX_IDS:
            raise InvalidInput(f"A request may have at most {MAX_IDS} ids")
        shown = await self._watching.list_videos(optional_caller(), [parse_id(item) for item in request.ids])
        return pb.ListVideosResponse(videos=[_video(item) for item in shown])

    async def GetProgress(self, request: pb.GetProgressRequest, context: Any) -> pb.Progress:
        return _progress(await self._watching.progress(signed_in(), parse_id(request.video_id)))

    async def ListProgress(self, request: pb.ListProgressRequest, context: Any) -> pb.ListProgressResponse:
        if len(request.ids) > MAX_IDS:
            raise InvalidInput(f"A request may have at most {MAX_IDS} ids")
        found = await self._watching.uploads(signed_in(), [parse_id(item) for item in request.ids])
        return pb.ListProgressResponse(progress=map(_progress, found))


class UploadsServicer(pb_grpc.UploadsServicer):
    def __init__(self, videos: Videos, uploads: Uploads) -> None:
        self._videos = videos
        self._uploads = uploads

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: Any) -> pb.CreateUploadResponse:
        if request.size < 0:
            raise InvalidInput("size must not be negative")
        trace = logs.traceparent.get()
        video_id, url = await self._uploads.create(
            signed_in(),
            title=request.title,
            filename=request.filename,
            size=request.size,
            visibility=parse_visibility(request.visibility or "private"),
            draft_id=parse_id(request.draft_id) if request.draft_id else None,
            trace={"traceparent": trace} if trace else {},
        )
        return pb.CreateUploadResponse(video_id=str(video_id), upload_url=url)

    async def ChoosePoster(self, request: pb.ChoosePosterRequest, context: Any) -> pb.ChoosePosterResponse:
        change = command(VideoChange, fields(request, "poster_time"))
        await self._videos.choose_poster(signed_in(), parse_id(request.id), change.poster_time)
        return pb.ChoosePosterResponse()

    async def DeleteVideo(self, request: pb.DeleteVideoRequest, context: Any) -> pb.DeleteVideoResponse:
        await self._videos.delete(signed_in(), parse_id(request.id))
        return pb.DeleteVideoResponse()


class EnforcementServicer(pb_grpc.EnforcementServicer):
    def __init__(self, videos: Videos) -> None:
        self._videos = videos

    async def SetVisibility(self, request: pb.SetVisibilityRequest, context: Any) -> pb.SetVisibilityResponse:
        await self._videos.enforce_visibility(
            signed_in(), parse_id(request.id), parse_visibility(request.visibility), request.version
        )
        return pb.SetVisibilityResponse()

    async def DropVideo(self, request: pb.DropVideoRequest, context: Any) -> pb.DropVideoResponse:
        await self._videos.drop(signed_in(), parse_id(request.id))
        return pb.DropVideoResponse()

    async def DropAllVideos(self, request: pb.DropAllVideosRequest, context: Any) -> pb.DropAllVideosResponse:
        await self._videos.delete_all_of(signed_in().user_id)
        return pb.DropAllVideosResponse()


def register(server: grpc.aio.Server, watching: Watching, videos: Videos, uploads: Uploads, exporter: Exporter) -> None:
    pb_grpc.add_VideosServicer_to_server(VideosServicer(watching), server)
    pb_grpc.add_UploadsServicer_to_server(UploadsServicer(videos, uploads), server)
    pb_grpc.add_EnforcementServicer_to_server(EnforcementServicer(videos), server)
    export.register(server, exporter)
