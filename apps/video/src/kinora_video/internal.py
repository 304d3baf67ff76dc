"""What the gateway and tusd ask. The gateway has no route to here.

tusd's hooks: https://tus.github.io/tusd/advanced-topics/hooks/
"""

import json
import re
from typing import Any
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from kinora_kit import logs
from kinora_kit.edge import problem_response
from kinora_kit.errors import DomainError, NotSignedIn, Unavailable, problem
from kinora_kit.identity import Caller, SignedIn, caller_from_headers
from kinora_video.errors import (
    ObjectNotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    SizeUnknown,
    UploadEnded,
    VideoNotFound,
)
from kinora_video.uploads import parse_metadata, read_request, video_of
from kinora_video.wiring import Wired

log = logs.get(__name__)

router = APIRouter(prefix="/internal", include_in_schema=False)

_OBJECT = re.compile(
    r"/video/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/((?:[a-z0-9]{1,16}/)?[A-Za-z0-9_-]{1,64}\.(?:m4s|mp4|jpg|vtt))"
)

_STORE_ERRORS: dict[int, type[DomainError]] = {404: ObjectNotFound, 412: PreconditionFailed}


class Upload(BaseModel):
    id: str = Field("", alias="ID")
    size: int = Field(0, alias="Size")
    size_is_deferred: bool = Field(False, alias="SizeIsDeferred")
    offset: int = Field(0, alias="Offset")
    is_partial: bool = Field(False, alias="IsPartial")
    is_final: bool = Field(False, alias="IsFinal")


class HookedRequest(BaseModel):
    header: dict[str, list[str]] | None = Field(None, alias="Header")


class HookEvent(BaseModel):
    upload: Upload = Field(alias="Upload")
    request: HookedRequest = Field(alias="HTTPRequest")


class Hook(BaseModel):
    type: str = Field(alias="Type")
    event: HookEvent = Field(alias="Event")


@router.post("/tusd/hooks")
async def tusd_hook(hook: Hook, wired: Wired) -> dict[str, Any]:
    """One of tusd's questions; what is refused is told to the uploader as a problem document.

    Whose upload it is, is asked here again: that ForwardAuth and tusd read the same path is not relied upon.
    """
    upload = hook.event.upload
    if hook.type == "pre-create":
        return await _pre_create(hook, wired)
    try:
        video_id = video_of(upload.id)
        owner_id = await wired.videos.owner_of(video_id)
        caller = _caller(hook)
    except DomainError as error:
        return {"RejectTermination": True, **_refusal(error)}
    if owner_id is None:  # deleted long ago: nothing of it is to be kept
        return {"RejectTermination": True, "StopUpload": True, **_refusal(UploadEnded())}
    if caller.user_id != owner_id:
        # Without StopUpload, by which tusd would discard what the owner has sent.
        log.error("a stranger acts on an upload", hook=hook.type, video_id=str(video_id), user_id=str(caller.user_id))
        return {"RejectTermination": True, **_refusal(VideoNotFound())}
    try:
        match hook.type:
            case "post-create":
                await wired.videos.begun(video_id)
            case "post-receive":
                await wired.videos.receive(video_id, upload.offset)
            case "post-finish":
                await wired.videos.finish_upload(video_id)
            case "pre-terminate":
                # Before and not after: tusd waits for this answer, and tells the client when there is none.
                await wired.videos.delete_quietly(video_id)
    except (UploadEnded, VideoNotFound) as error:
        return {"StopUpload": True, **_refusal(error)}
    return {}


def _caller(hook: Hook) -> Caller:
    """Whose request made tusd ask. Raises NotSignedIn."""
    headers = {name: values[0] for name, values in (hook.event.request.header or {}).items() if values}
    caller = caller_from_headers(headers)
    if caller is None:
        raise NotSignedIn
    return caller


async def _pre_create(hook: Hook, wired: Wired) -> dict[str, Any]:
    upload = hook.event.upload
    try:
        caller = _caller(hook)
        if upload.is_partial or upload.is_final:
            raise SizeUnknown("An upload must be sent as one; concatenation is not offered")
        metadata = parse_metadata((hook.event.request.header or {}).get("Upload-Metadata", []))
        video_id = await wired.videos.begin_upload(
            caller, size=None if upload.size_is_deferred else upload.size, metadata=metadata
        )
    except DomainError as error:
        return {"RejectUpload": True, **_refusal(error)}
    return {"ChangeFileInfo": {"ID": str(video_id)}}


def _refusal(error: DomainError) -> dict[str, Any]:
    return {
        "HTTPResponse": {
            "StatusCode": error.status,
            "Body": json.dumps(problem(error)),
            "Header": {"Content-Type": "application/problem+json"},
        }
    }


@router.api_route("/upload_verify", methods=["GET", "HEAD", "POST", "PATCH", "DELETE"])
async def upload_verify(request: Request, caller: SignedIn, wired: Wired, empty: bool = False) -> Response:
    """ForwardAuth of /video/upload: only its owner may touch an upload. ``empty``: the request has no body.

    What tusd would answer without asking us is refused here: bytes after the last one, metadata that cannot be stored.
    """
    method, video_id = read_request(
        request.headers.get("X-Forwarded-Uri", ""),
        request.headers.get("X-Forwarded-Method", ""),
        request.headers.getlist("X-HTTP-Method-Override"),
    )
    if video_id is None:
        parse_metadata(request.headers.getlist("Upload-Metadata"))
    else:
        sends_at = request.headers.get("Upload-Offset") if method == "PATCH" and not empty else None
        await wired.videos.authorise_upload(caller, video_id, sends_at=sends_at)
    public = urlsplit(wired.videos.settings.public_url)
    # What tusd makes Location of: never what the client called us.
    return Response(status_code=200, headers={"X-Forwarded-Host": public.netloc, "X-Forwarded-Proto": public.scheme})


@router.api_route("/stream_verify", methods=["GET", "HEAD"])
async def stream_verify(request: Request, wired: Wired) -> Response:
    """ForwardAuth of segments and pictures: the headers that open the object in the store, or a refusal."""
    uri = _forwarded(request)
    match = _OBJECT.fullmatch(uri.path)
    if match is None:
        raise VideoNotFound
    headers = await wired.videos.authorise_object(
        request.headers.get("X-Forwarded-Method", "GET"), UUID(match[1]), match[2], uri.query
    )
    return Response(status_code=200, headers=headers)


@router.get("/stream_error")
async def stream_error(request: Request, status: int, wired: Wired) -> Response:
    """What a client is told instead of an error of the object store.

    The gateway asks with the headers of the client's request, and keeps the status that it decided on. The path that it
    replaced is in X-Replaced-Path.
    """
    path = request.headers.get("X-Replaced-Path", "")
    error: DomainError
    if status == 416 and (match := _OBJECT.fullmatch(path)):
        size = await wired.videos.object_size(UUID(match[1]), match[2])
        error = RangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    else:
        error = _STORE_ERRORS.get(status, Unavailable)()
    answer = problem_response(request, error, instance=path)
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _forwarded(request: Request) -> SplitResult:
    return urlsplit(request.headers.get("X-Forwarded-Uri", ""))
