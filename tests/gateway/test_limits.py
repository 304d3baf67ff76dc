"""The gateway's limits per address: requests per second, concurrent requests, and connections."""

from __future__ import annotations

import http.client
import socket
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from routes import ID, UPLOADS, send

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from conftest import Gateway, Login

DYNAMIC = Path(__file__).parents[2] / "traefik/dynamic"
OTHER = "127.0.0.2"
HALF_HEAD = b"GET /media HTTP/1.1\r\nHost: ga"
HALF_BODY = b"POST /nothing HTTP/1.1\r\nHost: gateway\r\nContent-Length: 10\r\n\r\n12345"
HALF_HEADS = 800


def test_login_flood_is_rate_limited(gateway: Gateway) -> None:
    answers: list[httpx.Response] = []
    deadline = time.monotonic() + 60  # a busy machine needs several rounds to exceed the rate
    with ThreadPoolExecutor(32) as pool:
        while not any(answer.status_code == 429 for answer in answers) and time.monotonic() < deadline:
            answers += pool.map(lambda _: send(gateway, "POST /auth/login"), range(300))
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)


def connect(gateway: Gateway, address: str) -> socket.socket:
    port = int(gateway.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(address, 0))


def status(gateway: Gateway, address: str) -> int:
    with closing(http.client.HTTPConnection("gateway")) as connection:
        connection.sock = connect(gateway, address)
        connection.request("GET", "/nothing")
        return connection.getresponse().status


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_requests_in_flight_are_limited_by_address(gateway: Gateway) -> None:
    middlewares = yaml.safe_load((DYNAMIC / "middlewares.yml").read_text())["http"]["middlewares"]
    with ExitStack() as stack:

        def occupy() -> None:
            stack.enter_context(connect(gateway, OTHER)).sendall(HALF_BODY)

        def refused() -> bool:
            occupy()  # again, because an earlier status request may have held the last slot
            return status(gateway, OTHER) == 429

        for _ in range(middlewares["in-flight"]["inFlightReq"]["amount"]):
            occupy()
        until(refused)
        assert send(gateway, "GET /nothing").status_code == 200
    until(lambda: status(gateway, OTHER) == 200)


@pytest.mark.parametrize(("size", "status"), [(30_000, 200), (60_000, 431), (300_000, 431)])
@pytest.mark.parametrize("path", ["/nothing", "/graphql"])
def test_large_head_is_refused_by_the_gateway(gateway: Gateway, path: str, size: int, status: int) -> None:
    """The services close the connection on heads of more than 64 KB."""
    answer = send(gateway, f"GET {path}", {f"X-Large-{number}": "x" * 1000 for number in range(size // 1000)})
    assert answer.status_code == status


def test_incomplete_request_heads_do_not_block_others(gateway: Gateway) -> None:
    """Traefik keeps them until readTimeout, which must be long enough for uploads; each costs a few KiB."""
    with ExitStack() as stack:
        for _ in range(HALF_HEADS):
            stack.enter_context(connect(gateway, OTHER)).sendall(HALF_HEAD)
        assert [status(gateway, address) for address in (OTHER, "127.0.0.1")] == [200, 200]


def requests_by_code(gateway: Gateway, of: str) -> Counter[tuple[str, str]]:
    """Traefik's counter by ``of`` (entrypoint or service) and status."""
    metrics = text_string_to_metric_families(gateway.http.get(f"{gateway.admin}/metrics").text)
    samples = [sample for family in metrics if family.name == f"traefik_{of}_requests" for sample in family.samples]
    counted: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        counted[sample.labels[of], sample.labels["code"]] += int(sample.value)
    return counted


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("sent", [0, 100_000])
@pytest.mark.parametrize("request_", [f"PATCH {UPLOADS}/{ID}+part", "POST /auth/login"])
def test_client_that_disconnects_in_its_body_counts_as_no_error_of_a_service(
    gateway: Gateway, alice: Login, request_: str, sent: int, reset: bool
) -> None:
    """The alert on the gateway's errors relies on it (observability/rules/traefik.yml): for the same cause, Traefik
    counts 499 or, replaced by fallback's 503, 502."""

    def counted(number: int) -> bool:
        seen = requests_by_code(gateway, "entrypoint") - before["entrypoint"]
        return seen["web", "499"] + seen["web", "503"] == number

    head = f"{request_} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000000\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in alice.headers.items())
    before = {of: requests_by_code(gateway, of) for of in ("entrypoint", "service")}
    for number in range(1, 5):
        with connect(gateway, OTHER) as connection:
            connection.sendall(f"{head}\r\n".encode() + b"x" * sent)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(partial(counted, number))
    services = requests_by_code(gateway, "service") - before["service"]
    errors = {(service, code) for service, code in services if code.startswith("5")}
    assert {code for _, code in errors} <= {"502"}
    assert "fallback@file" not in {service for service, _ in errors}
