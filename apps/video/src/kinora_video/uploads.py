"""What clients say of uploads by tus, read once and strictly.

The grammar of a resource is one for the gateway's routes, ForwardAuth and tusd's hooks (tests/gateway compares):
tusd takes everything after its base path for the id and splits it at the last plus sign, so whatever else is let
through may name another upload than the one that was authorised.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from uuid import UUID

from starlette.convertors import StringConvertor, register_url_convertor

from kinora_kit.errors import InvalidInput
from kinora_video.errors import MetadataTooLarge, MethodNotAllowed, VideoNotFound

COLLECTION = "/video/upload"
# The video's id as we write it, and the id of the S3 multipart upload, which is always of unreserved characters.
NAME = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\+[A-Za-z0-9._~-]{1,512}"
_NAME = re.compile(NAME)
_RESOURCE = re.compile(f"{COLLECTION}/(?P<name>{NAME})")


class _NameConvertor(StringConvertor):
    regex = NAME


register_url_convertor("upload", _NameConvertor())
ROUTE = "/upload/{upload:upload}"
"""The path of an upload, for routes below /video."""

# tusd makes a header of the object store's of each pair, which is what bounds them: S3 takes 2 KiB of user metadata,
# its own prefix included.
MAX_METADATA_BYTES = 2048
_METADATA_KEY = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_METADATA_PREFIX = "x-amz-meta-"
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# What turns the reading direction of text around it, so that "exe.mp4" can be made to end in "4pm.exe". Marks that
# Arabic, Hebrew and Persian need, joiners and odd spaces stay.
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")


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
        if method not in ("PATCH", "DELETE"):  # tusd's answer to POST as HEAD has a length and no body, and breaks off
            raise MethodNotAllowed("X-HTTP-Method-Override can be PATCH or DELETE")
    creating = path in (COLLECTION, f"{COLLECTION}/")
    video_id = None if creating else video_of_path(path)
    allowed = ["POST"] if creating else ["HEAD", "PATCH", "DELETE"]
    if method not in allowed:
        raise MethodNotAllowed(headers={"Allow": ", ".join(allowed)})
    return method, video_id


def parse_metadata(headers: Sequence[str]) -> dict[str, str]:
    """The pairs of Upload-Metadata (https://tus.io/protocols/resumable-upload#upload-metadata).

    Raises InvalidInput for what tusd would skip or the object store refuse, MetadataTooLarge.
    """
    if len(headers) > 1:
        raise InvalidInput("Send Upload-Metadata once")
    found: dict[str, str] = {}
    size = 0
    for element in filter(None, (element.strip(" ") for element in "".join(headers).split(","))):
        key, _, encoded = element.partition(" ")
        if not _METADATA_KEY.fullmatch(key) or key.lower() in map(str.lower, found):
            raise InvalidInput("The keys of Upload-Metadata must be different, and tokens as in the name of a header")
        try:
            value = base64.b64decode(encoded, validate=True)
            found[key] = value.decode()
        except (binascii.Error, ValueError):
            raise InvalidInput(f"The value of {key} in Upload-Metadata must be UTF-8, encoded as base64") from None
        if "\0" in found[key] or "\t" in found[key]:  # tusd signs a header that holds a tab wrongly
            raise InvalidInput(f"The value of {key} in Upload-Metadata must not hold NUL or a tab")
        size += len(_METADATA_PREFIX) + len(key) + len(value)
    if size > MAX_METADATA_BYTES:
        raise MetadataTooLarge
    return found


def displayable(text: str) -> str:
    """``text`` as one line that can be shown beside others: without control characters and direction overrides."""
    return _DIRECTIONS.sub("", _CONTROLS.sub(" ", text)).strip(" ")
