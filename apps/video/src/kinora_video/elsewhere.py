"""Paths below /video that the gateway sends to tusd and to the object store.

Declared here so that they have their place in the OpenAPI document and in ``Allow``. No handler of this module answers
anything: a request that reaches one took a way that is not the gateway's.
"""

from uuid import UUID

from fastapi import APIRouter

from kinora_kit.errors import NotFound

router = APIRouter(prefix="/video")


@router.post("/upload", status_code=201)
async def create_upload() -> None:
    """Begin an upload (tus 1.0, creation). Its address is in ``Location``."""
    raise NotFound


@router.head("/upload/{upload}")
async def upload_offset(upload: str) -> None:
    """How many bytes are there, in ``Upload-Offset`` (tus 1.0)."""
    raise NotFound


@router.patch("/upload/{upload}", status_code=204)
async def send_bytes(upload: str) -> None:
    """Send bytes from ``Upload-Offset`` on (tus 1.0)."""
    raise NotFound


@router.delete("/upload/{upload}", status_code=204)
async def cancel_upload(upload: str) -> None:
    """End an upload and delete its video (tus 1.0, termination)."""
    raise NotFound


@router.get("/{video_id:uuid}/{rendition}/{name}.mp4")
async def initialisation(video_id: UUID, rendition: str, name: str) -> None:
    """The initialisation segment of a rendition."""
    raise NotFound


@router.get("/{video_id:uuid}/{rendition}/{name}.m4s")
async def segment(video_id: UUID, rendition: str, name: str) -> None:
    """A media segment (CMAF) that a playlist names."""
    raise NotFound


@router.get("/{video_id:uuid}/{name}.jpg")
async def picture(video_id: UUID, name: str) -> None:
    """The poster, or a sprite of the storyboard."""
    raise NotFound


@router.get("/{video_id:uuid}/{name}.vtt")
async def track(video_id: UUID, name: str) -> None:
    """A WebVTT track: the storyboard or captions."""
    raise NotFound
