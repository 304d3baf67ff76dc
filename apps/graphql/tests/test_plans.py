"""Plans answer as graphql-core does: to any query, and to those that need care."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from graphql import build_schema
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis_graphql import nodes, queries
from prometheus_client import REGISTRY

from kinora_graphql import ids
from kinora_kit.ids import new_id

if TYPE_CHECKING:
    from uuid import UUID

    from conftest import Start, World

Ask = Callable[..., Awaitable[dict[str, Any]]]

SCHEMA = build_schema((Path(__file__).parents[1] / "schema.graphql").read_text())
assert SCHEMA.query_type is not None
PLANNED_FIELDS = sorted(SCHEMA.query_type.fields.keys() - {"node", "nodes", "export", "watchLater"})
"""Those of an abstract type, and those that the services of these tests do not have, are left out."""


class Catalogue:
    """Users, videos and comments, and strategies for values of arguments."""

    def __init__(self, world: World) -> None:
        self.users = [world.add_user() for _ in range(3)]
        self.videos = [world.add_video(owner) for owner in self.users * 2]
        self.videos.append(world.add_video(new_id()))  # its owner is deleted
        comments = [world.add_comment(video, self.users[0]) for video in self.videos[:2] * 2]
        known = [
            *(ids.make("User", each) for each in self.users),
            *(ids.make("Media", each) for each in self.videos),
            *(ids.make("Comment", each) for each in comments),
            ids.make("Media", new_id()),
            "malformed",
        ]
        self.scalars = {
            "ID": st.sampled_from(known).map(nodes.String),
            "Int": st.integers(-1, 51).map(nodes.Int),
            "String": st.sampled_from(["", *(user.user.username for user in world.users.values())]).map(nodes.String),
        }


@pytest.fixture(scope="module")
async def ask(start: Start, asking: Callable[[httpx.AsyncClient], Ask]) -> AsyncIterator[Ask]:
    """Of a process that refuses no query."""
    unlimited = {"max_cost": 10**9, "max_depth": 100, "rate_limit": 10**9}
    async with start(**unlimited) as address, httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as http:
        yield asking(http)


@pytest.fixture(scope="module")
def catalogue(services: tuple[World, str]) -> Catalogue:
    return Catalogue(services[0])


def planned(outcome: str) -> float:
    return REGISTRY.get_sample_value("kinora_graphql_planned_queries_total", {"outcome": outcome}) or 0


async def compare(ask: Ask, document: str, variables: dict[str, Any] | None, caller: UUID | None) -> dict[str, Any]:
    """The answer, which is the same by the plan and by the interpreter, to which a directive leads."""
    before = planned("ok"), planned("repeated")
    answer = await ask(document, variables, caller)
    ok, repeated = planned("ok") - before[0], planned("repeated") - before[1]
    assert (ok, repeated) == ((0, 1) if "errors" in answer else (1, 0))
    interpreted = await ask(f"{document.rstrip().removesuffix('}')} __typename @skip(if: true) }}", variables, caller)
    assert planned("ok") + planned("repeated") == sum(before) + 1
    assert ("errors" in interpreted) == ("errors" in answer)  # which ones are reported depends on their order
    assert json.dumps(answer.get("data")) == json.dumps(interpreted.get("data"))  # in the same order
    return answer


@settings(
    max_examples=int(os.environ.get("KINORA_TEST_EXAMPLES", "30")),
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
async def test_plan_answers_as_the_interpreter(ask: Ask, catalogue: Catalogue, data: st.DataObject) -> None:
    fields = data.draw(st.lists(st.sampled_from(PLANNED_FIELDS), min_size=1, max_size=3, unique=True))
    document = data.draw(queries(SCHEMA, fields=fields, custom_scalars=catalogue.scalars, allow_null=False))
    await compare(ask, document, None, data.draw(st.sampled_from([None, *catalogue.users])))


@pytest.mark.parametrize(
    "document",
    [
        "{ __typename feed { __typename nodes { __typename kind: __typename } } }",
        "{ feed { nodes { id owner { id } } nodes { title owner { username } } pageInfo { hasNextPage } } }",
        "{ a: feed(first: 1) { nodes { id } } b: feed(first: 2) { edges { cursor node { owner { username } } } } }",
        "query ($first: Int = 2) { ...Pages b: feed(first: $first) { ...Page } }"
        " fragment Pages on Query { feed(first: 1) { ...Page nodes { title } } }"
        " fragment Page on MediaConnection { nodes { ... on Node { id } ... on Media { ...Owned } ... { uuid } } }"
        " fragment Owned on Media { owner { ...Who } } fragment Who on User { username }",
        "{ feed { nodes { tags category { name } viewerHasLiked viewerPosition pinnedComment { body } } } }",
        "{ feed { nodes { comments(first: 2, order: TOP) { nodes { body author { username } replies(first: 1) {"
        " nodes { id } } } } } } }",
        "{ feed(first: 51) { nodes { id } } me { email } }",
        "{ feed(first: 2) { nodes { title retention } } }",
    ],
)
async def test_plan_merges_fragments_and_fields_as_the_interpreter(
    ask: Ask, catalogue: Catalogue, document: str
) -> None:
    for caller in (None, catalogue.users[0]):
        await compare(ask, document, None, caller)


@pytest.mark.parametrize("variables", [{}, {"first": None}, {"first": 2}, {"first": 0}, {"first": "x"}])
async def test_plan_coerces_variables_as_the_interpreter(
    ask: Ask, catalogue: Catalogue, variables: dict[str, Any]
) -> None:
    document = "query ($first: Int = 3) { feed(first: $first) { nodes { id } } }"
    await compare(ask, document, variables, catalogue.users[0])


async def test_field_that_fails_does_not_cancel_what_others_load(ask: Ask, catalogue: Catalogue) -> None:
    """Interpreted, because a plan cancels nothing."""
    fields = "author { username } replies(first: 50) { nodes { id } }"
    document = f"{{ __typename @skip(if: true) feed {{ nodes {{ comments(first: 2) {{ nodes {{ {fields} }} }} }} }} }}"
    answer = await ask(document, None, catalogue.users[0])
    assert {each["message"] for each in answer["errors"]} == {"At most 100 ids per operation"}


async def test_query_with_an_error_loads_nothing_twice(ask: Ask, world: World, catalogue: Catalogue) -> None:
    document = "query ($id: ID!) { media(id: $id) { title owner { username } } feed(first: 0) { nodes { id } } }"
    before = planned("repeated")
    answer = await ask(document, {"id": ids.make("Media", catalogue.videos[0])})
    assert [each["path"] for each in answer["errors"]] == [["feed"]]
    assert planned("repeated") == before + 1
    assert world.calls["ListMedia"] == 1


@pytest.mark.parametrize(
    "document",
    [
        "{ node(id: %s) { id ... on Media { title } } }",
        "{ media(id: %s) { title @include(if: true) } }",
        "{ media(id: %s) { title ...Rest @include(if: true) } } fragment Rest on Media { id }",
        "mutation { like(mediaId: %s) { __typename } }",
    ],
)
async def test_operation_without_plan_is_interpreted(ask: Ask, catalogue: Catalogue, document: str) -> None:
    before = planned("ok") + planned("repeated")
    answer = await ask(document % json.dumps(ids.make("Media", catalogue.videos[0])), None, catalogue.users[0])
    assert "errors" not in answer
    assert planned("ok") + planned("repeated") == before


async def test_fragments_that_multiply_fields_have_no_plan(ask: Ask) -> None:
    """1,000 fields, although nothing is loaded, so it costs nothing."""
    twice = "fragment F%d on Comment {{ parent {{ ...{0} }} media {{ pinnedComment {{ ...{0} }} }} }}"
    fragments = [twice.format(f"F{number + 1}") % number for number in range(9)]
    document = "{ feed(first: 0) { nodes { pinnedComment { ...F0 } } } } fragment F9 on Comment { id }"
    before = planned("ok") + planned("repeated")
    answer = await ask(" ".join([document, *fragments]))
    assert [each["path"] for each in answer["errors"]] == [["feed"]]
    assert planned("ok") + planned("repeated") == before
