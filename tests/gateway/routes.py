"""The contract of the gateway's routes, with a request to each: what is public, and what each guard protects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import httpx

if TYPE_CHECKING:
    from conftest import Gateway

ID = "01a20aee-9907-7735-a28c-5ab9bb4a7c27"
UPLOADS = "/video/upload"

Who: TypeAlias = Literal[
    "public",
    "public, tus",
    "required",
    "optional",
    "upload owner",
    "upload owner, empty body",
    "stream URL",
    "signed stream URL",
]

GUARDS: dict[Who, list[str]] = {
    "public": [],
    "optional": ["auth-optional"],
    "required": ["auth-required"],
    "upload owner": ["tus", "auth-required", "uploads-busy", "uploads-per-user", "upload-owner", "upload-errors"],
    "upload owner, empty body": [
        "tus",
        "auth-required",
        "uploads-busy",
        "uploads-per-user",
        "upload-owner-empty",
        "upload-errors",
    ],
    "public, tus": ["tus"],
    "stream URL": ["stream-access", "stream-errors", "stream-path", "stream-headers", "public-cache"],
    "signed stream URL": ["stream-access", "stream-errors", "stream-path", "stream-headers", "private-cache"],
}


@dataclass(frozen=True)
class Route:
    who: Who
    service: str
    requests: tuple[str, ...]
    """Each is a ``METHOD path`` that the route matches."""
    throttled: bool = False
    compressed: bool = True


ROUTES = {
    "auth-public": Route(
        "public", "auth", ("POST /auth/register", "POST /auth/login", "POST /auth/refresh"), throttled=True
    ),
    "openapi": Route("public", "auth", ("GET /openapi.json",), throttled=True),
    "auth-keys": Route(
        "public",
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
    "user-export": Route(
        "required", "auth", ("POST /user/export", "GET /user/export", "DELETE /user/export"), throttled=True
    ),
    "user-export-archive": Route(
        "public", "auth", (f"GET /user/export/{ID}/archive?exp=1&sig=2",), throttled=True, compressed=False
    ),
    "user-others": Route("optional", "auth", (f"GET /user/{ID}", "GET /user/by-name/ada", "POST /user/list")),
    "user-token": Route(
        "public", "auth", ("GET /user/token_verify", "GET /user/token_verify?optional=1"), throttled=True
    ),
    "media-read": Route(
        "optional",
        "media",
        (
            "GET /media",
            "GET /media?query=cats",
            "GET /media/feed",
            "GET /media/categories",
            f"GET /media/users/{ID}",
            f"GET /media/{ID}",
            f"HEAD /media/{ID}",
            f"GET /media/{ID}/comments",
            f"GET /media/{ID}/comments/{ID}/replies",
            f"GET /media/users/{ID}/playlists",
            f"GET /media/playlists/{ID}",
            f"GET /media/playlists/{ID}/items",
        ),
    ),
    "media-own": Route(
        "required",
        "media",
        (
            "GET /media/dashboard",
            "GET /media/history",
            "GET /media/likes",
            "GET /media/notifications",
            "GET /media/notifications/unread",
            "GET /media/personalisation",
            "GET /media/playlists",
            "GET /media/playlists/watch-later",
            "GET /media/subscriptions",
            "GET /media/subscriptions/media",
            f"GET /media/{ID}/retention",
        ),
    ),
    "media-watch": Route("optional", "media", ("POST /media/impressions", f"POST /media/{ID}/views")),
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
            f"PUT /media/{ID}/comments/{ID}/like",
            f"DELETE /media/{ID}/comments/{ID}/like",
            f"PUT /media/{ID}/comments/{ID}/pin",
            f"DELETE /media/{ID}/comments/{ID}/pin",
            f"PUT /media/users/{ID}/subscription",
            f"DELETE /media/users/{ID}/subscription",
            "PUT /media/notifications/read",
            f"DELETE /media/notifications/{ID}",
            "PUT /media/personalisation",
            "POST /media/playlists",
            f"PATCH /media/playlists/{ID}",
            f"DELETE /media/playlists/{ID}",
            f"PUT /media/playlists/{ID}/items/{ID}",
            f"DELETE /media/playlists/{ID}/items/{ID}",
            "DELETE /media/history",
            f"DELETE /media/{ID}/history",
            f"PUT /media/users/{ID}/hidden",
            f"DELETE /media/users/{ID}/hidden",
            f"PUT /media/{ID}/hidden",
            f"DELETE /media/{ID}/hidden",
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
        "upload owner, empty body",
        "tusd",
        (f"PATCH /video/upload/{ID}+part", f"POST /video/upload/{ID}+part"),
        compressed=False,
    ),
    "video-upload-options": Route(
        "public, tus",
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
        "stream URL",
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
        "signed stream URL",
        "streams",
        (f"GET /video/{ID}/720p/init.mp4?exp=1&sig=2", f"HEAD /video/{ID}/720p/00001-ab_c.m4s?exp=1&sig=2"),
        compressed=False,
    ),
    # Verifies the token itself: apps/graphql/tests/test_http.py.
    "graphql": Route("public", "graphql", ("POST /graphql", "GET /graphql")),
}

# The routes for requests that match nothing else, and the services that answer these with 404 or 405.
UNROUTED = {
    "unrouted": ("auth", ["/"]),
    "auth-unrouted": ("auth", ["/auth", "/user", "/.well-known"]),
    "media-unrouted": ("media", ["/media"]),
    "video-unrouted": ("video", ["/video"]),
    "graphql-unrouted": ("graphql", ["/graphql"]),
}


def with_head(request: str) -> list[str]:
    method, path = request.split(" ", 1)
    return [request, f"HEAD {path}"] if method == "GET" else [request]


REQUESTS = sorted(
    {(name, each) for name, route in ROUTES.items() for request in route.requests for each in with_head(request)}
)
GUARDED = [(name, request) for name, request in REQUESTS if not ROUTES[name].who.startswith("public")]


def send(
    gateway: Gateway, request: str, headers: dict[str, str] | None = None, *, at: str = "", **options: Any
) -> httpx.Response:
    """Send the path unchanged: normalization by the client would hide what the gateway does with it.

    ``at``: the URL of another gateway.
    """
    method, path = request.split(" ", 1)
    raw_path = path.encode()
    url = httpx.URL(at or gateway.url, raw_path=raw_path)
    return gateway.http.request(method, url, headers=headers, **options)


def unrouted(answer: httpx.Response) -> bool:
    """Whether the request went to ``/unrouted`` of the service that owns the path, where no handler runs."""
    prefix, _, path = answer.headers.get("x-probe-path", "").partition("/unrouted")
    owners = [owner for owner, prefixes in UNROUTED.values() if path.startswith(tuple(prefixes))]
    return bool(prefix == "" and path != "" and answer.headers.get("x-probe") == owners[-1])


def code(answer: httpx.Response) -> str:
    found: str = answer.json()["code"]
    return found
