"""Generated requests, valid and invalid, get the responses that the OpenAPI document specifies."""

from __future__ import annotations

import json
import os
import re
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urljoin

import httpx
import m3u8
import pytest
import schemathesis
from client import GATEWAY, Person, register, video_id
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from clips import Clip
    from schemathesis import Case, SerializationContext

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DOCUMENT = json.loads(resources.files("kinora").joinpath("openapi.json").read_text())
# Random requests per operation. `make test-all` sends more of them, and hundreds of systematic ones (schema boundaries,
# wrong methods, missing headers), which take 20 s of CPU to generate.
WHOLE = "KINORA_TEST_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("KINORA_TEST_EXAMPLES", "100")) // 20
REFUSED_UPLOADS = [400, 401, 404, 413, 415, 422, 429, 503]
CONFIG: dict[str, Any] = {
    "base-url": GATEWAY,
    # Below the gateway's limit per address.
    "rate-limit": "90/s",
    "generation": {"allow-extra-parameters": False},
    "phases": {"coverage": {"enabled": WHOLE}, "examples": {"enabled": False}},
    "checks": {
        # 412: a missing or unsupported version (tus 1.0).
        "negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 405, 409, 412, 415, 422, 429, 503]},
        "missing_required_header": {"expected-statuses": [400, 401, 403, 412, 422]},
    },
    "operations": [
        {
            # 400 invalid_grant: an expired token (RFC 6749).
            "include-path": "/auth/refresh",
            "checks": {"positive_data_acceptance": {"expected-statuses": [200, 400, 401, 429, 503]}},
        },
        {
            # The document cannot express that a cursor belongs to its list and order, that a category exists, that the
            # time to publish is ahead, that no text has a NUL, and that notifications are read by ids or until a time.
            "include-path-regex": r"^/media(/feed|/users/\{user_id\}|/\{media_id\}(/comments)?|/notifications/read)?$",
            "checks": {
                "positive_data_acceptance": {
                    "expected-statuses": [200, 201, 204, 400, 401, 403, 404, 409, 410, 422, 429, 503]
                }
            },
        },
        {
            # The document cannot express that one of Upload-Length, Upload-Defer-Length and Upload-Concat is required,
            # nor the format of Upload-Metadata and the maximum length.
            "include-path": "/video/upload",
            "checks": {"positive_data_acceptance": {"expected-statuses": [201, 204, *REFUSED_UPLOADS]}},
        },
    ],
}
ENDS_THE_SESSION = {"POST /auth/logout", "POST /auth/logout-all", "PUT /auth/password", "DELETE /user/profile"}
# The gateway rejects these itself, before routing (traefik/traefik.yml, encodedCharacters).
REFUSED_PATH = re.compile("%(00|23|25|2F|3B|3F|5C)", re.IGNORECASE)


def strict() -> dict[str, Any]:
    """The document without ``default`` responses, so that each status must be documented."""
    document: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    for operations in document["paths"].values():
        for operation in operations.values():
            del operation["responses"]["default"]
    return document


SCHEMA = schemathesis.openapi.from_dict(strict(), config=SchemathesisConfig.from_dict(CONFIG))
schemathesis.openapi.format("email", st.from_regex(r"[a-z0-9]{1,30}@[a-z]{1,20}\.example\.org", fullmatch=True))


@schemathesis.serializer("application/offset+octet-stream")
def raw(_: SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def plain(value: Any) -> Any:
    """``value`` without what the services reject although the schemas cannot express it.

    Control and invisible characters, dots and dollar signs in names, integers that a double cannot represent.
    """
    match value:
        case str():
            return re.sub(r"[^!-~]", "x", value)
        case dict():
            return {re.sub(r"[^!-~]|[$.]", "x", name) or "x": plain(item) for name, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case int() if abs(value) >= 1 << 53:
            return 0
    return value


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Person]:
    async with register() as person:
        yield person


@pytest.fixture
async def caller(request: pytest.FixtureRequest, shared: Person) -> AsyncIterator[Person]:
    """The user of an operation; a new one for operations that end the session."""
    if any(f"[{operation}]" in request.node.name for operation in ENDS_THE_SESSION):
        async with register() as person:
            yield person
    else:
        yield shared


@SCHEMA.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_operation_responds_as_documented(case: Case[Any], caller: Person) -> None:
    if case.meta and case.meta.generation.mode.is_positive:
        case.body = plain(case.body)
    response = case.call(headers=caller.headers)
    path = httpx.URL(str(response.request.url)).raw_path.partition(b"?")[0].decode()
    if REFUSED_PATH.search(path):
        assert (response.status_code, response.content) == (400, b"")
        return
    case.validate_response(response, headers=caller.headers)


def get(path: str, names: dict[str, str], *, query: str = "", headers: dict[str, str] | None = None) -> int:
    """The status of a GET of ``path``; the response must be as documented."""
    case = SCHEMA[path]["GET"].Case(path_parameters=names, query=parse_qs(query), headers=headers or {})
    response = case.call()
    case.validate_response(response)
    return response.status_code


async def test_playback_of_a_video_responds_as_documented(person: Person, clip: Callable[[str], Clip]) -> None:
    """Generated requests name no video that exists."""
    source = clip("silent").path
    created = await person.create(source.name, source.stat().st_size, visibility="private")
    video = video_id(created.headers["location"])
    of_video = {"video_id": video}
    playlists = {
        "/video/{video_id}/master.m3u8": of_video,
        "/video/{video_id}/{rendition}.m3u8": {**of_video, "rendition": "240p"},
    }
    for path, names in playlists.items():
        assert get(path, names, headers=person.headers) == 409
    await person.send(created.headers["location"], source)
    assert (await person.outcome(video))["state"] == "ready"
    shown = (await person.get(f"/video/{video}")).json()
    signed = shown["stream_url"].partition("?")[2]
    wrong = re.sub("sig=(.)", lambda found: "sig=y" if found[1] == "x" else "sig=x", signed)
    for path, names in playlists.items():
        assert get(path, names, query=signed) == 200
        assert get(path, names, query=wrong) == 403
    segment = m3u8.load(urljoin(shown["stream_url"], f"240p.m3u8?{signed}")).segments[0].uri
    files = {
        "/video/{video_id}/{name}.jpg": {**of_video, "name": re.split("[/.]", shown["poster_url"])[-2]},
        "/video/{video_id}/{rendition}/{name}.mp4": {**of_video, "rendition": "240p", "name": "init"},
        "/video/{video_id}/{rendition}/{name}.m4s": {
            **of_video,
            "rendition": "240p",
            "name": re.split("[/.]", segment)[1],
        },
    }
    for path, names in files.items():
        for headers, status in (
            ({}, 200),
            ({"Range": "bytes=0-9"}, 206),
            ({"If-None-Match": "*"}, 304),
            ({"If-Match": '"another"'}, 412),
            ({"Range": "bytes=999999999-"}, 416),
        ):
            assert get(path, names, query=signed, headers=headers) == status, path
        assert get(path, names, query=wrong) == 403
