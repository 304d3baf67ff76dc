"""Paths below /video that the gateway routes to tusd and to the object store.

Declared here so that the OpenAPI document and ``Allow`` include them. The handlers only raise NotFound: a request that
reaches one did not come through the gateway.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Path, Response
from pydantic import Field

from kinora_kit.errors import NotFound
from kinora_kit.identity import SignedIn
from kinora_video.tus import ROUTE, UploadName

router = APIRouter(prefix="/video")

Tus = Annotated[Literal["1.0.0"], Header(alias="Tus-Resumable")]
# Empty headers count as absent.
Length = Annotated[Annotated[int, Field(ge=0)] | Literal[""] | None, Header(alias="Upload-Length")]
Deferred = Annotated[
    Literal["1", ""] | None,
    Header(alias="Upload-Defer-Length", description="Upload-Length follows later, in a PATCH"),
]
Concat = Annotated[
    str | None,
    Header(
        alias="Upload-Concat",
        pattern=r"^(partial|final;[^ ]+( [^ ]+)*)?$",
        description="`partial`, or `final;` and the URLs of the caller's partial uploads, separated by spaces",
    ),
]
Metadata = Annotated[
    str | None, Header(alias="Upload-Metadata", description="filename, title, visibility: base64 values")
]
Offset = Annotated[int, Header(alias="Upload-Offset", ge=0)]
Rendition = Annotated[str, Path(pattern=r"^[a-z0-9]{1,16}$")]
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

CREATED: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "Created",
        "headers": {
            "Location": {"schema": {"type": "string", "format": "uri"}},
            "Upload-Expires": {
                "description": "When the upload expires unless bytes arrive (RFC 9110 date). Not for a final upload",
                "schema": {"type": "string"},
            },
        },
    }
}
TUSD: dict[int | str, dict[str, Any]] = {
    status: {"content": {"text/plain": {"schema": {"type": "string"}}}}
    for status in (400, 403, 409, 410, 412, 413, 415)
}
"""tusd's own errors are plain text: a code, a colon, and a sentence."""

BYTES: dict[str, Any] = {
    "requestBody": {"content": {"application/offset+octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}


def _file(media_type: str) -> dict[int | str, dict[str, Any]]:
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"content": content},
        206: {"description": "The requested range", "content": content},
        304: {"description": "Not modified"},
        **{status: {} for status in (403, 409, 412, 416)},
    }


# 404 for a URL in Upload-Concat that is not a partial upload of the caller.
@router.post("/upload", status_code=201, response_class=Response, responses=CREATED | TUSD | {404: {}})
async def create_upload(
    caller: SignedIn,
    tus: Tus,
    *,
    length: Length = None,
    deferred: Deferred = None,
    concat: Concat = None,
    metadata: Metadata = None,
) -> None:
    """Create an upload (tus 1.0, creation). Its URL is in ``Location``."""
    raise NotFound


@router.head(ROUTE, response_class=Response, responses=TUSD)
async def upload_offset(upload: UploadName, caller: SignedIn, tus: Tus) -> None:
    """The number of bytes received, in ``Upload-Offset`` (tus 1.0)."""
    raise NotFound


@router.patch(ROUTE, status_code=204, responses=TUSD, openapi_extra=BYTES)
async def send_bytes(upload: UploadName, caller: SignedIn, tus: Tus, offset: Offset, length: Length = None) -> None:
    """Send bytes from ``Upload-Offset`` on (tus 1.0). ``Upload-Length``: once, if it was deferred."""
    raise NotFound


@router.delete(ROUTE, status_code=204, responses=TUSD)
async def cancel_upload(upload: UploadName, caller: SignedIn, tus: Tus) -> None:
    """Delete an upload and its video (tus 1.0, termination)."""
    raise NotFound


@router.get("/{video_id:uuid}/{rendition}/{name}.mp4", response_class=Response, responses=_file("video/mp4"))
async def initialisation(video_id: UUID, rendition: Rendition, name: Name) -> None:
    """The initialisation segment of a rendition."""
    raise NotFound


@router.get("/{video_id:uuid}/{rendition}/{name}.m4s", response_class=Response, responses=_file("video/iso.segment"))
async def segment(video_id: UUID, rendition: Rendition, name: Name) -> None:
    """A media segment (CMAF) of a playlist."""
    raise NotFound


@router.get("/{video_id:uuid}/{name}.jpg", response_class=Response, responses=_file("image/jpeg"))
async def picture(video_id: UUID, name: Name) -> None:
    """The poster, or a sprite of the storyboard."""
    raise NotFound


@router.get("/{video_id:uuid}/{name}.vtt", response_class=Response, responses=_file("text/vtt"))
async def track(video_id: UUID, name: Name) -> None:
    """A WebVTT track: the storyboard or captions."""
    raise NotFound
