"""A strict parser for the tus requests of clients.

The gateway's routes, ForwardAuth and tusd's hooks share one grammar for the path of an upload (tests/gateway compares
them): tusd takes everything after its base path as the id and splits it at the last plus sign, so a more lenient
grammar could authorise one upload and let tusd act on another. Upload-Concat names uploads, too. tusd receives the
headers as parsed here: ForwardAuth rewrites them, and the gateway drops the client's.
"""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Path
from starlette.convertors import StringConvertor, register_url_convertor

from kinora_kit.errors import InvalidInput
from kinora_video.errors import MetadataTooLarge, MethodNotAllowed, SizeUnknown, VideoNotFound

COLLECTION = "/video/upload"
# The video's id in its canonical form, and the id of the S3 multipart upload, which has only unreserved characters.
NAME = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\+[A-Za-z0-9._~-]{1,512}"
_NAME = re.compile(NAME)
_RESOURCE = re.compile(f"{COLLECTION}/(?P<name>{NAME})")
_ADDRESS = re.compile(rf"(https?://[A-Za-z0-9.:\[\]-]+)?{COLLECTION}/(?P<name>{NAME})")
_LENGTH = re.compile("0|[1-9][0-9]{0,17}")


class _NameConvertor(StringConvertor):
    regex = NAME


register_url_convertor("upload", _NameConvertor())
ROUTE = "/upload/{upload:upload}"
"""The path of an upload, for routes below /video."""
UploadName = Annotated[str, Path(pattern=f"^{NAME}$")]

# tusd sends each pair to the object store as a header. S3 accepts 2 KiB of user metadata, including its prefixes.
MAX_METADATA_BYTES = 2048
_METADATA_KEY = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_METADATA_PREFIX = "x-amz-meta-"


@dataclass(frozen=True)
class Name:
    """The last segment of an upload's path: our id, and the object store's id of the multipart upload."""

    id: UUID
    multipart_id: str

    def __str__(self) -> str:
        return f"{self.id}+{self.multipart_id}"


@dataclass(frozen=True)
class Creation:
    """The parsed headers of a creation request."""

    size: int | None
    """None if deferred, and for a final upload."""
    partial: bool
    parts: tuple[Name, ...]
    """The partial uploads that a final one concatenates, in order."""
    metadata: dict[str, str]
    headers: dict[str, str]
    """The same as headers for tusd."""


def parse_name(text: str) -> Name:
    """Raises VideoNotFound unless ``text`` is a complete name."""
    if not _NAME.fullmatch(text):
        raise VideoNotFound
    upload_id, _, multipart_id = text.partition("+")
    return Name(UUID(upload_id), multipart_id)


def parse_path(path: str) -> Name:
    """As parse_name, for the path of an upload."""
    if (resource := _RESOURCE.fullmatch(path)) is None:
        raise VideoNotFound
    return parse_name(resource["name"])


def read_request(uri: str, method: str, overrides: Sequence[str]) -> tuple[str, Name | None]:
    """The effective method of a request and the upload's name; None for a creation.

    ``uri``: the request target, undecoded. ``overrides``: the X-HTTP-Method-Override headers, which tusd obeys on POST.
    Raises VideoNotFound, MethodNotAllowed.
    """
    path = uri.partition("?")[0]
    if len(overrides) > 1:
        raise MethodNotAllowed("Send X-HTTP-Method-Override once")
    if method == "POST" and overrides and overrides[0]:
        method = overrides[0]
        if method not in ("PATCH", "DELETE"):  # tusd's response to POST as HEAD would declare a length but have no body
            raise MethodNotAllowed("X-HTTP-Method-Override can be PATCH or DELETE")
    creating = path in (COLLECTION, f"{COLLECTION}/")
    name = None if creating else parse_path(path)
    allowed = ["POST"] if creating else ["HEAD", "PATCH", "DELETE"]
    if method not in allowed:
        raise MethodNotAllowed(headers={"Allow": ", ".join(allowed)})
    return method, name


def read_creation(headers: Callable[[str], Sequence[str]]) -> Creation:
    """``headers`` returns the values of a header. Raises InvalidInput, SizeUnknown, VideoNotFound, MetadataTooLarge."""
    metadata = parse_metadata(headers("Upload-Metadata"))
    size = parse_length(headers("Upload-Length"))
    deferred = _once("Upload-Defer-Length", headers("Upload-Defer-Length"))
    partial, parts = parse_concat(headers("Upload-Concat"))
    if deferred not in ("", "1"):
        raise InvalidInput("Upload-Defer-Length must be 1")
    if deferred and size is not None:
        raise InvalidInput("Send either Upload-Length or Upload-Defer-Length")
    if parts and (deferred or size is not None):
        raise InvalidInput("Send no length for a final upload: it is that of its parts")
    if not parts and not deferred and size is None:
        raise SizeUnknown
    addresses = " ".join(f"{COLLECTION}/{part}" for part in parts)
    written = {
        "Upload-Metadata": "".join(headers("Upload-Metadata")),
        "Upload-Length": "" if size is None else str(size),
        "Upload-Defer-Length": deferred,
        "Upload-Concat": f"final;{addresses}" if parts else "partial" if partial else "",
    }
    return Creation(size, partial, parts, metadata, {name: value for name, value in written.items() if value})


def parse_length(values: Sequence[str]) -> int | None:
    """Upload-Length in bytes; None if it is absent. Raises InvalidInput."""
    text = _once("Upload-Length", values)
    if text and not _LENGTH.fullmatch(text):
        raise InvalidInput("Upload-Length must be a number of bytes")
    return int(text) if text else None


def parse_concat(values: Sequence[str]) -> tuple[bool, tuple[Name, ...]]:
    """Whether the upload is partial, and the parts of a final one.

    https://tus.io/protocols/resumable-upload#upload-concat. tusd takes what follows the first ``/video/upload/`` of
    each URL, so the whole URL must have our form; any host is accepted. Raises InvalidInput, and VideoNotFound for a
    URL that is not an upload's.
    """
    text = _once("Upload-Concat", values)
    if text in ("", "partial"):
        return text == "partial", ()
    kind, _, addresses = text.partition(";")
    if kind != "final":
        raise InvalidInput('Upload-Concat must be "partial", or "final;" and the URLs of partial uploads')
    parts = []
    for address in addresses.split(" "):
        if (found := _ADDRESS.fullmatch(address)) is None:
            raise VideoNotFound("Upload-Concat has a URL that is not an upload")
        parts.append(parse_name(found["name"]))
    if len({part.id for part in parts}) < len(parts):
        raise InvalidInput("Upload-Concat has a partial upload twice")
    return False, tuple(parts)


def _once(name: str, values: Sequence[str]) -> str:
    if len(values) > 1:
        raise InvalidInput(f"Send {name} once")
    return "".join(values).strip(" ")


def parse_metadata(headers: Sequence[str]) -> dict[str, str]:
    """The pairs of Upload-Metadata (https://tus.io/protocols/resumable-upload#upload-metadata).

    Raises InvalidInput for pairs that tusd would skip or the object store reject, MetadataTooLarge.
    """
    text = _once("Upload-Metadata", headers)
    found: dict[str, str] = {}
    size = 0
    for element in filter(None, (element.strip(" ") for element in text.split(","))):
        key, _, encoded = element.partition(" ")
        if not _METADATA_KEY.fullmatch(key) or key.lower() in map(str.lower, found):
            raise InvalidInput("The keys of Upload-Metadata must be unique, and valid names of headers")
        try:
            value = base64.b64decode(encoded, validate=True)
            found[key] = value.decode()
        except (binascii.Error, ValueError):
            raise InvalidInput(f"The value of {key} in Upload-Metadata must be UTF-8 in base64") from None
        if "\0" in found[key] or "\t" in found[key]:  # tusd computes a wrong signature for tabs
            raise InvalidInput(f"The value of {key} in Upload-Metadata must not contain NUL or a tab")
        size += len(_METADATA_PREFIX) + len(key) + len(value)
    if size > MAX_METADATA_BYTES:
        raise MetadataTooLarge
    return found
