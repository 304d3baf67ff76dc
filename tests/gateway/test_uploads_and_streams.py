"""Uploads through the gateway to tusd, and streams from the object store: guards, headers and errors."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest
from routes import ID, UPLOADS, code, send, unrouted

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Gateway, Login

PATIENCE_SECONDS = 30


def test_upload_is_authorised_by_the_video_service(gateway: Gateway, alice: Login) -> None:
    gateway.asked.clear()
    upload = f"/video/upload/{ID}+part"
    lies = {"X-Forwarded-Uri": "/video/upload", "X-Forwarded-Method": "POST", "X-HTTP-Method-Override": "DELETE"}
    seen = send(gateway, f"PATCH {upload}", alice.headers | lies, content=b"x" * 100).json()
    assert seen["body_bytes"] == 100
    [asked] = gateway.asked
    assert asked["path"] == "/internal/upload_verify"
    assert asked["headers"]["x-user-id"] == alice.user_id
    assert asked["headers"]["x-forwarded-uri"] == upload
    assert asked["headers"]["x-forwarded-method"] == "PATCH"
    assert asked["headers"]["x-http-method-override"] == "DELETE"
    gateway.refusals.add("/internal/upload_verify")
    try:
        refused = send(gateway, f"PATCH {upload}", alice.headers, content=b"x")
        assert (refused.status_code, refused.headers["tus-resumable"]) == (403, "1.0.0")
    finally:
        gateway.refusals.clear()
    refused = send(gateway, f"PATCH {upload}", content=b"x")
    assert (refused.status_code, refused.headers["tus-resumable"]) == (401, "1.0.0")


def test_tusd_receives_the_upload_headers_of_the_video_service(gateway: Gateway, alice: Login) -> None:
    """Not the client's headers, which tusd could parse differently."""
    sent = {
        "Upload-Concat": "final;/video/upload/x",
        "Upload-Length": "10",
        "Upload-Defer-Length": "1",
        "Upload-Metadata": "a",
        "X-HTTP-Method-Override": "DELETE",
        "Upload-Draft-Interop-Version": "6",
        "Upload-Complete": "?1",
        "Upload-Incomplete": "?0",
    }
    gateway.asked.clear()
    for request in (f"POST {UPLOADS}", f"PATCH {UPLOADS}/{ID}+part"):
        seen = send(gateway, request, alice.headers | sent, content=b"x").json()["headers"]
        assert {name: value for name, value in seen.items() if name in map(str.lower, sent)} == {
            "upload-concat": "of ours"
        }
    read = [name for name in sent if not name.startswith(("Upload-Draft", "Upload-Complete", "Upload-Incomplete"))]
    for asked in gateway.asked:
        assert {name: asked["headers"][name.lower()] for name in read} == {name: sent[name] for name in read}


def test_upload_requests_in_flight_are_limited_by_user(
    gateway: Gateway, sign_in: Callable[[], Login], fallback: str
) -> None:
    someone, other = sign_in(), sign_in()
    gateway.asked.clear()
    address = urlsplit(gateway.url)
    head = f"PATCH {UPLOADS}/{ID}+part HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in someone.headers.items())
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            connection = stack.enter_context(socket.create_connection((address.hostname, address.port or 80)))
            connection.sendall(f"{head}\r\nx".encode())
        _until(lambda: len(gateway.asked) == 16)
        refused = send(gateway, f"HEAD {UPLOADS}/{ID}+part", someone.headers)
        assert (refused.status_code, refused.headers["x-probe"]) == (429, "fallback")
        assert refused.headers["x-probe-path"] == "/too_many_at_once"
        assert refused.headers["tus-resumable"] == "1.0.0"
        assert send(gateway, f"HEAD {UPLOADS}/{ID}+part", other.headers).status_code == 200
    _until(lambda: send(gateway, f"HEAD {UPLOADS}/{ID}+part", someone.headers).status_code == 200)
    problem = httpx.get(f"{fallback}/too_many_at_once")
    assert (problem.status_code, problem.headers["retry-after"], code(problem)) == (429, "1", "too_many_at_once")


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("body", "empty"), [(b"", True), (b"x", False), ([b"x"], False), ([], False)])
def test_upload_guard_reports_empty_body(
    gateway: Gateway, alice: Login, body: bytes | list[bytes], empty: bool
) -> None:
    gateway.asked.clear()
    send(gateway, f"PATCH /video/upload/{ID}+part", alice.headers | {"Upload-Offset": "7"}, content=body)
    [asked] = gateway.asked
    assert asked["path"] == "/internal/upload_verify" + ("?empty=1" if empty else "")
    assert asked["headers"]["upload-offset"] == "7"


def test_segment_request_carries_the_signature_of_the_video_service(gateway: Gateway, alice: Login) -> None:
    gateway.asked.clear()
    removed = {
        "X-Amz-Security-Token": "x",
        "X-Amz-Server-Side-Encryption-Customer-Algorithm": "AES256",
        "X-Minio-Extract": "true",
        "Content-MD5": "x",
        "Cookie": "x" * 8000,
        "Referer": "x" * 8000,
    }
    claimed = {"X-Amz-Date": "never", "X-Forwarded-Uri": "/video/other/init.mp4", "Range": "bytes=0-9"}
    claimed |= alice.headers | removed
    seen = send(gateway, f"GET /video/{ID}/720p/1.m4s?exp=1&sig=2", claimed).json()
    assert seen["path"] == f"/streams/{ID}/720p/1.m4s?exp=1&sig=2"
    assert seen["headers"]["authorization"] == "AWS4 of ours"
    assert seen["headers"]["x-amz-date"] == "now"
    assert seen["headers"]["range"] == "bytes=0-9"
    assert not {name.lower() for name in removed} & set(seen["headers"])
    assert seen["headers"]["host"] != urlsplit(gateway.url).netloc
    [asked] = gateway.asked
    assert asked["headers"]["x-forwarded-uri"] == f"/video/{ID}/720p/1.m4s?exp=1&sig=2"
    assert "authorization" not in asked["headers"]
    gateway.refusals.add("/internal/stream_verify")
    try:
        assert send(gateway, f"GET /video/{ID}/720p/1.m4s").status_code == 403
    finally:
        gateway.refusals.clear()


def test_stream_caching_follows_visibility(gateway: Gateway) -> None:
    """The object store's own Cache-Control is replaced: its objects do not change with the visibility."""
    public = send(gateway, f"GET /video/{ID}/720p/1.m4s").headers["cache-control"].split(", ")
    private = send(gateway, f"GET /video/{ID}/720p/1.m4s?exp=1&sig=2").headers["cache-control"].split(", ")
    shared = next(int(each.removeprefix("s-maxage=")) for each in public if each.startswith("s-maxage="))
    assert public[0] == "public"
    assert 0 < shared <= 60
    assert private[0] == "private"
    assert not {"immutable", "must-revalidate"} & {*public, *private}
    gateway.refusals.add("/internal/stream_verify")
    try:
        assert "cache-control" not in send(gateway, f"GET /video/{ID}/720p/1.m4s").headers, "errors are not cached"
    finally:
        gateway.refusals.clear()


@pytest.mark.parametrize("request_", [f"POST {UPLOADS}", f"PATCH {UPLOADS}/{ID}+part", f"HEAD {UPLOADS}/{ID}+part"])
@pytest.mark.parametrize("theirs", [500, 503])
def test_tusd_error_becomes_a_problem_document(gateway: Gateway, alice: Login, request_: str, theirs: int) -> None:
    """tusd quotes errors of the object store and the hooks, with their addresses. Fallback is a probe here."""
    answer = send(gateway, request_, {**alice.headers, "X-Answer": str(theirs), "Origin": "https://app.example"})
    assert answer.status_code == 503
    assert (answer.headers["x-probe"], answer.headers["x-probe-path"]) == ("fallback", "/unavailable")
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]


@pytest.mark.parametrize("request_", [f"GET {UPLOADS}", f"PUT {UPLOADS}/{ID}+part"])
def test_refused_method_of_an_upload_has_the_version_of_tus(gateway: Gateway, request_: str) -> None:
    answer = send(gateway, request_)
    assert unrouted(answer)
    assert answer.headers["tus-resumable"] == "1.0.0"


@pytest.mark.parametrize("theirs", [400, 403, 404, 409, 412, 413, 460])
def test_tusd_rejection_passes_unchanged(gateway: Gateway, alice: Login, theirs: int) -> None:
    answer = send(gateway, f"PATCH {UPLOADS}/{ID}+part", {**alice.headers, "X-Answer": str(theirs)}, content=b"x")
    assert (answer.status_code, answer.headers["x-probe"]) == (theirs, "tusd")


# Headers that a client needs with a segment, and those that the gateway adds.
STREAM_HEADERS = {"accept-ranges", "cache-control", "content-length", "content-range", "content-type", "date", "etag"}
STREAM_HEADERS |= {"last-modified", "referrer-policy", "x-content-type-options", "x-frame-options"}
STREAM_HEADERS |= {"access-control-allow-origin", "access-control-expose-headers"}


@pytest.mark.parametrize("query", ["", "?exp=1&sig=2"])
def test_segment_response_has_no_object_store_headers(gateway: Gateway, query: str) -> None:
    answer = send(
        gateway, f"GET /video/{ID}/720p/1.m4s{query}", {"Origin": "https://app.example", "X-Probe-Store": "200"}
    )
    assert answer.status_code == 200
    assert {name for name in answer.headers if not name.startswith("x-probe")} <= STREAM_HEADERS
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert answer.headers["etag"] == '"of-the-store"'


@pytest.mark.parametrize("query", ["", "?exp=1&sig=2"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("theirs", "ours"), [(400, 400), (403, 503), (404, 404), (412, 412), (416, 416), (500, 503), (503, 503)]
)
def test_object_store_error_becomes_a_problem_document(
    gateway: Gateway, method: str, query: str, theirs: int, ours: int
) -> None:
    """The video service writes it; here a probe reports what it was asked."""
    path = f"/video/{ID}/720p/1.m4s"
    answer = send(gateway, f"{method} {path}{query}", {"Origin": "https://app.example", "X-Probe-Store": str(theirs)})
    assert answer.status_code == ours
    assert answer.headers["x-probe"] == "video"
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert not {name for name in answer.headers if name.startswith(("x-amz", "x-minio", "strict-transport"))}
    asked = answer.headers["x-probe-path"]
    assert asked == f"/internal/stream_error?status={theirs}"
    assert gateway.asked[-1]["headers"]["x-replaced-path"] == path
    assert "BucketName" not in answer.text
