"""Who may pass, for every route: the table repeats the contract, and the gateway's files must agree with it."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from websockets import Subprotocol
from websockets.sync.client import connect

from kinora_video import uploads

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Gateway, Login

DYNAMIC = Path(__file__).parents[2] / "traefik/dynamic"
OPENAPI = Path(__file__).parents[2] / "platform/src/kinora/openapi.json"
ID = "01a20aee-9907-7735-a28c-5ab9bb4a7c27"
UPLOADS = "/video/upload"

Who: TypeAlias = Literal[
    "anyone",
    "anyone by tus",
    "required",
    "optional",
    "upload owner",
    "upload owner, empty",
    "by address",
    "by signed address",
]

GUARDS: dict[Who, list[str]] = {
    "anyone": [],
    "optional": ["auth-optional"],
    "required": ["auth-required"],
    "upload owner": ["tus", "auth-required", "upload-owner", "upload-errors"],
    "upload owner, empty": ["tus", "auth-required", "upload-owner-empty", "upload-errors"],
    "anyone by tus": ["tus"],
    "by address": ["stream-access", "stream-errors", "stream-path", "stream-headers", "public-cache"],
    "by signed address": ["stream-access", "stream-errors", "stream-path", "stream-headers", "private-cache"],
}


@dataclass(frozen=True)
class Route:
    who: Who
    service: str
    requests: tuple[str, ...]
    """Each ``METHOD path`` is one that the route takes."""
    throttled: bool = False
    compressed: bool = True


ROUTES = {
    "auth-public": Route(
        "anyone", "auth", ("POST /auth/register", "POST /auth/login", "POST /auth/refresh"), throttled=True
    ),
    "openapi": Route("anyone", "auth", ("GET /openapi.json",), throttled=True),
    "auth-keys": Route(
        "anyone",
        "auth",
        ("GET /auth/.well-known/jwks.json", "GET /.well-known/oauth-authorization-server"),
        throttled=True,
    ),
    "auth-sessions": Route(
        "required",
        "auth",
        (
            "POST /auth/logout",
            "POST /auth/logout-all",
            "GET /auth/sessions",
            f"DELETE /auth/sessions/{ID}",
            "PUT /auth/password",
        ),
        throttled=True,
    ),
    "user-own": Route("required", "auth", ("GET /user/profile", "PATCH /user/profile", "DELETE /user/profile")),
    "user-others": Route("optional", "auth", (f"GET /user/{ID}", "POST /user/list")),
    "user-token": Route(
        "anyone", "auth", ("GET /user/token_verify", "GET /user/token_verify?optional=1"), throttled=True
    ),
    "media-read": Route(
        "optional",
        "media",
        (
            "GET /media",
            "GET /media?query=cats",
            "GET /media/feed",
            f"GET /media/users/{ID}",
            f"GET /media/{ID}",
            f"HEAD /media/{ID}",
            f"GET /media/{ID}/comments",
        ),
    ),
    "media-own": Route("required", "media", ("GET /media/dashboard",)),
    "media-write": Route(
        "required",
        "media",
        (
            "POST /media",
            f"PATCH /media/{ID}",
            f"DELETE /media/{ID}",
            f"PUT /media/{ID}/like",
            f"DELETE /media/{ID}/like",
            f"POST /media/{ID}/comments",
            f"PATCH /media/{ID}/comments/{ID}",
            f"DELETE /media/{ID}/comments/{ID}",
            f"PUT /media/users/{ID}/subscription",
            f"DELETE /media/users/{ID}/subscription",
        ),
    ),
    "video-upload": Route(
        "upload owner",
        "tusd",
        (
            "POST /video/upload",
            "POST /video/upload/",
            f"HEAD /video/upload/{ID}+part",
            f"DELETE /video/upload/{ID}+Pa.r_t~2-",
            f"DELETE /video/upload/{ID}+part",
        ),
        compressed=False,
    ),
    "video-upload-empty": Route(
        "upload owner, empty",
        "tusd",
        (f"PATCH /video/upload/{ID}+part", f"POST /video/upload/{ID}+part"),
        compressed=False,
    ),
    "video-upload-options": Route(
        "anyone by tus",
        "video",
        (
            "OPTIONS /video/upload",
            "OPTIONS /video/upload/",
            f"OPTIONS /video/upload/{ID}+Pa.r_t~2-",
            f"OPTIONS /video/upload/{ID}+part",
        ),
        compressed=False,
    ),
    "video-read": Route(
        "optional",
        "video",
        (
            f"GET /video/{ID}",
            f"GET /video/{ID}/master.m3u8",
            f"GET /video/{ID}/720p.m3u8?exp=1&sig=2",
            f"HEAD /video/{ID}/720p/index.m3u8",
        ),
    ),
    "video-progress": Route("required", "video", (f"GET /video/{ID}/progress",), compressed=False),
    "video-write": Route("required", "video", (f"PATCH /video/{ID}", f"DELETE /video/{ID}")),
    "video-stream": Route(
        "by address",
        "streams",
        (
            f"GET /video/{ID}/720p/init.mp4",
            f"GET /video/{ID}/720p/00001-ab_c.m4s",
            f"HEAD /video/{ID}/poster.jpg",
            f"GET /video/{ID}/storyboard.vtt",
        ),
        compressed=False,
    ),
    "video-stream-signed": Route(
        "by signed address",
        "streams",
        (f"GET /video/{ID}/720p/init.mp4?exp=1&sig=2", f"HEAD /video/{ID}/720p/00001-ab_c.m4s?exp=1&sig=2"),
        compressed=False,
    ),
    # Verifies the token itself: apps/graphql/tests/test_http.py.
    "graphql": Route("anyone", "graphql", ("POST /graphql", "GET /graphql")),
}

# Requests that no route of the table matches, by the service that answers 404 or 405.
UNROUTED = {
    "unrouted": ("auth", ["/"]),
    "auth-unrouted": ("auth", ["/auth", "/user", "/.well-known"]),
    "media-unrouted": ("media", ["/media"]),
    "video-unrouted": ("video", ["/video"]),
    "graphql-unrouted": ("graphql", ["/graphql"]),
}
# Not of the table: what the gateway answers alone, and what no route of the table matches.
WITHOUT_GUARD = {"preflight", *UNROUTED}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "QUERY")
# What the gateway asks by itself, at an entry point of its own.
CHECKS = {"check-token": "auth", "check-video": "video"}

UNREACHABLE = [
    "GET /",
    "GET /metrics",
    "GET /healthz",
    "GET /readyz",
    "GET /ping",
    "GET /dashboard/",
    "GET /api/rawdata",
    "GET /internal/stream_verify",
    "POST /internal/tusd/hooks",
    "GET /auth",
    "GET /auth/metrics",
    "GET /auth/../metrics",
    "GET /auth/login",
    "POST /auth/login/",
    "POST /auth/loginx",
    "POST /user/profile",
    "GET /user/list",
    "GET /user/",
    "GET /media/../internal/x",
    "DELETE /media",
    "POST /media/feed",
    f"GET /media/{ID}/like",
    "GET /media/internal",
    "GET /video",
    "GET /video/internal/stream_verify",
    f"GET /video/{ID}/../../metrics",
    f"GET /video/{ID}/secret",
    f"GET /video/{ID}/a/b/init.mp4",
    f"GET /video/{ID}/source.mov",
    f"PUT /video/{ID}/720p/init.mp4",
    f"DELETE /video/{ID}/720p/init.mp4",
    f"GET /video/upload/{ID}",
    "DELETE /video/upload",
    f"DELETE /video/upload/{ID}",
    f"DELETE /video/upload/{ID}+part/",
    f"DELETE /video/upload/{ID}+pa+rt",
    f"DELETE /video/upload/{ID}%2Bpart",
    f"DELETE /video/upload/{ID}+x/video/upload/{ID}+part",
    f"DELETE /video/upload/{ID.upper()}+part",
    f"PATCH /video/upload/{ID}+part;x",
    f"OPTIONS /video/upload/{ID}+x/{ID}+part",
    "GET /streams/",
    f"GET /streams/{ID}/720p/init.mp4",
    "GET /graphql/",
    "PUT /graphql",
    "GET /minio/health/live",
]


def with_head(request: str) -> list[str]:
    method, path = request.split(" ", 1)
    return [request, f"HEAD {path}"] if method == "GET" else [request]


REQUESTS = sorted(
    {(name, each) for name, route in ROUTES.items() for request in route.requests for each in with_head(request)}
)
# Those whose answer from a probe tells what reached it.
TELLING = [(name, request) for name, request in REQUESTS if not request.startswith("HEAD") and "progress" not in name]
GUARDED = [(name, request) for name, request in REQUESTS if not ROUTES[name].who.startswith("anyone")]


def configuration(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in sorted(DYNAMIC.glob("*.yml")):
        found |= yaml.safe_load(file.read_text())["http"].get(kind, {})
    return found


def send(
    gateway: Gateway, request: str, headers: dict[str, str] | None = None, *, at: str = "", **options: Any
) -> httpx.Response:
    """The path goes out as it is written: a client that tidies it up would hide what the gateway does.

    ``at``: another gateway's URL.
    """
    method, path = request.split(" ", 1)
    raw_path = path.encode()
    url = httpx.URL(at or gateway.url, raw_path=raw_path)
    return gateway.http.request(method, url, headers=headers, **options)


def unrouted(answer: httpx.Response) -> bool:
    """Whether the service that owns the path was only asked what is there: no handler of it may run."""
    prefix, _, path = answer.headers.get("x-probe-path", "").partition("/unrouted")
    owners = [owner for owner, prefixes in UNROUTED.values() if path.startswith(tuple(prefixes))]
    return prefix == "" and path != "" and answer.headers.get("x-probe") == owners[-1]


def shape(request: str) -> str:
    """``METHOD path`` without what differs between two requests of one kind."""
    path = request.partition("?")[0]
    return re.sub(
        r"(/720p|/storyboard|/poster)?(/[\w-]+)?\.(m4s|mp4|jpg|vtt)$",
        "/object",
        re.sub(r"/[\w/]+\.m3u8$", ".m3u8", path),
    )


def code(answer: httpx.Response) -> str:
    found: str = answer.json()["code"]
    return found


# --- the files -----------------------------------------------------------------------------------------------------


def test_every_route_is_in_the_table_and_has_what_the_table_says() -> None:
    routers = configuration("routers")
    assert set(routers) - WITHOUT_GUARD - CHECKS.keys() == set(ROUTES)
    for name, route in ROUTES.items():
        wanted = [
            *(["throttle"] if route.throttled else []),
            *GUARDS[route.who],
            *(["compress"] if route.compressed else []),
        ]
        assert routers[name].get("middlewares", []) == wanted, name
        assert routers[name]["service"] == route.service, name
        assert "priority" not in routers[name], name
        assert "entryPoints" not in routers[name], name
        assert "Method(" in routers[name]["rule"], name
    assert set(configuration("services")) == {route.service for route in ROUTES.values()} | {"fallback"}
    for name, (service, prefixes) in UNROUTED.items():
        assert routers[name] == {
            "rule": " || ".join(f"PathPrefix(`{prefix}`)" for prefix in prefixes),
            "priority": 2 if prefixes == ["/"] else 4,
            "middlewares": ["unrouted"],
            "service": service,
        }
    for name, service in CHECKS.items():
        assert (routers[name]["entryPoints"], routers[name]["service"]) == (["checks"], service)


def test_every_entry_strips_identity_before_anything_else() -> None:
    static = yaml.safe_load((DYNAMIC.parent / "traefik.yml").read_text())
    web = static["entryPoints"]["web"]
    assert web["http"]["middlewares"][0] == "strip-identity@file"
    assert web["http"]["aliasHeadersStrategy"] == "delete"
    assert "forwardedHeaders" not in web
    assert "api" not in static
    stripped = configuration("middlewares")["strip-identity"]["headers"]["customRequestHeaders"]
    assert stripped == {"X-User-Id": "", "X-Session-Id": "", "X-User-Roles": "", "Forwarded": ""}
    identity = [name for name in stripped if name != "Forwarded"]
    for name in ("auth-required", "auth-optional"):
        assert configuration("middlewares")[name]["forwardAuth"]["authResponseHeaders"] == identity


def test_an_upload_is_named_by_the_grammar_of_the_video_service() -> None:
    routers = configuration("routers")
    assert f"`^{uploads.COLLECTION}/{uploads.NAME}$`" in routers["video-upload"]["rule"]
    assert f"`^{uploads.COLLECTION}/{uploads.NAME}$`" in routers["video-upload-empty"]["rule"]
    assert f"`^{uploads.COLLECTION}/?$`" in routers["video-upload"]["rule"]
    assert f"`^{uploads.COLLECTION}(/?|/{uploads.NAME})$`" in routers["video-upload-options"]["rule"]


# --- the gateway, before probes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "request_"), REQUESTS)
def test_a_good_token_reaches_the_service_and_names_its_user(
    gateway: Gateway, alice: Login, name: str, request_: str
) -> None:
    route = ROUTES[name]
    gateway.released.set()
    answer = send(gateway, request_, alice.headers)
    assert answer.status_code == 200, answer.text
    if request_.endswith("/progress"):
        assert ("second" in answer.text) == (answer.request.method == "GET")
        return
    assert answer.headers["x-probe"] == route.service
    if answer.request.method == "HEAD":
        return
    seen = answer.json()
    expected = alice.user_id if route.who.startswith(("required", "optional", "upload owner")) else None
    assert seen["headers"].get("x-user-id") == expected
    assert ("x-session-id" in seen["headers"]) == (expected is not None)


@pytest.mark.parametrize(("name", "request_"), REQUESTS)
def test_nobody_passes_where_somebody_is_required(gateway: Gateway, name: str, request_: str) -> None:
    gateway.released.set()
    answer = send(gateway, request_)
    if ROUTES[name].who.startswith(("required", "upload owner")):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        if answer.request.method != "HEAD":
            assert code(answer) == "not_signed_in"
    else:
        assert answer.status_code == 200


@pytest.mark.parametrize(("name", "request_"), GUARDED)
def test_a_bad_or_revoked_token_passes_nowhere(gateway: Gateway, revoked: Login, name: str, request_: str) -> None:
    gateway.released.set()
    for headers in ({"Authorization": "Bearer made.up.token"}, {"Authorization": "Basic eDp5"}, revoked.headers):
        answer = send(gateway, request_, headers)
        if "address" in ROUTES[name].who:  # the address alone opens it
            assert answer.status_code == 200
        else:
            assert answer.status_code == 401
            assert "x-probe" not in answer.headers


@pytest.mark.parametrize(("name", "request_"), TELLING)
def test_an_identity_that_the_client_claims_reaches_no_service(
    gateway: Gateway, alice: Login, name: str, request_: str
) -> None:
    claimed = {
        "X-User-Id": ID,
        "x-user-id": ID,
        "X_User_Id": ID,
        "X-Session-Id": ID,
        "X-User-Roles": "admin",
        "X_User_Roles": "admin",
        "X.User.Roles": "admin",
    }
    claims: list[dict[str, str]] = [claimed, {**claimed, "Connection": "X-User-Id, X-User-Roles"}]
    for who in ({}, alice.headers):
        for claim in claims:
            answer = send(gateway, request_, {**claim, **who})
            if answer.status_code == 401:
                continue
            assert answer.status_code == 200
            seen = {
                header.replace("_", "-").replace(".", "-"): value for header, value in answer.json()["headers"].items()
            }
            assert seen.get("x-user-id") in (None, alice.user_id)
            assert seen.get("x-user-roles", "") == ""
            assert seen.get("x-session-id") != ID
            assert ID not in (seen.get("x-user-id"), seen.get("x-session-id"))
            if not who:
                assert "x-user-id" not in seen


@pytest.mark.parametrize("request_", UNREACHABLE)
def test_what_is_not_in_the_table_is_not_reachable(gateway: Gateway, alice: Login, request_: str) -> None:
    answer = send(gateway, request_, alice.headers)
    assert unrouted(answer), answer.text


@pytest.mark.parametrize("path", sorted({request.split(" ")[1] for _, request in REQUESTS}))
def test_every_method_passes_the_guard_of_its_route_or_reaches_no_handler(gateway: Gateway, path: str) -> None:
    gateway.released.set()
    guarded = ("required", "upload owner")
    public = {shape(request) for name, request in REQUESTS if not ROUTES[name].who.startswith(guarded)}
    for method in METHODS:
        answer = send(gateway, f"{method} {path}")
        if answer.status_code != 401 and not unrouted(answer):
            assert shape(f"{method} {path}") in public, method


EXAMPLES = {"rendition": "720p", "name": "abc", "upload": f"{ID}+part"}
OPERATIONS = [
    (method.upper(), re.sub(r"\{(\w+)\}", lambda found: EXAMPLES.get(found[1], ID), path), operation["security"])
    for path, operations in json.loads(OPENAPI.read_text())["paths"].items()
    for method, operation in operations.items()
    if path != "/video/upload/{name}"  # OPTIONS of any depth: the grammar of uploads is the gateway's
]


@pytest.mark.parametrize(("method", "path", "security"), OPERATIONS)
def test_every_operation_of_the_document_has_a_route_with_its_guard(
    gateway: Gateway, method: str, path: str, security: list[dict[str, Any]]
) -> None:
    gateway.released.set()
    answer = send(gateway, f"{method} {path}")
    if security and {} not in security:
        assert answer.status_code == 401
    else:
        assert answer.status_code == 200
        assert not unrouted(answer)


def test_no_route_is_at_the_entry_point_for_health_and_metrics(gateway: Gateway, alice: Login) -> None:
    """What strips a client's identity headers is not there."""
    answer = gateway.http.get(f"{gateway.admin}/user/profile", headers={**alice.headers, "X-User-Id": ID})
    assert answer.status_code == 404
    assert "X-Probe" not in answer.headers


@pytest.mark.parametrize(
    "path",
    ["/media/%2e%2e/metrics", "/media/..%2fmetrics", f"/video/{ID}/%2e%2e%2fx.mp4", "/user/%00", "/auth%2flogin"],
)
def test_an_encoded_path_reaches_nothing_else(gateway: Gateway, path: str) -> None:
    answer = send(gateway, f"GET {path}")
    assert answer.status_code in (400, 404) or unrouted(answer), answer.text


def test_a_session_that_ends_is_refused_at_the_next_request(gateway: Gateway, sign_in: Callable[[], Login]) -> None:
    login = sign_in()
    seen = send(gateway, "GET /media/dashboard", login.headers).json()["headers"]
    identity = {name: seen[name] for name in ("x-user-id", "x-session-id")}
    httpx.post("http://127.0.0.1:8101/auth/logout", headers=identity, trust_env=False).raise_for_status()
    assert code(send(gateway, "GET /media/dashboard", login.headers)) == "invalid_token"


def test_an_upload_is_only_its_owners(gateway: Gateway, alice: Login) -> None:
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
def test_the_video_service_is_told_of_an_upload_without_a_body(
    gateway: Gateway, alice: Login, body: bytes | list[bytes], empty: bool
) -> None:
    gateway.asked.clear()
    send(gateway, f"PATCH /video/upload/{ID}+part", alice.headers | {"Upload-Offset": "7"}, content=body)
    [asked] = gateway.asked
    assert asked["path"] == "/internal/upload_verify" + ("?empty=1" if empty else "")
    assert asked["headers"]["upload-offset"] == "7"


def test_a_segment_is_fetched_from_the_store_as_the_video_service_signed_it(gateway: Gateway, alice: Login) -> None:
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
    """Whatever the object store says of its objects, which are the same before and after a change of visibility."""
    public = send(gateway, f"GET /video/{ID}/720p/1.m4s").headers["cache-control"].split(", ")
    private = send(gateway, f"GET /video/{ID}/720p/1.m4s?exp=1&sig=2").headers["cache-control"].split(", ")
    shared = next(int(each.removeprefix("s-maxage=")) for each in public if each.startswith("s-maxage="))
    assert public[0] == "public"
    assert 0 < shared <= 60
    assert private[0] == "private"
    assert not {"immutable", "must-revalidate"} & {*public, *private}
    gateway.refusals.add("/internal/stream_verify")
    try:
        assert "cache-control" not in send(gateway, f"GET /video/{ID}/720p/1.m4s").headers, "a refusal is not kept"
    finally:
        gateway.refusals.clear()


def unavailable(answer: httpx.Response) -> bool:
    """Whether it is told so that every client understands: come again, it is not gone."""
    if answer.request.method == "HEAD":
        return answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    return (
        (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        and answer.json()["code"] == "unavailable"
        and int(answer.headers["retry-after"]) > 0
    )


@pytest.mark.parametrize(("name", "request_"), REQUESTS)
def test_route_answers_503_with_a_problem_while_everything_is_away(
    gateway: Gateway, deserted: str, alice: Login, name: str, request_: str
) -> None:
    for headers in ({}, alice.headers):
        answer = send(gateway, request_, {**headers, "Origin": "https://app.example"}, at=deserted)
        assert unavailable(answer), (headers, answer.status_code, answer.headers, answer.text)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "Retry-After" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(("name", "request_"), GUARDED)
def test_route_answers_503_with_a_problem_while_its_service_is_away(
    gateway: Gateway, admitting: str, alice: Login, name: str, request_: str
) -> None:
    answer = send(gateway, request_, alice.headers, at=admitting)
    assert unavailable(answer), (answer.status_code, answer.headers, answer.text)
    refused = send(gateway, request_, {"Authorization": "Bearer made.up.token"}, at=admitting)
    # An address opens a stream, and only video could say whether it does.
    assert refused.status_code == (503 if "address" in ROUTES[name].who else 401)


@pytest.mark.parametrize("prefix", sorted({prefix for _, prefixes in UNROUTED.values() for prefix in prefixes}))
def test_unrouted_path_answers_503_while_everything_is_away(gateway: Gateway, deserted: str, prefix: str) -> None:
    """Nobody is there who knows whether the path exists."""
    answer = send(gateway, f"GET {prefix}", at=deserted)
    assert unavailable(answer), (answer.status_code, answer.headers, answer.text)


@pytest.mark.parametrize("request_", [f"POST {UPLOADS}", f"PATCH {UPLOADS}/{ID}+part", f"HEAD {UPLOADS}/{ID}+part"])
@pytest.mark.parametrize("theirs", [500, 503])
def test_error_of_the_upload_server_is_a_problem_document(
    gateway: Gateway, alice: Login, request_: str, theirs: int
) -> None:
    """tusd quotes the object store and the hooks, with their addresses. Fallback is a probe here."""
    answer = send(gateway, request_, {**alice.headers, "X-Answer": str(theirs), "Origin": "https://app.example"})
    assert answer.status_code == 503
    assert (answer.headers["x-probe"], answer.headers["x-probe-path"]) == ("fallback", "/unavailable")
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]


@pytest.mark.parametrize("theirs", [400, 403, 404, 409, 412, 413, 460])
def test_refusal_of_the_upload_server_passes(gateway: Gateway, alice: Login, theirs: int) -> None:
    answer = send(gateway, f"PATCH {UPLOADS}/{ID}+part", {**alice.headers, "X-Answer": str(theirs)}, content=b"x")
    assert (answer.status_code, answer.headers["x-probe"]) == (theirs, "tusd")


def test_what_a_service_says_of_itself_passes(gateway: Gateway, alice: Login) -> None:
    """Its 500 is a defect, its 503 says what is away: neither is replaced."""
    for status in (500, 503):
        answer = send(gateway, "GET /media", {**alice.headers, "X-Answer": str(status)})
        assert (answer.status_code, answer.headers["x-probe"]) == (status, "media")


def test_where_a_request_came_from_is_what_the_gateway_saw(gateway: Gateway) -> None:
    lies = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Real-Ip": "203.0.113.9",
        "X-Forwarded-Host": "evil.example",
        "Forwarded": "for=203.0.113.9;host=evil.example;proto=https",
    }
    seen = send(gateway, "GET /media", lies).json()["headers"]
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert "203.0.113.9" not in str(seen)
    assert "evil.example" not in str(seen)


def test_events_arrive_when_they_are_sent(gateway: Gateway, alice: Login) -> None:
    gateway.released.clear()
    try:
        with gateway.http.stream(
            "GET", f"{gateway.url}/video/{ID}/progress", headers={**alice.headers, "Accept-Encoding": "gzip"}
        ) as answer:
            received = answer.iter_text()
            assert "first" in next(received)
            gateway.released.set()
            assert "second" in "".join(received)
    finally:
        gateway.released.set()


@pytest.mark.parametrize("token", ["none", "good", "revoked"])
def test_websockets_reach_graphql(gateway: Gateway, alice: Login, revoked: Login, token: str) -> None:
    with connect(
        f"{gateway.url.replace('http', 'ws')}/graphql",
        subprotocols=[Subprotocol("graphql-transport-ws")],
        additional_headers={"none": {}, "good": alice.headers, "revoked": revoked.headers}[token],
        proxy=None,
    ) as websocket:
        assert websocket.subprotocol == "graphql-transport-ws"
        assert websocket.recv(timeout=10) == "nobody"  # it signs in with connection_init


# What clients send: Apollo and urql, Sentry's browser SDK, tus-js-client, jQuery, fetch with a cache mode, hls.js.
SENT = [
    "authorization,content-type,apollographql-client-name,apollographql-client-version",
    "authorization,x-requested-with",
    "baggage,sentry-trace,traceparent,tracestate",
    "authorization,tus-resumable,upload-offset,content-type,x-request-id",
    "if-none-match,if-modified-since,cache-control,pragma",
    "range,if-range",
    "authorization,x-anything-at-all",
]


@pytest.mark.parametrize("path", ["/graphql", "/user/profile", f"/video/upload/{ID}", f"/video/{ID}/720p/1.m4s"])
@pytest.mark.parametrize("sent", SENT)
def test_preflight_allows_any_request_header(gateway: Gateway, path: str, sent: str) -> None:
    asked = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": sent,
    }
    answer = send(gateway, f"OPTIONS {path}", asked)
    assert answer.status_code == 200
    assert "x-probe" not in answer.headers
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert "PATCH" in answer.headers["access-control-allow-methods"].split(",")
    # Without credentials `*` is any header but Authorization, which has to be named (Fetch, CORS-preflight fetch).
    assert "access-control-allow-credentials" not in answer.headers
    allowed = answer.headers["access-control-allow-headers"].lower().split(",")
    assert {"*", "authorization"} <= set(allowed)
    # Named, too, for what predates the wildcard.
    assert set(sent.split(",")) - {"x-anything-at-all"} <= set(allowed)


def test_every_response_header_is_exposed(gateway: Gateway) -> None:
    refused = send(gateway, "GET /user/profile", {"Origin": "https://app.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
    exposed = set(refused.headers["access-control-expose-headers"].split(","))
    assert {"*", "Location", "Upload-Offset", "Upload-Length", "Tus-Resumable", "Retry-After"} <= exposed
    assert {"ETag", "Content-Range", "Content-Length", "Date", "Allow", "WWW-Authenticate"} <= exposed


# What a client needs of a segment, and what the gateway says of itself.
STREAM_HEADERS = {"accept-ranges", "cache-control", "content-length", "content-range", "content-type", "date", "etag"}
STREAM_HEADERS |= {"last-modified", "referrer-policy", "x-content-type-options", "x-frame-options"}
STREAM_HEADERS |= {"access-control-allow-origin", "access-control-expose-headers"}


@pytest.mark.parametrize("query", ["", "?exp=1&sig=2"])
def test_segment_has_no_header_of_the_object_store(gateway: Gateway, query: str) -> None:
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
def test_error_of_the_object_store_is_a_problem_document(
    gateway: Gateway, method: str, query: str, theirs: int, ours: int
) -> None:
    """As the video service words it: here a probe says what it was asked."""
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


def test_answers_say_nothing_of_the_servers_and_are_not_guessed_at(gateway: Gateway) -> None:
    answer = send(gateway, "GET /media")
    assert "server" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_json_is_compressed_and_video_is_not(gateway: Gateway) -> None:
    large = {"Accept-Encoding": "gzip", "X-Padding": "x" * 4000}
    assert send(gateway, "GET /media", large).headers["content-encoding"] == "gzip"
    assert "content-encoding" not in send(gateway, f"GET /video/{ID}/720p/1.m4s", large).headers


def test_the_log_names_the_path_and_neither_query_nor_token(gateway: Gateway, alice: Login) -> None:
    secret = "signature-that-nobody-may-read"
    assert send(gateway, f"GET /video/{ID}/720p/7.m4s?sig={secret}", alice.headers).status_code == 200
    deadline = time.monotonic() + 5
    while (log := gateway.log.read_text()).count("/720p/7.m4s") == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    line = json.loads(next(line for line in log.splitlines() if "/720p/7.m4s" in line))
    assert line["RequestMethod"] == "GET"
    assert secret not in log
    assert alice.access_token not in log


def test_a_flood_of_logins_is_slowed_down(gateway: Gateway) -> None:
    answers: list[httpx.Response] = []
    deadline = time.monotonic() + 60  # on a busy machine it takes a while until enough of them come close together
    with ThreadPoolExecutor(32) as pool:
        while not any(answer.status_code == 429 for answer in answers) and time.monotonic() < deadline:
            answers += pool.map(lambda _: send(gateway, "POST /auth/login"), range(300))
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)


@pytest.mark.e2e
def test_the_running_gateway_knows_who_is_calling(alice: Login, revoked: Login) -> None:
    with httpx.Client(base_url="http://127.0.0.1:8080", trust_env=False) as http:
        profile = http.get("/user/profile", headers={**alice.headers, "X-User-Id": ID})
        assert (profile.status_code, profile.json()["id"]) == (200, alice.user_id)
        assert code(http.get("/user/profile", headers={"X-User-Id": alice.user_id})) == "not_signed_in"
        assert code(http.get("/user/profile", headers=revoked.headers)) == "invalid_token"
        assert code(http.get(f"/user/{ID}", headers=revoked.headers)) == "invalid_token"
        assert http.get(f"/user/{alice.user_id}").status_code == 200
        assert http.post("/auth/logout", headers=alice.headers | {"X-Session-Id": ID}).status_code == 204
        assert code(http.get("/user/profile", headers=alice.headers)) == "invalid_token"
