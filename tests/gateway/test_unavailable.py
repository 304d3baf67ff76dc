"""What clients get while a service is unavailable: 503, a problem document and Retry-After, on every route."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest
from routes import GUARDED, REQUESTS, ROUTES, UNROUTED, send

if TYPE_CHECKING:
    from conftest import Gateway, Login


def unavailable(answer: httpx.Response) -> bool:
    """Whether the response tells every client to retry later."""
    if answer.request.method == "HEAD":
        return answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    return (
        (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        and answer.json()["code"] == "unavailable"
        and int(answer.headers["retry-after"]) > 0
    )


@pytest.mark.parametrize(("name", "request_"), REQUESTS)
def test_route_answers_503_while_all_services_are_down(
    gateway: Gateway, all_down: str, alice: Login, name: str, request_: str
) -> None:
    for headers in ({}, alice.headers):
        answer = send(gateway, request_, {**headers, "Origin": "https://app.example"}, at=all_down)
        assert unavailable(answer), (headers, answer.status_code, answer.headers, answer.text)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "Retry-After" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(("name", "request_"), GUARDED)
def test_route_answers_503_while_its_service_is_down(
    gateway: Gateway, only_auth_up: str, alice: Login, name: str, request_: str
) -> None:
    answer = send(gateway, request_, alice.headers, at=only_auth_up)
    assert unavailable(answer), (answer.status_code, answer.headers, answer.text)
    refused = send(gateway, request_, {"Authorization": "Bearer made.up.token"}, at=only_auth_up)
    # Streams are authorised by URL, which only the video service can check.
    assert refused.status_code == (503 if "stream URL" in ROUTES[name].who else 401)


@pytest.mark.parametrize("prefix", sorted({prefix for _, prefixes in UNROUTED.values() for prefix in prefixes}))
def test_unrouted_path_answers_503_while_all_services_are_down(gateway: Gateway, all_down: str, prefix: str) -> None:
    """Only the service knows whether the path exists."""
    answer = send(gateway, f"GET {prefix}", at=all_down)
    assert unavailable(answer), (answer.status_code, answer.headers, answer.text)


def test_route_answers_503_while_its_guard_hangs(hung: str, alice: Login) -> None:
    """ForwardAuth itself gives up after 30 s, with a 500 and an empty body. At the same time, as each takes 28 s."""
    segment = "/video/01a21f9d-eab6-7241-8ff4-18051a2980c0/240p/init.mp4"
    with ThreadPoolExecutor() as pool:
        sent = [
            pool.submit(httpx.get, f"{hung}{path}", headers=alice.headers, timeout=40, trust_env=False)
            for path in ("/user/profile", "/media/feed", segment)
        ]
    for answer in (each.result() for each in sent):
        assert unavailable(answer), (answer.request.url, answer.status_code, answer.headers, answer.text)


def test_service_errors_pass_unchanged(gateway: Gateway, alice: Login) -> None:
    """Its 500 is a bug, its 503 names the missing dependency: neither is replaced."""
    for status in (500, 503):
        answer = send(gateway, "GET /media", {**alice.headers, "X-Answer": str(status)})
        assert (answer.status_code, answer.headers["x-probe"]) == (status, "media")
