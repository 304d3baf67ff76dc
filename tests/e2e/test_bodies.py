"""Fuzzing request bodies: any bytes get a response below 500, and errors are problem documents."""

from __future__ import annotations

import json
import os
import re
import time
from importlib import resources
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from client import GATEWAY, register
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DOCUMENT = json.loads(resources.files("kinora").joinpath("openapi.json").read_text())
ID = "01890000-0000-7000-8000-000000000000"
EXAMPLES = int(os.environ.get("KINORA_TEST_EXAMPLES", "40"))
SCHEMAS = DOCUMENT["components"]["schemas"]


def fields(schema: dict[str, Any]) -> list[str]:
    """The names of an object's properties."""
    reference = str(schema.get("$ref", "")).rpartition("/")[2]
    return list((SCHEMAS[reference] if reference else schema)["properties"])


ROUTES = {
    f"{method.upper()} {path}": fields(operation["requestBody"]["content"]["application/json"]["schema"])
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    if "application/json" in operation.get("requestBody", {}).get("content", {})
}
ROUTES["POST /graphql"] = ["query", "variables", "operationName", "extensions"]

VALUES = [
    b"null",
    b"true",
    b'""',
    b'"text"',
    b"[]",
    b"{}",
    b'"\\u0000"',
    b'"\\ud800"',
    b'"\\udfff\\ud800"',
    b'"\xff"',
    b'"\xed\xa0\x80"',  # an encoded surrogate
    b'"\xc0\x80"',  # NUL in overlong encoding
    b'"\x00"',
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"-0",
    b"9" * 5000,
    b"1" + b"0" * 30,
    b'"' + b"x" * 70000 + b'"',
    b"[" * 100_000,
    b"[" * 60 + b"]" * 60,
    b'{"a":' * 100 + b"0" + b"}" * 100,
]
TYPES = [
    "application/json",
    "application/json; charset=utf-16",
    "application/vnd.api+json",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/form-data; boundary=x",
    "text/plain",
    "nonsense",
    "",
]


def bodies(names: list[str]) -> st.SearchStrategy[bytes]:
    """Objects with known, unknown and duplicate fields; bare values; other bytes."""
    keys = st.sampled_from([*(json.dumps(name).encode() for name in names), b'""', b'"\\ud800"', b'"$where"', b"1"])
    values = st.sampled_from(VALUES)
    pair = st.builds(lambda key, value: key + b":" + value, keys, values)
    objects = st.lists(pair, max_size=5).map(lambda pairs: b"{" + b",".join(pairs) + b"}")
    return st.one_of(objects, values, st.binary(max_size=30), objects.map(lambda body: b"\xef\xbb\xbf" + body[:-1]))


@pytest.fixture(scope="module")
async def headers() -> AsyncIterator[dict[str, str]]:
    async with register() as person:
        yield person.headers


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(base_url=GATEWAY, timeout=60) as client:
        yield client


def unthrottled(request: Callable[[], httpx.Response]) -> httpx.Response:
    """Repeat a request that the gateway's own rate limit refused, which no service has seen."""
    while True:
        answer = request()
        if answer.status_code != 429 or "content-type" in answer.headers:
            return answer
        time.sleep(max(0.1, float(answer.headers["retry-after"])))


@pytest.mark.parametrize("route", ROUTES)
def test_any_body_gets_a_documented_response(route: str, headers: dict[str, str], http: httpx.Client) -> None:
    method, path = route.split()
    address = re.sub(r"{\w+}", ID, path)

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(body=bodies(ROUTES[route]), kind=st.sampled_from(TYPES[:1] * 8 + TYPES))
    @example(body=b"", kind=TYPES[0])
    def send(body: bytes, kind: str) -> None:
        sent = headers | {"Content-Type": kind}
        answer = unthrottled(lambda: http.request(method, address, content=body, headers=sent))
        assert answer.status_code < 500, answer.text
        if answer.status_code < 400:
            return
        told = answer.headers["content-type"], answer.json()
        match told:
            case "application/problem+json", {"code": str(), "status": answer.status_code}:
                pass
            case _, {"errors": [{"message": str()}, *_]} if path == "/graphql":
                pass
            case "application/json", {"error": str(), "error_description": str()} if path == "/auth/refresh":
                pass
            case _:
                pytest.fail(f"{answer.status_code} {told}")

    send()
