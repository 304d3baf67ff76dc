"""Documents by hash: the automatic protocol, documentId, and trusted documents."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from npm import Subscriber
from redis.asyncio import Redis

from kinora_graphql.documents import MANIFESTS, MAX_BYTES, OPERATIONS, manifests, read_manifest, sha256
from kinora_graphql.schema import build
from kinora_graphql.settings import GraphqlSettings
from kinora_kit.ids import new_id
from kinora_kit.testing import Proxy, proxy

Start = Callable[..., AbstractAsyncContextManager[str]]
World = Any
Keys = Any

TRUSTED = read_manifest(MANIFESTS / "apollo.json")


def persisted(document: str) -> dict[str, Any]:
    """Apollo's parameter."""
    return {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": sha256(document)}}}


def new_document() -> str:
    return f"query Q{new_id().hex} {{ __typename }}"


async def send(http: httpx.AsyncClient, **body: Any) -> Any:
    """``data``, or the code of the error."""
    answer = (await http.post("/graphql", json=body)).json()
    return answer["data"] if "data" in answer else answer["errors"][0]["extensions"]["code"]


DATA = {"__typename": "Query"}


async def test_document_is_found_by_hash_after_it_was_sent_once(http: httpx.AsyncClient) -> None:
    document = new_document()
    assert await send(http, **persisted(document)) == "PERSISTED_QUERY_NOT_FOUND"
    assert await send(http, query=document, **persisted(document)) == DATA
    assert await send(http, **persisted(document)) == DATA
    assert await send(http, documentId=f"sha256:{sha256(document)}") == DATA
    assert await send(http, documentId=sha256(document)) == DATA
    extensions = json.dumps(persisted(document)["extensions"])
    assert (await http.get("/graphql", params={"extensions": extensions})).json()["data"] == DATA
    assert (await http.get("/graphql", params={"documentId": sha256(document)})).json()["data"] == DATA


@pytest.mark.parametrize(
    "document", ["{ nothing }", "{", "{ __typename } # " + "x" * MAX_BYTES], ids=lambda text: text[:20]
)
async def test_invalid_and_large_documents_are_not_stored(http: httpx.AsyncClient, document: str) -> None:
    await send(http, query=document, **persisted(document))
    assert await send(http, **persisted(document)) == "PERSISTED_QUERY_NOT_FOUND"


async def test_document_of_another_hash_is_refused(http: httpx.AsyncClient) -> None:
    document = new_document()
    assert await send(http, query="{ __typename }", **persisted(document)) == "wrong_document_hash"
    assert await send(http, **persisted(document)) == "PERSISTED_QUERY_NOT_FOUND"


@pytest.mark.parametrize(
    "wrong",
    [{"documentId": 1}, {"extensions": {"persistedQuery": []}}, {"extensions": {"persistedQuery": {"sha256Hash": 1}}}],
)
async def test_malformed_parameters_are_a_client_error(http: httpx.AsyncClient, wrong: dict[str, Any]) -> None:
    assert await send(http, query="{ __typename }", **wrong) == "malformed_request"


async def test_stored_documents_are_limited_in_number_and_age(start: Start, revocations: Redis) -> None:
    async with start(persisted_documents=2) as address, httpx.AsyncClient(base_url=f"http://{address}") as http:
        documents = [new_document() for _ in range(3)]
        for document in documents:
            assert await send(http, query=document, **persisted(document)) == DATA
        found = [await send(http, **persisted(document)) for document in documents]
        assert found == ["PERSISTED_QUERY_NOT_FOUND", DATA, DATA]
        keys = ["graphql:documents", *(f"graphql:documents:{sha256(document)}" for document in documents[1:])]
        assert await revocations.zcard(keys[0]) == 2
        assert all([0 < await revocations.ttl(key) <= 24 * 3600 for key in keys])


@pytest.fixture
async def redis_proxy(kit: dict[str, str]) -> AsyncIterator[Proxy]:
    async with proxy(kit["KINORA_REDIS_URL"]) as cable:
        yield cable


async def test_documents_work_without_redis(start: Start, redis_proxy: Proxy) -> None:
    async with (
        start(redis_url=redis_proxy.url) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as http,
    ):
        await redis_proxy.cut()
        document = new_document()
        assert await send(http, **persisted(document)) == "PERSISTED_QUERY_NOT_FOUND"
        assert await send(http, query=document, **persisted(document)) == DATA
        assert await send(http, documentId=sha256(next(iter(TRUSTED.values()))), operationName="?") == "invalid_query"


async def test_subscription_by_hash(world: World, keys: Keys, address: str) -> None:
    user_id = world.add_user()
    (document,) = [text for text in TRUSTED.values() if text.startswith("subscription")]
    operation = {"query": "", "documentId": sha256(document), "variables": {"id": "x"}}
    for protocol in ("ws", "sse"):
        async with Subscriber(protocol, address, [keys.token(user_id)], operation) as client:
            assert (await client.next())["errors"][0]["extensions"]["code"] == "invalid_input"


async def test_only_trusted_documents_are_executed_where_configured(start: Start, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"any key": "query Trusted { __typename }"}))
    async with (
        start(trusted_only=True, trusted_documents=manifest) as address,
        httpx.AsyncClient(base_url=f"http://{address}") as http,
    ):
        trusted = "query Trusted { __typename }"
        assert await send(http, query=trusted) == DATA
        assert await send(http, documentId=f"sha256:{sha256(trusted)}") == DATA
        assert await send(http, **persisted(trusted)) == DATA
        other = new_document()
        assert await send(http, query=other) == "untrusted_document"
        assert await send(http, query=other, **persisted(other)) == "untrusted_document"
        assert await send(http, documentId=sha256(other)) == "untrusted_document"
        metrics = (await http.get("/metrics")).text
        assert 'kinora_graphql_refused_operations_total{code="untrusted_document"} 3.0' in metrics


def test_committed_manifests_are_current_valid_and_equal() -> None:
    made = manifests(OPERATIONS.glob("*.graphql"))
    assert {file.name: json.loads(file.read_text()) for file in MANIFESTS.iterdir()} == made
    assert read_manifest(MANIFESTS / "relay.json") == TRUSTED
    schema = build(
        GraphqlSettings.model_construct(**{name: field.default for name, field in GraphqlSettings.model_fields.items()})
    )
    assert {text: schema.prepare(text).errors for text in TRUSTED.values()} == {text: [] for text in TRUSTED.values()}
