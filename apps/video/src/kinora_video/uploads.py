"""The grammar of a tus resource: one for the gateway's routes, ForwardAuth and tusd's hooks (tests/gateway compares).

tusd takes everything after its base path for the id and splits it at the last plus sign, so whatever else is let
through may name another upload than the one that was authorised.
"""

import re
from collections.abc import Sequence
from uuid import UUID

from kinora_video.errors import MethodNotAllowed, VideoNotFound

COLLECTION = "/video/upload"
# The video's id as we write it, and the id of the S3 multipart upload, which is always of unreserved characters.
NAME = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\+[A-Za-z0-9._~-]{1,512}"
_NAME = re.compile(NAME)
_RESOURCE = re.compile(f"{COLLECTION}/(?P<name>{NAME})")


def video_of(name: str) -> UUID:
    """The video whose bytes the upload ``name`` takes. Raises VideoNotFound for anything but a whole name."""
    if not _NAME.fullmatch(name):
        raise VideoNotFound
    return UUID(name.partition("+")[0])


def video_of_path(path: str) -> UUID:
    """As video_of, for the path of an upload."""
    if (resource := _RESOURCE.fullmatch(path)) is None:
        raise VideoNotFound
    return video_of(resource["name"])


def read_request(uri: str, method: str, overrides: Sequence[str]) -> tuple[str, UUID | None]:
    """What a request does, and to which video's upload: None where one is created.

    ``uri`` is the target as it was sent, ``overrides`` its X-HTTP-Method-Override headers, which tusd obeys on POST.
    Raises VideoNotFound, MethodNotAllowed.
    """
    path = uri.partition("?")[0]
    if len(overrides) > 1:
        raise MethodNotAllowed("Send X-HTTP-Method-Override once")
    if method == "POST" and overrides and overrides[0]:
        method = overrides[0]
    creating = path in (COLLECTION, f"{COLLECTION}/")
    video_id = None if creating else video_of_path(path)
    allowed = ["POST"] if creating else ["HEAD", "PATCH", "DELETE"]
    if method not in allowed:
        raise MethodNotAllowed(headers={"Allow": ", ".join(allowed)})
    return method, video_id
