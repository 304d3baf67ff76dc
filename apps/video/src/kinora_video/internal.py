"""Internal endpoints for the gateway (ForwardAuth, error pages) and tusd (hooks). The gateway does not route to them.

tusd's hooks: https://tus.github.io/tusd/advanced-topics/hooks/
"""

import email.utils
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
from kinora_kit.errors import DomainError, InvalidInput, MalformedRequest, NotSignedIn, Unavailable, problem
from kinora_kit.identity import Caller, SignedIn, caller_from_headers
from kinora_video.errors import (
    FileTooLarge,
    ObjectNotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    UploadEnded,
    VideoNotFound,
)
from kinora_video.tus import parse_length, parse_name, read_creation, read_request
from kinora_video.wiring import Wired

log = logs.get(__name__)

router = APIRouter(prefix="/internal", include_in_schema=False)

_OBJECT = re.compile(
    r"/video/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/((?:[a-z0-9]{1,16}/)?[A-Za-z0-9_-]{1,64}\.(?:m4s|mp4|jpg|vtt))"
)

_STORE_ERRORS: dict[int, type[DomainError]] = {400: MalformedRequest, 404: ObjectNotFound, 412: PreconditionFailed}


class Upload(BaseModel):
    id: str = Field("", alias="ID")
    size: int = Field(0, alias="Size")
    size_is_deferred: bool = Field(False, alias="SizeIsDeferred")
    offset: int = Field(0, alias="Offset")
    is_partial: bool = Field(False, alias="IsPartial")
    is_final: bool = Field(False, alias="IsFinal")
    partial_uploads: list[str] | None = Field(None, alias="PartialUploads")

    @property
    def known_size(self) -> int | None:
        return None if self.size_is_deferred else self.size


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
    """A hook of tusd. Errors are returned to the client as problem documents.

    Checks the owner of the upload again, in case ForwardAuth and tusd parse the same path differently.
    """
    info = hook.event.upload
    if hook.type == "pre-create":
        return await _pre_create(hook, wired)
    try:
        name = parse_name(info.id)
        upload = await wired.uploads.get(name.id)
        caller = _caller(hook)
    except DomainError as error:
        return {"RejectTermination": True, **_rejection(error)}
    if upload is None:  # deleted long ago: tusd must not keep anything of it
        return {"RejectTermination": True, "StopUpload": True, **_rejection(UploadEnded())}
    if caller.user_id != upload.owner_id or upload.multipart_id not in (None, name.multipart_id):
        # Without StopUpload, which would make tusd delete the bytes that the owner has sent.
        log.error("hook for another user's upload", hook=hook.type, upload_id=str(name.id), user_id=str(caller.user_id))
        return {"RejectTermination": True, **_rejection(VideoNotFound())}
    await wired.uploads.record_name(upload, name)
    try:
        match hook.type:
            # A final upload is announced when it is complete: tusd concatenates its parts after this hook.
            case "post-create" if not upload.partial and not info.is_final:
                await wired.uploads.created(name.id)
            case "post-receive":
                await wired.uploads.receive(upload, info.offset, info.known_size)
            case "post-finish" if upload.partial:
                await wired.uploads.receive(upload, info.size, info.size)
            case "post-finish":
                await wired.uploads.finish(name.id, info.size)
            # Not post-terminate: for this hook, tusd waits for the response, and returns its failure to the client.
            case "pre-terminate" if upload.partial:
                await wired.uploads.end_partial(name.id)
            case "pre-terminate":
                await wired.videos.delete_quietly(name.id)
    except (UploadEnded, VideoNotFound, FileTooLarge) as error:
        return {"StopUpload": True, **_rejection(error)}
    return {}


def _caller(hook: Hook) -> Caller:
    """The caller of the request that triggered the hook. Raises NotSignedIn."""
    headers = {name: values[0] for name, values in (hook.event.request.header or {}).items() if values}
    caller = caller_from_headers(headers)
    if caller is None:
        raise NotSignedIn
    return caller


async def _pre_create(hook: Hook, wired: Wired) -> dict[str, Any]:
    info, headers = hook.event.upload, hook.event.request.header or {}
    try:
        caller = _caller(hook)
        creation = read_creation(lambda name: headers.get(name, []))
        read = (creation.partial, tuple(map(str, creation.parts)), creation.size)
        if read != (info.is_partial, tuple(info.partial_uploads or ()), None if info.is_final else info.known_size):
            log.error("tusd parsed a request differently", headers=creation.headers, user_id=str(caller.user_id))
            raise InvalidInput
        if creation.partial:
            upload_id = await wired.uploads.begin_partial(caller, creation.size)
        else:
            upload_id = await wired.uploads.begin(
                caller, size=info.known_size, metadata=creation.metadata, parts=creation.parts
            )
    except DomainError as error:
        return {"RejectUpload": True, **_rejection(error)}
    answer: dict[str, Any] = {"ChangeFileInfo": {"ID": str(upload_id)}}
    if not creation.parts:
        expiry = email.utils.format_datetime(wired.uploads.expiry(), usegmt=True)
        answer["HTTPResponse"] = {"Header": {"Upload-Expires": expiry}}
    return answer


def _rejection(error: DomainError) -> dict[str, Any]:
    return {
        "HTTPResponse": {
            "StatusCode": error.status,
            "Body": json.dumps(problem(error)),
            "Header": {"Content-Type": "application/problem+json"},
        }
    }


@router.api_route("/upload_verify", methods=["GET", "HEAD", "POST", "PATCH", "DELETE"])
async def upload_verify(request: Request, caller: SignedIn, wired: Wired, empty: bool = False) -> Response:
    """ForwardAuth of /video/upload: only the owner may use an upload. ``empty``: the request has no body.

    Rejects what tusd would process without a hook: bytes beyond the end, metadata that cannot be stored, parts of other
    users. The response's headers replace those of the request (upload-owner in traefik/dynamic).
    """
    sent = request.headers
    overrides = sent.getlist("X-HTTP-Method-Override")
    method, name = read_request(sent.get("X-Forwarded-Uri", ""), sent.get("X-Forwarded-Method", ""), overrides)
    headers = {}
    if name is None:
        creation = read_creation(sent.getlist)
        await wired.uploads.authorise_creation(caller, creation)
        headers = creation.headers
    else:
        declared_size = parse_length(sent.getlist("Upload-Length")) if method == "PATCH" else None
        offset = sent.get("Upload-Offset") if method == "PATCH" and not empty else None
        size = await wired.uploads.authorise(caller, name, offset=offset, declared_size=declared_size)
        if size is not None:
            headers["Upload-Length"] = str(size)
    if method != sent.get("X-Forwarded-Method"):
        headers["X-HTTP-Method-Override"] = method
    public = urlsplit(wired.uploads.settings.public_url)
    # tusd derives Location from these: never from the Host that the client sent.
    headers |= {"X-Forwarded-Host": public.netloc, "X-Forwarded-Proto": public.scheme}
    return Response(status_code=200, headers=headers)


@router.api_route("/stream_verify", methods=["GET", "HEAD"])
async def stream_verify(request: Request, wired: Wired) -> Response:
    """ForwardAuth of segments and images: returns the headers that authenticate the request to the object store."""
    uri = _forwarded(request)
    match = _OBJECT.fullmatch(uri.path)
    if match is None:
        raise VideoNotFound
    headers = await wired.watching.authorise_object(
        request.headers.get("X-Forwarded-Method", "GET"), UUID(match[1]), match[2], uri.query
    )
    return Response(status_code=200, headers=headers)


@router.get("/stream_error")
async def stream_error(request: Request, status: int, wired: Wired) -> Response:
    """The error page that replaces an error of the object store.

    The gateway sends the headers of the client's request, with the original path in X-Replaced-Path, and keeps its own
    status.
    """
    path = request.headers.get("X-Replaced-Path", "")
    error: DomainError
    if status == 416 and (match := _OBJECT.fullmatch(path)):
        size = await wired.watching.object_size(UUID(match[1]), match[2])
        error = RangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    else:
        error = _STORE_ERRORS.get(status, Unavailable)()
    answer = problem_response(request, error, instance=path)
    answer.headers["Cache-Control"] = "no-store"
    return answer


def _forwarded(request: Request) -> SplitResult:
    return urlsplit(request.headers.get("X-Forwarded-Uri", ""))
