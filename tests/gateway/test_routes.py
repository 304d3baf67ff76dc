"""Who may use each route: Traefik's own files must match the table in routes.py, and so must a running gateway."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from routes import GUARDED, GUARDS, ID, REQUESTS, ROUTES, UNROUTED, code, send, unrouted

from kinora_video import tus

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Gateway, Login

DYNAMIC = Path(__file__).parents[2] / "traefik/dynamic"
OPENAPI = Path(__file__).parents[2] / "platform/src/kinora/openapi.json"

# Routers outside the table: CORS preflights, which the gateway answers itself, and the catch-all routes.
WITHOUT_GUARD = {"preflight", *UNROUTED}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "QUERY")
# The targets of ForwardAuth, at their own entry point.
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

# Requests that the probe answers with what it received.
ECHOED = [(name, request) for name, request in REQUESTS if not request.startswith("HEAD") and "progress" not in name]


def configuration(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in sorted(DYNAMIC.glob("*.yml")):
        found |= yaml.safe_load(file.read_text())["http"].get(kind, {})
    return found


def shape(request: str) -> str:
    """``METHOD path`` with the names of stream objects normalized."""
    path = request.partition("?")[0]
    return re.sub(
        r"(/720p|/storyboard|/poster)?(/[\w-]+)?\.(m4s|mp4|jpg|vtt)$",
        "/object",
        re.sub(r"/[\w/]+\.m3u8$", ".m3u8", path),
    )


# --- Traefik's files
# ---------------------------------------------------------------------------------------------------


def test_routers_match_the_table() -> None:
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
            "middlewares": ["tus", "unrouted"] if service == "video" else ["unrouted"],
            "service": service,
        }
    for name, service in CHECKS.items():
        assert (routers[name]["entryPoints"], routers[name]["service"]) == (["checks"], service)


def test_entry_point_strips_identity_headers_first() -> None:
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


def test_upload_rules_use_the_grammar_of_the_video_service() -> None:
    routers = configuration("routers")
    assert f"`^{tus.COLLECTION}/{tus.NAME}$`" in routers["video-upload"]["rule"]
    assert f"`^{tus.COLLECTION}/{tus.NAME}$`" in routers["video-upload-empty"]["rule"]
    assert f"`^{tus.COLLECTION}/?$`" in routers["video-upload"]["rule"]
    assert f"`^{tus.COLLECTION}(/?|/{tus.NAME})$`" in routers["video-upload-options"]["rule"]


# --- a running gateway, with probes as services
# -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "request_"), REQUESTS)
def test_valid_token_reaches_service_with_identity_headers(
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
def test_guarded_route_rejects_request_without_token(gateway: Gateway, name: str, request_: str) -> None:
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
def test_guarded_route_rejects_invalid_or_revoked_token(
    gateway: Gateway, revoked: Login, name: str, request_: str
) -> None:
    gateway.released.set()
    for headers in ({"Authorization": "Bearer made.up.token"}, {"Authorization": "Basic eDp5"}, revoked.headers):
        answer = send(gateway, request_, headers)
        if "stream URL" in ROUTES[name].who:  # streams are authorised by URL alone
            assert answer.status_code == 200
        else:
            assert answer.status_code == 401
            assert "x-probe" not in answer.headers


@pytest.mark.parametrize(("name", "request_"), ECHOED)
def test_identity_headers_of_the_client_are_stripped(gateway: Gateway, alice: Login, name: str, request_: str) -> None:
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
def test_path_without_route_reaches_no_handler(gateway: Gateway, alice: Login, request_: str) -> None:
    answer = send(gateway, request_, alice.headers)
    assert unrouted(answer), answer.text


@pytest.mark.parametrize("path", sorted({request.split(" ")[1] for _, request in REQUESTS}))
def test_other_methods_pass_the_guard_or_reach_no_handler(gateway: Gateway, path: str) -> None:
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
    if path != "/video/upload/{name}"  # OPTIONS at any depth: only the gateway enforces the grammar of uploads
]


@pytest.mark.parametrize(("method", "path", "security"), OPERATIONS)
def test_openapi_operation_has_a_route_with_its_guard(
    gateway: Gateway, method: str, path: str, security: list[dict[str, Any]]
) -> None:
    gateway.released.set()
    answer = send(gateway, f"{method} {path}")
    if security and {} not in security:
        assert answer.status_code == 401
    else:
        assert answer.status_code == 200
        assert not unrouted(answer)


def test_admin_entry_point_has_no_routes(gateway: Gateway, alice: Login) -> None:
    """The middleware that strips a client's identity headers is not configured there."""
    answer = gateway.http.get(f"{gateway.admin}/user/profile", headers={**alice.headers, "X-User-Id": ID})
    assert answer.status_code == 404
    assert "X-Probe" not in answer.headers


@pytest.mark.parametrize(
    "path",
    ["/media/%2e%2e/metrics", "/media/..%2fmetrics", f"/video/{ID}/%2e%2e%2fx.mp4", "/user/%00", "/auth%2flogin"],
)
def test_encoded_path_reaches_no_handler(gateway: Gateway, path: str) -> None:
    answer = send(gateway, f"GET {path}")
    assert answer.status_code in (400, 404) or unrouted(answer), answer.text


def test_ended_session_is_rejected_at_the_next_request(gateway: Gateway, sign_in: Callable[[], Login]) -> None:
    login = sign_in()
    seen = send(gateway, "GET /media/dashboard", login.headers).json()["headers"]
    identity = {name: seen[name] for name in ("x-user-id", "x-session-id")}
    httpx.post("http://127.0.0.1:8101/auth/logout", headers=identity, trust_env=False, timeout=60).raise_for_status()
    assert code(send(gateway, "GET /media/dashboard", login.headers)) == "invalid_token"


@pytest.mark.e2e
def test_running_gateway_authenticates_callers(sign_in: Callable[[], Login], revoked: Login) -> None:
    login = sign_in()
    with httpx.Client(base_url="http://127.0.0.1:8080", trust_env=False, timeout=60) as http:
        profile = http.get("/user/profile", headers={**login.headers, "X-User-Id": ID})
        assert (profile.status_code, profile.json()["id"]) == (200, login.user_id)
        assert code(http.get("/user/profile", headers={"X-User-Id": login.user_id})) == "not_signed_in"
        assert code(http.get("/user/profile", headers=revoked.headers)) == "invalid_token"
        assert code(http.get(f"/user/{ID}", headers=revoked.headers)) == "invalid_token"
        assert http.get(f"/user/{login.user_id}").status_code == 200
        assert http.post("/auth/logout", headers=login.headers | {"X-Session-Id": ID}).status_code == 204
        assert code(http.get("/user/profile", headers=login.headers)) == "invalid_token"
