"""Uploads through the gateway to tusd, and streams from the object store: guards, headers and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from routes import ID, UPLOADS, send

if TYPE_CHECKING:
    from conftest import Gateway, Login


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
    claimed = {**alice.headers, "X-Amz-Date": "never", "X-Forwarded-Uri": "/video/other/init.mp4", "Range": "bytes=0-9"}
    seen = send(gateway, f"GET /video/{ID}/720p/1.m4s?exp=1&sig=2", claimed).json()
    assert seen["path"] == f"/streams/{ID}/720p/1.m4s?exp=1&sig=2"
    assert seen["headers"]["authorization"] == "AWS4 of ours"
    assert seen["headers"]["x-amz-date"] == "now"
    assert seen["headers"]["range"] == "bytes=0-9"
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
    ("theirs", "ours"), [(400, 503), (403, 503), (404, 404), (412, 412), (416, 416), (500, 503), (503, 503)]
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
