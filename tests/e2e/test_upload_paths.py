"""Generated requests, through the real gateway to the real tusd, never reach another user's uploads."""

from __future__ import annotations

import asyncio
import base64
import email.utils
import http.client
import itertools
import os
import posixpath
import re
import struct
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

import httpx
import pytest
from client import TUS, Person, register, video_id
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from test_bad_input import emptied
from test_journey import assert_plays

from conftest import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from clips import Clip

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

TUSD, VIDEO = "http://127.0.0.1:8108", "http://127.0.0.1:8103"
SECRET = "nobody-else-may-see-this"
SENT = b"the first bytes of the owner"
SIZE = 1000
REFRESH_SECONDS = 180
"""Well before the access token expires."""
# Of a dozen requests each; more in `make test-all`.
EXAMPLES = int(os.environ.get("KINORA_TEST_EXAMPLES", "40"))


class Connection(http.client.HTTPConnection):
    """Sends a request target unchanged; http.client and other clients would normalise or reject it."""

    def _validate_path(self, url: str) -> None:
        pass

    def _encode_request(self, request: str) -> bytes:
        return request.encode("latin-1")


@dataclass(repr=False)
class Duel:
    """Eve, who has uploads and knows the complete ids of an owner's private uploads.

    Each also has a complete partial upload, which a final upload could name.
    """

    owner: Person
    eve: Person
    target: str
    target_partial: str
    own: str
    own_partial: str
    connection: Connection
    signed_in_at: float = field(default_factory=time.monotonic)

    @property
    def words(self) -> dict[str, str]:
        (target, target_part), (own, own_part) = self.target.split("+"), self.own.split("+")
        return {
            "TARGET": target,
            "TARGET_PART": target_part,
            "OWN": own,
            "OWN_PART": own_part,
            "TARGET_PARTIAL": self.target_partial,
            "OWN_PARTIAL": self.own_partial,
            "OWNER": self.owner.id,
        }

    async def assert_untouched(self) -> None:
        """The owner's uploads are unchanged."""
        partial = await self.owner.http.head(
            f"/video/upload/{self.target_partial}", headers={**self.owner.headers, **TUS}
        )
        assert (partial.status_code, partial.headers["upload-concat"]) == (200, "partial")
        assert partial.headers["upload-offset"] == partial.headers["upload-length"] == str(len(SENT))
        head = await self.owner.http.head(f"/video/upload/{self.target}", headers={**self.owner.headers, **TUS})
        assert head.status_code == 200
        assert (head.headers["upload-offset"], head.headers["upload-length"]) == (str(len(SENT)), str(SIZE))
        shown = (await self.owner.get(f"/video/{video_id(self.target)}")).json()
        assert (shown["state"], shown["visibility"]) == ("uploading", "private")

    async def begin_again(self) -> None:
        """Refresh tokens that expire soon, and create new uploads for Eve if hers are gone."""
        if time.monotonic() - self.signed_in_at > REFRESH_SECONDS:
            await self.owner.refresh()
            await self.eve.refresh()
            self.signed_in_at = time.monotonic()
        head = await self.eve.http.head(f"/video/upload/{self.own}", headers={**self.eve.headers, **TUS})
        if head.status_code != 200:
            self.own = await begin(self.eve, "eve")
        head = await self.eve.http.head(f"/video/upload/{self.own_partial}", headers={**self.eve.headers, **TUS})
        if head.status_code != 200:
            self.own_partial = await begin_partial(self.eve, SENT)


async def begin(person: Person, title: str) -> str:
    """Start an upload and send its first bytes; returns its complete id."""
    created = await person.create(f"{title}.mp4", SIZE, title=title, visibility="private")
    assert created.status_code == 201, created.text
    headers = {**person.headers, **TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    sent = await person.http.patch(created.headers["location"], headers=headers, content=SENT)
    assert sent.status_code == 204, sent.text
    return str(created.headers["location"]).rpartition("/")[2]


async def begin_partial(person: Person, content: bytes) -> str:
    """Create a complete partial upload; returns its complete id."""
    created = await person.create_partial(len(content))
    assert created.status_code == 201, created.text
    headers = {**person.headers, **TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    sent = await person.http.patch(created.headers["location"], headers=headers, content=content)
    assert sent.status_code == 204, sent.text
    return str(created.headers["location"]).rpartition("/")[2]


@pytest.fixture(scope="module")
async def duel() -> AsyncIterator[Duel]:
    async with register() as owner, register() as eve:
        connection = Connection("127.0.0.1", 8080, timeout=30)
        targets = await begin(owner, SECRET), await begin_partial(owner, SENT)
        yield Duel(owner, eve, *targets, await begin(eve, "eve"), await begin_partial(eve, SENT), connection)
        connection.close()


NAMES = [
    "{TARGET}+{TARGET_PART}",
    "{OWN}+{OWN_PART}",
    "{TARGET}+{OWN_PART}",
    "{OWN}+{TARGET_PART}",
    "{TARGET}",
    "{OWN}",
]
PIECES = ["{TARGET_PART}", "{OWN_PART}", "/video/upload/", "/video/upload", "video/upload/", "x", "%76ideo"]
MARKS = [
    *("+", "%2B", "%2b", "/", "//", "%2F", "%2f", ";", "%3B", "?", "#", "&", "=", ".", "..", "%2e%2e", "/../", "/./"),
    *("/..;/", "\\", "%5C", "%00", "%20", "%0d%0a", "%25", "%252B", "%C0%AF", "~", ":", "@", "é"),
]
TARGETS = st.one_of(
    # An upload's path, with a prefix and a suffix.
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", "", "", "/.", "/x/..", "/", "/internal/..", "http://localhost:8080", "/%76"]),
        st.sampled_from(["/video/upload/", "/video/upload/", "/video//upload/", "/VIDEO/upload/", "/video/upload%2F"]),
        st.sampled_from(NAMES),
        st.lists(st.sampled_from([*NAMES, *PIECES, *MARKS]), max_size=4).map("".join),
    ),
    st.lists(st.sampled_from([*NAMES, *PIECES, *MARKS, "/"]), min_size=1, max_size=8).map(
        lambda pieces: "/" + "".join(pieces)
    ),
)
METHODS = st.sampled_from(
    ["HEAD", "DELETE", "PATCH", "POST", "POST", "OPTIONS", "GET", "PUT", "delete", "TRACE", "PURGE"]
)
PATCH = (("Content-Type", "application/offset+octet-stream"), ("Upload-Offset", str(len(SENT))))
HEADERS = st.lists(
    st.sampled_from(
        [
            *((("X-HTTP-Method-Override", method),) for method in ("DELETE", "PATCH", "HEAD", "GET", "delete", "")),
            (("X_HTTP_Method_Override", "DELETE"),),
            (("X-Forwarded-Uri", "/video/upload/{OWN}+{OWN_PART}"),),
            (("X-Forwarded-Uri", "/video/upload"), ("X-Forwarded-Method", "POST")),
            (("X-Forwarded-Prefix", "/video/upload/{TARGET}+{TARGET_PART}"),),
            (("X-Original-Url", "/video/upload/{TARGET}+{TARGET_PART}"),),
            (("X-User-Id", "{OWNER}"),),
            (("X_User_Id", "{OWNER}"), ("X.User.Id", "{OWNER}")),
            (("X-User-Id", "{OWNER}"), ("Connection", "X-User-Id")),
            (("Connection", "X-HTTP-Method-Override, X-Forwarded-Uri"),),
            (("Upload-Concat", "final;/video/upload/{TARGET}+{TARGET_PART}"),),
            (("Upload-Concat", "final;/video/upload/{TARGET_PARTIAL}"),),
            (("Upload-Concat", "final;/video/upload/{OWN_PARTIAL}"),),
            (("Upload-Concat", "final;/video/upload/{OWN_PARTIAL} http://x/video/upload/{TARGET_PARTIAL}"),),
            (("Upload-Concat", "final;http://x/video/upload/{OWN_PARTIAL}/video/upload/{TARGET_PARTIAL}"),),
            (("Upload-Concat", "final;/video/upload/{OWN_PARTIAL}"), ("Upload-Concat", "final;{TARGET_PARTIAL}")),
            (("Upload-Concat", "partial"),),
            (("Upload_Concat", "final;/video/upload/{TARGET_PARTIAL}"),),
            (("Upload-Length", "10"),),
            (("Upload-Length", str(11 << 30)),),
            (("Upload-Defer-Length", "1"),),
            (("Upload-Draft-Interop-Version", "6"), ("Upload-Complete", "?1")),
            PATCH,
        ]
    ),
    max_size=3,
)
TRAILERS = st.sampled_from([None, None, None, {}, {"X-User-Id": "{OWNER}", "X-HTTP-Method-Override": "DELETE"}])


Request: TypeAlias = tuple[str, str, list[tuple[tuple[str, str], ...]], dict[str, str] | None]


def ask(duel: Duel, request: Request) -> http.client.HTTPResponse:
    method, target, headers, trailers = request
    connection, words = duel.connection, duel.words
    connection.putrequest(method, target.format_map(words), skip_accept_encoding=True)
    for name, value in [*duel.eve.headers.items(), *TUS.items(), *itertools.chain(*headers)]:
        connection.putheader(name, value.format_map(words))
    if trailers is None:
        connection.putheader("Content-Length", "0")
        connection.endheaders()
    else:
        connection.putheader("Transfer-Encoding", "chunked")
        connection.putheader("Trailer", ", ".join(trailers) or "X-Nothing")
        ends = "".join(f"{name}: {value.format_map(words)}\r\n" for name, value in trailers.items())
        connection.endheaders(f"6\r\npoison\r\n0\r\n{ends}\r\n".encode())
    return connection.getresponse()


async def judge(duel: Duel, request: Request) -> None:
    """Send one of Eve's requests, and check the response."""
    try:
        answer = ask(duel, request)
    except ConnectionError:  # the gateway closed the connection after the previous response
        duel.connection.close()
        answer = ask(duel, request)
    seen = f"{request}: {answer.status} {answer.headers}{answer.read().decode('latin-1')}"
    assert answer.status < 500, seen
    assert SECRET not in seen
    assert base64.b64encode(SECRET.encode()).decode().rstrip("=") not in seen
    # OPTIONS has no effect; below /video, it succeeds for any path with methods.
    if request[0] == "OPTIONS" or not 200 <= answer.status < 300:
        return
    target = request[1].format_map(duel.words).removeprefix("http://localhost:8080").partition("?")[0]
    target = posixpath.normpath(re.sub("^/+", "/", target))  # normpath keeps two leading slashes
    assert target in ("/video/upload", *(f"/video/upload/{name}" for name in (duel.own, duel.own_partial))), seen
    if answer.status == 201:
        assert not [value for name, value in itertools.chain(*request[2]) if "Concat" in name and "TARGET" in value]
        made = answer.headers["Location"]
        assert made.startswith("http://localhost:8080/video/upload/")
        ended = await duel.eve.http.delete(made, headers={**duel.eve.headers, **TUS})
        assert ended.status_code == 204, ended.text


ATTACK = "/video/upload/{TARGET}+x/video/upload/{OWN}"


# Without shrinking, which took five minutes; the failure names its request.
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(st.lists(st.tuples(METHODS, TARGETS, HEADERS, TRAILERS), min_size=8, max_size=16))
@example([("HEAD", ATTACK, [], None), ("DELETE", ATTACK, [], None)])
@example([("POST", ATTACK, [(("X-HTTP-Method-Override", "DELETE"),)], None)])
@example([("POST", "/video/upload", [(("Upload-Concat", "final;/video/upload/{OWN_PARTIAL}"),)], None)])
@example([("POST", "/video/upload", [(("Upload-Concat", "final;/video/upload/{TARGET_PARTIAL}"),)], None)])
@example([("POST", "/video/upload", [(("Upload-Defer-Length", "1"),), (("Upload-Concat", "partial"),)], None)])
@example([("HEAD", "/video/upload/{OWN}+{TARGET_PART}", [], None), ("DELETE", "/video/upload/{OWN}+x", [], None)])
@example([("POST", "/video/upload/{OWN}+{OWN_PART}", [(("X-HTTP-Method-Override", "PATCH"), *PATCH)], {})])
async def test_generated_requests_never_reach_the_uploads_of_another_user(duel: Duel, requests: list[Request]) -> None:
    await duel.begin_again()
    for request in requests:
        await judge(duel, request)
    await duel.assert_untouched()


HOOKS = ["post-create", "post-receive", "post-finish", "pre-terminate", "pre-finish", "post-terminate"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("who", ["eve", "nobody"])
async def test_hooks_reject_other_users(duel: Duel, hook: str, who: str) -> None:
    """Called directly, without the gateway's check."""
    identity = {"X-User-Id": [duel.eve.id]} if who == "eve" else {}
    for name in (duel.target, f"{duel.target}/video/upload/{duel.own}", f"{duel.target}+{duel.own}"):
        event = {"Upload": {"ID": name, "Size": SIZE, "Offset": SIZE}, "HTTPRequest": {"Header": identity}}
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            answer = await http.post(f"{VIDEO}/internal/tusd/hooks", json={"Type": hook, "Event": event})
        said = answer.json()
        assert said["RejectTermination"] is True
        assert "StopUpload" not in said  # tusd would discard the owner's bytes
        assert said["HTTPResponse"]["StatusCode"] in (401, 404)
    await duel.assert_untouched()


async def test_tusd_does_not_terminate_uploads_of_another_user(duel: Duel) -> None:
    identity = {**TUS, "X-User-Id": duel.eve.id}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        for name in (duel.target, f"{duel.target.partition('+')[0]}+x", f"{duel.target}/"):
            refused = await http.delete(f"{TUSD}/video/upload/{name}", headers=identity)
            assert (refused.status_code, refused.json()["code"]) == (404, "video_not_found")
    await duel.assert_untouched()


async def test_tusd_does_not_concatenate_partial_uploads_of_another_user(duel: Duel) -> None:
    """Called directly, without the gateway's check."""
    identity = {**TUS, "X-User-Id": duel.eve.id}
    names = (duel.target_partial, f"{duel.own_partial} /video/upload/{duel.target_partial}")
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        for name in names:
            concat = {"Upload-Concat": f"final;/video/upload/{name}"}
            refused = await http.post(f"{TUSD}/video/upload/", headers={**identity, **concat})
            assert (refused.status_code, refused.json()["code"]) == (404, "video_not_found")
    await duel.assert_untouched()


async def test_final_upload_accepts_only_partial_uploads(duel: Duel) -> None:
    for name, status, code in (
        (duel.own, 409, "not_concatenable"),
        (f"{duel.own_partial.partition('+')[0]}+x", 404, "video_not_found"),
        (duel.target, 404, "video_not_found"),
    ):
        refused = await duel.eve.http.post(
            "/video/upload",
            headers={**duel.eve.headers, **TUS, "Upload-Concat": f"final;/video/upload/{name}"},
        )
        assert (refused.status_code, refused.json()["code"]) == (status, code)


def in_three(clip: Path, *, padded_to: int) -> list[bytes]:
    content = clip.read_bytes()
    if padding := max(0, padded_to - len(content)):
        content += struct.pack(">I4s", padding, b"free") + bytes(padding - 8)  # players skip this box
    third = len(content) // 3
    return [content[:third], content[third : 2 * third], content[2 * third :]]


@pytest.mark.parametrize("size", [0, 16 << 20], ids=["assembled by tusd", "copied by the object store"])
async def test_parallel_upload_plays(person: Person, clip: Callable[[str], Clip], size: int) -> None:
    source = clip("short")
    parts = await asyncio.gather(*(begin_partial(person, part) for part in in_three(source.path, padded_to=size)))
    assert (await person.get(f"/media/users/{person.id}")).json()["items"] == []
    locations = [f"http://localhost:8080/video/upload/{part}" for part in parts]
    made = await person.concatenate("a.mp4", locations)
    assert made.status_code == 201, made.text
    assert "upload-expires" not in made.headers
    head = await person.http.head(made.headers["location"], headers={**person.headers, **TUS})
    assert head.headers["upload-concat"] == "final;" + " ".join(locations)
    assert head.headers["upload-offset"] == head.headers["upload-length"] == str(max(size, source.path.stat().st_size))
    video = video_id(made.headers["location"])
    assert (await person.outcome(video))["state"] == "ready"
    await assert_plays(person.http, (await person.get(f"/video/{video}")).json()["stream_url"], source)

    again = await person.concatenate("a.mp4", locations)
    assert (again.status_code, again.json()["code"]) == (410, "upload_ended")
    for part in parts:
        assert (await person.get(f"/video/{video_id(part)}")).status_code == 404
        await until(emptied(video_id(part)), what="the partial upload's objects to be removed")


async def test_upload_of_deferred_length_plays(person: Person, clip: Callable[[str], Clip]) -> None:
    source = clip("short")
    content = source.path.read_bytes()
    half, tus = len(content) // 2, {**person.headers, **TUS}
    made = await person.http.post("/video/upload", headers={**tus, "Upload-Defer-Length": "1"})
    assert made.status_code == 201, made.text
    location = made.headers["location"]
    expires = email.utils.parsedate_to_datetime(made.headers["upload-expires"])
    assert timedelta(hours=23) < expires - datetime.now(UTC) <= timedelta(hours=24)
    sending = {**tus, "Content-Type": "application/offset+octet-stream"}
    first = await person.http.patch(location, headers={**sending, "Upload-Offset": "0"}, content=content[:half])
    assert first.status_code == 204, first.text
    head = await person.http.head(location, headers=tus)
    assert (head.headers["upload-defer-length"], head.headers["upload-offset"]) == ("1", str(half))

    late = {**sending, "Upload-Offset": str(half)}
    beyond = await person.http.patch(location, headers={**late, "Upload-Length": str((10 << 30) + 1)}, content=b"x")
    assert (beyond.status_code, beyond.json()["code"]) == (413, "file_too_large")
    rest = await person.http.patch(
        location, headers={**late, "Upload-Length": str(len(content))}, content=content[half:]
    )
    assert (rest.status_code, rest.headers["upload-offset"]) == (204, str(len(content)))
    assert (await person.outcome(video_id(location)))["state"] == "ready"
    shown = (await person.get(f"/video/{video_id(location)}")).json()
    assert shown["size"] == len(content)


@pytest.mark.parametrize("headers", [{"Upload-Length": str((10 << 30) + 1)}, {"Upload-Length": "-1"}, {}])
@pytest.mark.parametrize("concat", [{}, {"Upload-Concat": "partial"}])
async def test_invalid_upload_length_gets_a_problem_document(
    duel: Duel, headers: dict[str, str], concat: dict[str, str]
) -> None:
    refused = await duel.eve.http.post("/video/upload", headers={**duel.eve.headers, **TUS, **headers, **concat})
    assert refused.json()["code"] in ("file_too_large", "invalid_input", "size_unknown")
    assert refused.status_code in (413, 422, 400)


async def test_location_is_the_public_url_regardless_of_host_headers(duel: Duel) -> None:
    lies = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example;proto=https"}
    created = await duel.eve.http.post(
        "/video/upload", headers={**duel.eve.headers, **TUS, **lies, "Upload-Length": "10"}
    )
    assert created.status_code == 201, created.text
    assert created.headers["location"].startswith("http://localhost:8080/video/upload/")
    await duel.eve.http.delete(created.headers["location"], headers={**duel.eve.headers, **TUS})


@pytest.mark.parametrize("path", ["/video/upload", "/video/upload/", "/video/upload/{OWN}+{OWN_PART}"])
async def test_options_lists_tus_extensions_without_a_token(duel: Duel, path: str) -> None:
    answer = await duel.eve.http.options(path.format_map(duel.words))
    assert answer.status_code == 204
    told = {name: value for name, value in answer.headers.items() if name.startswith("tus-")}
    assert told == {
        "tus-resumable": "1.0.0",
        "tus-version": "1.0.0",
        "tus-extension": "creation,creation-with-upload,creation-defer-length,concatenation,termination",
        "tus-max-size": str(10 << 30),
    }


@pytest.mark.parametrize("name", ["x", "{OWN}", "{OWN}+{OWN_PART}{TARGET}+{TARGET_PART}", "{OWN}+{OWN_PART}/x"])
async def test_options_of_an_invalid_upload_path_is_404(duel: Duel, name: str) -> None:
    answer = await duel.eve.http.options(f"/video/upload/{name}".format_map(duel.words))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_creation_with_upload(duel: Duel) -> None:
    made = await duel.eve.http.post(
        "/video/upload",
        headers={**duel.eve.headers, **TUS, "Upload-Length": "10", "Content-Type": "application/offset+octet-stream"},
        content=b"12345",
    )
    assert (made.status_code, made.headers["upload-offset"]) == (201, "5")
    await duel.eve.http.delete(made.headers["location"], headers={**duel.eve.headers, **TUS})


async def test_rejections_of_the_gateway_have_the_protocol_version(duel: Duel) -> None:
    refused = await duel.eve.http.post("/video/upload", headers={**TUS, "Upload-Length": "10"})
    assert (refused.status_code, refused.headers["tus-resumable"]) == (401, "1.0.0")
    hidden = await duel.eve.http.head(f"/video/upload/{duel.target}", headers={**duel.eve.headers, **TUS})
    assert (hidden.status_code, hidden.headers["tus-resumable"]) == (404, "1.0.0")


@pytest.mark.parametrize(
    ("metadata", "status", "code"),
    [
        ({"filename": "a.mp4", "note": "x" * 2300}, 413, "metadata_too_large"),
        ({"filename": "a.mp4", "b\N{LATIN SMALL LETTER E WITH ACUTE}": "x"}, 422, "invalid_input"),
        ({"filename": "a.mp4", "a:b": "x"}, 422, "invalid_input"),
        ({"filename": "a.mp4", "filetype": "video/mp4\r\nX-Amz-Acl: public-read"}, 422, "invalid_input"),
        ({"filename": "a.mp4", "nul": "\0"}, 422, "invalid_input"),
        ({"filename": "a.png"}, 415, "unsupported_type"),
    ],
)
async def test_invalid_metadata_gets_a_problem_document(
    duel: Duel, metadata: dict[str, str], status: int, code: str
) -> None:
    pairs = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in metadata.items())
    refused = await duel.eve.http.post(
        "/video/upload",
        headers=[  # type: ignore[arg-type] # httpx takes text and bytes, its types only one of them
            *(duel.eve.headers | TUS).items(),
            ("Upload-Length", "10"),
            ("Upload-Metadata", pairs.encode("latin-1")),
        ],
    )
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["tus-resumable"] == "1.0.0"


@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(st.text(alphabet="aB9-_.!~*'%$^`|#&+", min_size=1, max_size=64), st.text(max_size=600), max_size=6)
)
@example({"title": "  spaces   inside and around  "})
@example({"title": "0\t0"})
@example({"é": "x"})
@example({"title": "x" * (2048 - len("x-amz-meta-title"))})
async def test_accepted_metadata_is_returned_unchanged(duel: Duel, metadata: dict[str, str]) -> None:
    try:
        pairs = ",".join(
            f"{key} {base64.b64encode(value.encode()).decode()}".rstrip(" ") for key, value in metadata.items()
        )
    except UnicodeEncodeError:  # lone surrogates cannot be encoded
        return
    created = await duel.eve.http.post(
        "/video/upload",
        headers=[  # type: ignore[arg-type] # httpx takes text and bytes, its types only one of them
            *(duel.eve.headers | TUS).items(),
            ("Upload-Length", "10"),
            ("Upload-Metadata", pairs.encode("latin-1")),
        ],
    )
    if created.status_code != 201:
        assert created.json()["code"] in ("invalid_input", "metadata_too_large", "unsupported_type"), created.text
        return
    shown = await duel.eve.http.head(created.headers["location"], headers={**duel.eve.headers, **TUS})
    back = shown.headers.get("upload-metadata", "").split(",")
    assert {pair.rstrip(" ") for pair in back} == set(pairs.split(","))
    await duel.eve.http.delete(created.headers["location"], headers={**duel.eve.headers, **TUS})


async def test_complete_upload_reports_its_offset_and_rejects_more_bytes(duel: Duel) -> None:
    created = await duel.eve.create("text.mp4", 20)
    location, whole = created.headers["location"], {**duel.eve.headers, **TUS, "Upload-Offset": "20"}
    offset = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    sent = await duel.eve.http.patch(location, headers=whole | offset, content=b"This is not a video.")
    assert sent.status_code == 204, sent.text
    assert (await duel.eve.outcome(video_id(location)))["state"] == "failed"
    for _ in range(2):
        assert await duel.eve.offset(location) == 20
        beyond = await duel.eve.http.patch(location, headers=offset | whole, content=b"x")
        assert (beyond.status_code, beyond.json()["code"]) == (413, "upload_full")
        again = await duel.eve.http.patch(location, headers=offset | whole, content=b"")
        assert (again.status_code, again.headers["upload-offset"]) == (204, "20")
        late = await duel.eve.http.patch(location, headers=whole | offset, content=b"x")
        assert late.status_code == 409
        await until(emptied(video_id(location)), what="the failed video's objects to be removed")
    ended = await duel.eve.http.delete(location, headers=whole)
    assert ended.status_code == 204
    assert (await duel.eve.http.head(location, headers=whole)).status_code in (404, 410)


@pytest.mark.parametrize("name", ["Screen Recording at 9.41.02\u202fAM.mp4", "\u0645\u06cc\u200c\u062e\u0648.mp4"])
async def test_filename_may_contain_unicode_spaces_and_joiners(duel: Duel, name: str) -> None:
    created = await duel.eve.create(name, 10)
    assert created.status_code == 201, created.text
    await duel.eve.http.delete(created.headers["location"], headers={**duel.eve.headers, **TUS})
