"""GraphQL over HTTP: the audits of npm's graphql-http 1.23, by their ids, and requests of third-party clients."""

import json
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from kinora_graphql.documents import sha256

Start = Callable[..., AbstractAsyncContextManager[str]]

JSON = "application/json"
RESPONSE = "application/graphql-response+json"
TYPENAME = "{ __typename }"
COERCION = {"query": "query CoerceFailure($id: ID!) { __typename }", "variables": {"id": None}}
WITH_VARIABLES = {"query": "query Of($name: String!) { __type(name: $name) { name } }", "variables": {"name": "Media"}}


async def post(http: httpx.AsyncClient, body: Any, accept: str | None = None, **headers: str) -> httpx.Response:
    given = {"content-type": JSON, "accept": accept or "", **{name.replace("_", "-"): v for name, v in headers.items()}}
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    return await http.post("/graphql", content=content, headers={name: value for name, value in given.items() if value})


def codes(answer: httpx.Response) -> list[str]:
    """The error codes of a rejection: JSON with errors, each with a code and a message, and no data."""
    body = answer.json()
    assert answer.headers["content-type"].partition(";")[0] in (JSON, RESPONSE)
    assert set(body) == {"errors"}
    assert all(error["message"] for error in body["errors"])
    return [error["extensions"]["code"] for error in body["errors"]]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (RESPONSE, RESPONSE),  # 22EB
        (JSON, JSON),  # 4655
        ("*/*", JSON),  # 47DE
        (None, JSON),  # 80D8
        (f"{RESPONSE}, {JSON};q=0.9", RESPONSE),  # Apollo
        (f"{RESPONSE}, application/graphql+json, {JSON}, text/event-stream, multipart/mixed", RESPONSE),  # urql
        (f"{JSON}, {RESPONSE};q=0.5", JSON),
        (f"{RESPONSE};q=0, {JSON}", JSON),
        (f"{RESPONSE.upper()};q=1", RESPONSE),
        ("text/html", JSON),
        (f"{RESPONSE};q=much", JSON),
        (f"{RESPONSE};q*0;q*", RESPONSE),  # RFC 2231's continuations, malformed
    ],
)
async def test_media_type_follows_accept(http: httpx.AsyncClient, accept: str | None, media_type: str) -> None:
    answer = await post(http, {"query": TYPENAME}, accept)
    assert (answer.status_code, answer.json()["data"]) == (200, {"__typename": "Query"})
    assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"


@pytest.mark.parametrize("accept", [JSON, RESPONSE, None])
@pytest.mark.parametrize(
    "body",
    [
        {"query": TYPENAME},  # 34A2, 13EE
        {"query": f"query Query {TYPENAME}", "operationName": "Query"},  # 8161, B8B3
        *({"query": TYPENAME, name: None} for name in ("variables", "operationName", "extensions")),  # 94B*, 022*
        *({"query": TYPENAME, name: ""} for name in ("variables", "operationName", "extensions")),
        {"query": TYPENAME, "extensions": {"some": "value"}},  # 428F, 1B7A
        {"query": TYPENAME, "extensions": {"persistedQuery": {"version": 1, "sha256Hash": sha256(TYPENAME)}}},
        {"query": TYPENAME, "id": "an extra member"},
    ],
    ids=json.dumps,
)
async def test_post_accepts_well_formed_requests(http: httpx.AsyncClient, accept: str | None, body: Any) -> None:
    answer = await post(http, body, accept)
    assert (answer.status_code, answer.json()["data"]) == (200, {"__typename": "Query"})


@pytest.mark.parametrize(
    "content_type",
    [
        JSON,
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
    ],
)
async def test_post_accepts_any_spelling_of_the_content_type(http: httpx.AsyncClient, content_type: str) -> None:
    answer = await post(http, {"query": "{ __typename # 🏃 \n }"}, content_type=content_type)  # BF61
    assert answer.json()["data"] == {"__typename": "Query"}


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/graphql", "multipart/form-data", "a/b", ";"])
async def test_post_rejects_other_content_types(http: httpx.AsyncClient, content_type: str) -> None:
    answer = await post(http, {"query": TYPENAME}, content_type=content_type)  # 9ABE
    assert (answer.status_code, codes(answer)) == (415, ["unsupported_media_type"])
    assert answer.headers["accept-post"] == JSON


@pytest.mark.parametrize("accept", [JSON, RESPONSE])
@pytest.mark.parametrize(
    "body",
    [
        b"",  # A5BF
        b'{ "not a JSON',  # BCF8, B7N8
        b"\xff\xfe",
        b'{"query": "\xff"}',
        '{"query": "{ __typename }"}'.encode("utf-16"),
        b"[" * 100_000,
        b'{"query": "{ __typename }", "variables": {"x": NaN}}',
        b'{"query": "{ __typename }", "variables": {"x": ' + b"9" * 5000 + b"}}",
        *(b"null", b"true", b"17", b'"text"', b"1.5"),
        *({"query": wrong} for wrong in ({"obj": "ect"}, 0, False, ["array"])),  # LKJ*
        *({"query": TYPENAME, "operationName": wrong} for wrong in ({"obj": "ect"}, 0, False, ["array"])),  # 6C0*
        *({"query": TYPENAME, "variables": wrong} for wrong in ("string", 0, False, ["array"])),  # 476*
        *({"query": TYPENAME, "extensions": wrong} for wrong in ("string", 0, False, ["array"])),  # 58B*
        {"notquery": TYPENAME},  # 423L, 8764, 3E3A
        {"query": ""},
        {},
    ],
    ids=lambda value: str(value)[:40],
)
async def test_post_rejects_malformed_requests(http: httpx.AsyncClient, accept: str, body: Any) -> None:
    answer = await post(http, body, accept)
    assert (answer.status_code, codes(answer)) == (400, ["malformed_request"])


async def test_post_rejects_batches(http: httpx.AsyncClient) -> None:
    for batch in ([], [{"query": TYPENAME}], [{"query": TYPENAME}] * 2):
        answer = await post(http, batch)
        assert (answer.status_code, codes(answer)) == (400, ["batching_not_supported"])


@pytest.mark.parametrize(("accept", "status"), [(JSON, 200), (None, 200), (RESPONSE, 400)])
async def test_unknown_hash_returns_persisted_query_not_found(
    http: httpx.AsyncClient, accept: str | None, status: int
) -> None:
    """200 for application/json: mobile clients ignore bodies of other statuses, and would not resend the document."""
    extensions = {"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}}
    by_get = await http.get(
        "/graphql", params={"extensions": json.dumps(extensions)}, headers={"accept": accept} if accept else {}
    )
    by_id = [await post(http, {"documentId": each}, accept) for each in ("sha256:" + "0" * 64, "0" * 64, "x-y:z")]
    for answer in (by_get, await post(http, {"extensions": extensions}, accept), *by_id):
        assert (answer.status_code, codes(answer)) == (status, ["PERSISTED_QUERY_NOT_FOUND"])
        assert answer.json()["errors"][0]["message"] == "PersistedQueryNotFound"


@pytest.mark.parametrize(("accept", "status"), [(JSON, 200), (None, 200), (RESPONSE, 400)])
@pytest.mark.parametrize(
    "body",
    [
        {"query": "{"},  # 572B, 865D, 556A, D586
        {"query": "{ 8f31403dfe404bccbb0e835f2629c6a7 }"},  # FDE2, 51FE, 74FF, 5E5B
        {"query": "{ noSuchField }"},
        COERCION,  # 7B9B, 86EE
        {"query": "query A { __typename } query B { __typename }"},
        {"query": "query A { __typename } query B { __typename }", "operationName": "C"},
        {"query": "fragment F on Query { __typename }"},
    ],
    ids=lambda body: str(body["query"])[:30],
)
async def test_rejected_operation_has_no_data_and_status_by_media_type(
    http: httpx.AsyncClient, accept: str | None, status: int, body: Any
) -> None:
    answer = await post(http, body, accept)
    assert answer.status_code == status
    assert set(codes(answer)) == {"invalid_query"}


async def test_execution_error_has_data_and_200(http: httpx.AsyncClient) -> None:
    for accept in (JSON, RESPONSE):
        answer = await post(http, {"query": "{ me { email } }"}, accept)
        assert (answer.status_code, answer.json()["data"]) == (200, {"me": None})
        assert [error["extensions"]["code"] for error in answer.json()["errors"]] == ["not_signed_in"]


async def test_get_accepts_query_and_url_encoded_variables(http: httpx.AsyncClient) -> None:
    for accept in (JSON, RESPONSE):  # 5A70, D6D5, 6A70
        params = {"query": "query Q($yes: Boolean!) { __typename @include(if: $yes) }", "operationName": ""}
        answer = await http.get("/graphql", params={**params, "variables": '{"yes": true}'}, headers={"accept": accept})
        assert (answer.status_code, answer.json()["data"]) == (200, {"__typename": "Query"})
    empty = await http.get(
        "/graphql", params={"query": TYPENAME, "operationName": "", "variables": "", "extensions": ""}
    )
    assert empty.json()["data"] == {"__typename": "Query"}


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def test_browser_gets_graphiql_where_introspection_is_allowed(http: httpx.AsyncClient, start: Start) -> None:
    async with start(introspection=True) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        for params in ({}, {"query": TYPENAME}):
            page = await client.get("/graphql", params=params, headers={"accept": BROWSER})
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            scripts = re.findall(r"<(?:script|link)[^>]*https://[^>]*>", page.text)
            assert scripts
            assert all("integrity=" in script for script in scripts), "foreign hosts cannot change them"
        for accept in ("*/*", JSON, RESPONSE, "text/html;q=0"):
            plain = await client.get("/graphql", params={"query": TYPENAME}, headers={"accept": accept})
            assert plain.json()["data"] == {"__typename": "Query"}
    elsewhere = await http.get("/graphql", params={"query": TYPENAME}, headers={"accept": BROWSER})
    assert elsewhere.json()["data"] == {"__typename": "Query"}


async def test_get_rejects_malformed_requests(http: httpx.AsyncClient) -> None:
    for params in ({}, {"query": ""}, {"query": TYPENAME, "variables": "{"}, {"query": TYPENAME, "variables": "[]"}):
        for accept in (JSON, "text/html", "*/*"):
            answer = await http.get("/graphql", params=params, headers={"accept": accept})
            assert (answer.status_code, codes(answer)) == (400, ["malformed_request"])


async def test_mutation_by_get_is_405_with_allow(http: httpx.AsyncClient) -> None:
    for accept in (JSON, RESPONSE):  # 9C48
        params = {"query": "mutation { logout { done } }"}
        answer = await http.get("/graphql", params=params, headers={"accept": accept})
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert codes(answer) == ["method_not_allowed"]


async def test_subscription_by_post_or_get_is_rejected(http: httpx.AsyncClient) -> None:
    query = 'subscription { videoProgress(id: "x") { state } }'
    for answer in (await post(http, {"query": query}), await http.get("/graphql", params={"query": query})):
        assert (answer.status_code, codes(answer)) == (400, ["subscription_not_supported"])


async def test_oversized_body_is_rejected(http: httpx.AsyncClient) -> None:
    answer = await post(http, {"query": TYPENAME, "variables": {"x": "x" * (1 << 20)}})
    assert (answer.status_code, codes(answer)) == (413, ["too_large"])
