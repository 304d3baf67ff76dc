"""The cost of operations: its estimation, its limits, and a cost for every field."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from graphql import GraphQLList, GraphQLObjectType, get_named_type, get_nullable_type, is_leaf_type

from kinora_graphql.costs import Measured
from kinora_graphql.schema import Schema, build
from kinora_graphql.settings import GraphqlSettings


@pytest.fixture(scope="module")
def schema() -> Schema:
    defaults = {name: field.default for name, field in GraphqlSettings.model_fields.items()}
    return build(GraphqlSettings.model_construct(**{**defaults, "max_tokens": 10_000, "introspection": True}))


def measure(schema: Schema, document: str, **variables: Any) -> Measured:
    measured = schema.measure(document, None, variables)
    assert measured is not None, schema.prepare(document).errors
    return measured


def test_every_list_has_a_size_and_every_mutation_a_cost(schema: Schema) -> None:
    graphql = schema._schema
    fields = {
        f"{kind.name}.{name}": field
        for kind in graphql.type_map.values()
        if isinstance(kind, GraphQLObjectType) and not kind.name.startswith("__")
        for name, field in kind.fields.items()
    }
    prices = {f"{kind}.{name}": price for kind, fields in schema._prices.items() for name, price in fields.items()}
    assert set(fields) <= set(prices)
    sized = {
        f"{price.returns}.{field}" for price in prices.values() if price.size for field in price.size.sized_fields or ()
    }
    for name, field in fields.items():
        is_list = isinstance(get_nullable_type(field.type), GraphQLList)
        if is_list and not is_leaf_type(get_named_type(field.type)):
            assert prices[name].size or name in sized, f"{name} needs directives=[ListSize(...)]"
        if get_named_type(field.type).name.endswith("Connection"):
            assert prices[name].size, f"{name} needs an argument first, or directives=[ListSize(...)]"
        if name.startswith("Mutation."):
            assert prices[name].weight >= 10


@pytest.mark.parametrize(
    ("document", "cost"),
    [
        ("{ __typename }", 0),
        ("{ me { email } }", 1),
        ("{ me { email user { username } } }", 2),
        ('{ user(id: "x") { username } a: user(id: "y") { bio } }', 2),
        ("{ feed { nodes { title } } }", 1 + 20),
        ("{ feed(first: null) { nodes { title } } }", 1 + 20),
        ("{ feed(first: 3) { nodes { title owner { username } } edges { node { id } } } }", 1 + 3 * 2 + 3 * 2),
        ("{ feed(first: -5) { nodes { title } } }", 1),
        ("query ($n: Int = 7) { feed(first: $n) { nodes { title } } }", 1 + 7),
        ("query ($size: Int) { feed(first: $size) { nodes { title } } }", 1 + 4),
        ('{ users(ids: ["a", "b"]) { id } }', 2),
        ("query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Media { video { id } } } }", 3 * 2),
        ("{ sessions { id } }", 10),
        ("mutation { logout { done } }", 10),
        ('mutation { login(input: {login: "a", password: "b"}) { ... on LoginPayload { tokens { userId } } } }', 101),
        (
            "{ ...A ...A } fragment A on Query { feed(first: 5) { ...B } }"
            " fragment B on MediaConnection { nodes { id } }",
            12,
        ),
        (
            "{ a: feed(first: 2) { ...B } b: feed(first: 9) { ...B } } fragment B on MediaConnection { nodes { id } }",
            13,
        ),
        ('{ __type(name: "Media") { name fields { name } } }', 0),
    ],
)
def test_cost_counts_objects_by_the_size_of_their_lists(schema: Schema, document: str, cost: int) -> None:
    assert measure(schema, document, size=4, ids=["a", "b", "c"]).cost == cost


def test_measuring_takes_linear_time(schema: Schema) -> None:
    """With 2 ** 60 paths through the fragments: to follow each would not end before the test's timeout."""
    spreads = [f"fragment F{index} on Query {{ ...F{index + 1} ...F{index + 1} }}" for index in range(60)]
    document = " ".join(["{ ...F0 }", *spreads, "fragment F60 on Query { a: me { email } }"])
    assert measure(schema, document) == Measured(depth=2, aliases=2**60, cost=2**60)


Start = Callable[..., AbstractAsyncContextManager[str]]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ('{ media(id: "x") { owner { id } } }', ""),
        ('{ media(id: "x") { video { renditions { name } } } }', "nests deeper than 3 levels"),
        (
            '{ ...A } fragment A on Query { media(id: "x") { video { ...B } } }'
            " fragment B on Video { renditions { name } }",
            "nests deeper than 3 levels",
        ),
        ("{ feed(first: 8) { nodes { id } } }", ""),
        ("{ feed(first: 20) { nodes { id } } }", "costs 21, and at most 20 are allowed"),
    ],
)
async def test_limits_of_depth_and_cost(start: Start, document: str, said: str) -> None:
    async with (
        start(max_depth=3, max_cost=20) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as http,
    ):
        answer = (await http.post("/graphql", json={"query": document})).json()
        refusals = [
            error["message"] for error in answer.get("errors", []) if error["extensions"]["code"] == "invalid_query"
        ]
        assert len(refusals) == bool(said)
        assert said in "".join(refusals)


async def test_response_has_the_estimated_cost(http: httpx.AsyncClient) -> None:
    answer = await http.post("/graphql", json={"query": "{ feed(first: 3) { nodes { id } } }"})
    assert answer.json()["extensions"] == {"cost": {"estimated": 4, "limit": 2000}}
