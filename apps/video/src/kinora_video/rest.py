"""The public routes of video."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel

from kinora_kit.identity import OptionalCaller, RequiredToken, SignedIn
from kinora_kit.outages import OUTAGES
from kinora_kit.streams import EventStream
from kinora_video.domain import GONE, Video
from kinora_video.errors import VideoNotFound
from kinora_video.tus import ROUTE, UploadName
from kinora_video.videos import VideoChange
from kinora_video.watching import Shown
from kinora_video.wiring import Wired

router = APIRouter(prefix="/video")

# Not expiration: it requires Upload-Expires in every response to PATCH, where no hook of tusd can add it. Only the
# response to the creation has it.
TUS_EXTENSIONS = "creation,creation-with-upload,creation-defer-length,concatenation,termination"
KEEPALIVE_SECONDS = 15.0
OUTAGE_SECONDS = 1.0
ENDS = GONE | {"ready"}
_EVENT_ID = re.compile(r"[0-9]{1,18}")
PLAYLIST_TYPE = "application/vnd.apple.mpegurl"
PLAYLIST: dict[int | str, dict[str, Any]] = {
    200: {"content": {PLAYLIST_TYPE: {"schema": {"type": "string"}}}},
    308: {"description": "The id is in upper case: the same path with it in lower case"},
    403: {},
    409: {},
}

RenditionName = Annotated[str, Path(pattern=r"^[a-z0-9]{1,16}$")]


class RenditionBody(BaseModel):
    name: str
    width: int
    height: int
    codecs: str
    average_bandwidth: int


class VideoBody(BaseModel):
    """Units: seconds, pixels, bytes. URLs are absolute, and null until the video is playable."""

    id: UUID
    owner_id: UUID
    state: str
    visibility: str
    size: int | None
    duration: float | None
    width: int | None
    height: int | None
    renditions: list[RenditionBody]
    stream_url: str | None
    poster_url: str | None
    failure_code: str | None
    failure_detail: str | None
    created_at: datetime


def _body(shown: Shown) -> VideoBody:
    video, source = shown.video, shown.video.source
    return VideoBody(
        id=video.id,
        owner_id=video.owner_id,
        state=video.state,
        visibility=video.visibility,
        size=video.size,
        duration=source.duration if source else None,
        width=source.width if source else None,
        height=source.height if source else None,
        renditions=[
            RenditionBody(
                name=row.name, width=row.width, height=row.height, codecs=row.codecs or "", average_bandwidth=bandwidth
            )
            for row, bandwidth in shown.renditions
        ],
        stream_url=shown.stream_url or None,
        poster_url=shown.poster_url or None,
        failure_code=video.failure_code or None,
        failure_detail=video.failure_detail or None,
        created_at=video.created_at,
    )


@router.options("/upload", status_code=204)
@router.options("/upload/", status_code=204, include_in_schema=False)
async def upload_options(response: Response, wired: Wired) -> None:
    """The supported tus extensions and size (https://tus.io/protocols/resumable-upload#options).

    Not from tusd, whose routes require a token.
    """
    response.headers["Tus-Resumable"] = response.headers["Tus-Version"] = "1.0.0"
    response.headers["Tus-Extension"] = TUS_EXTENSIONS
    response.headers["Tus-Max-Size"] = str(wired.uploads.settings.upload_max_bytes)


@router.options(ROUTE, status_code=204)
async def one_upload_options(upload: UploadName, response: Response, wired: Wired) -> None:
    """The same for any upload."""
    await upload_options(response, wired)


@router.get("/{video_id:uuid}")
async def get_video(video_id: UUID, caller: OptionalCaller, wired: Wired) -> VideoBody:
    return _body(await wired.watching.get(caller, video_id))


@router.patch("/{video_id:uuid}", status_code=202)
async def change_video(video_id: UUID, change: VideoChange, caller: SignedIn, wired: Wired) -> VideoBody:
    """The new poster is available a moment later, at a new URL."""
    await wired.videos.choose_poster(caller, video_id, change.poster_time)
    return _body(await wired.watching.get(caller, video_id))


@router.delete("/{video_id:uuid}", status_code=204)
async def delete_video(video_id: UUID, caller: SignedIn, wired: Wired) -> None:
    await wired.videos.delete(caller, video_id)


@router.get(
    "/{video_id:uuid}/progress",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        204: {"description": "The client has already received the last event"},
    },
)
async def follow_progress(
    video_id: UUID,
    token: RequiredToken,
    request: Request,
    wired: Wired,
    last_event_id: Annotated[str, Header(alias="Last-Event-ID")] = "",
) -> Response:
    """Server-sent events for the owner: the current state, then each change until it is ready, failed or deleted.

    The stream also ends with the session. A client that has the last event (Last-Event-ID) gets 204, and stops
    reconnecting.
    """
    caller = await wired.verifier.verify(token)
    with contextlib.ExitStack() as stack:
        stack.enter_context(wired.followers.take(request.scope, caller.user_id))
        changed = stack.enter_context(wired.changes.of(video_id))  # before the first read, so that no change is missed
        first = await wired.watching.progress(caller, video_id)
        seen = int(last_event_id) if _EVENT_ID.fullmatch(last_event_id) else 0
        if first.state in ENDS and seen >= first.version:
            return Response(status_code=204)
        session = asyncio.create_task(
            wired.verifier.until_ended(token, check_seconds=wired.watching.settings.session_check_seconds)
        )
        stack.callback(session.cancel)
        session.add_done_callback(lambda _: changed.set())
        held = stack.pop_all()

    async def events() -> AsyncIterator[str]:
        progress, sent = first, min(seen, first.version)
        while not session.done():
            if progress.version > sent:
                sent = progress.version
                data = progress.model_dump(mode="json", exclude={"owner_id"})
                yield f"id: {sent}\nevent: progress\ndata: {json.dumps(data)}\n\n"
                if progress.state in ENDS:
                    return
            try:
                async with asyncio.timeout(KEEPALIVE_SECONDS):
                    await changed.wait()
            except TimeoutError:
                yield ": still here\n\n"
            changed.clear()
            try:
                progress = await wired.watching.progress(caller, video_id)
            except VideoNotFound:
                progress = progress.model_copy(update={"state": "deleted", "version": sent + 1})
            except OUTAGES:
                changed.set()
                await asyncio.sleep(OUTAGE_SECONDS)

    return EventStream(events(), held)


def _playlist(video: Video, text: str) -> Response:
    # A growing playlist must not be cached. A complete one is final, but the video can become private or deleted.
    if video.visibility == "private":
        cache = "private, no-store"
    else:
        cache = "public, max-age=60" if video.state == "ready" else "no-cache"
    return Response(text, media_type=PLAYLIST_TYPE, headers={"Cache-Control": cache})


def _canonical(video_id: UUID, request: Request) -> Response | None:
    """A redirect if the path has the id in upper case, as Swift writes UUIDs.

    The URLs in playlists are relative, and those of segments lead to the object store, whose keys are in lower case.
    """
    _, given, name = request.url.path.rsplit("/", 2)
    if given == str(video_id):
        return None
    return RedirectResponse(str(request.url.replace(scheme="", netloc="", path=f"../{video_id}/{name}")), 308)


@router.get("/{video_id:uuid}/master.m3u8", response_class=Response, responses=PLAYLIST)
async def master_playlist(video_id: UUID, caller: OptionalCaller, request: Request, wired: Wired) -> Response:
    if elsewhere := _canonical(video_id, request):
        return elsewhere
    return _playlist(*await wired.watching.master_playlist(caller, video_id, request.url.query))


@router.get("/{video_id:uuid}/{rendition}.m3u8", response_class=Response, responses=PLAYLIST)
async def media_playlist(
    video_id: UUID, rendition: RenditionName, caller: OptionalCaller, request: Request, wired: Wired
) -> Response:
    if elsewhere := _canonical(video_id, request):
        return elsewhere
    return _playlist(*await wired.watching.media_playlist(caller, video_id, rendition, request.url.query))
