"""Shared fixtures: the stacks, rendered once by the real program."""

import functools
from collections.abc import Callable, Iterator

import pytest
import real_postgres
from cluster import Cluster, cluster_with_definitions

from kinora_environment import render

pytest_plugins = ["sampling"]

STACKS = render.stacks()

_render = functools.cache(render.render)


@pytest.fixture(scope="session")
def rendered() -> Callable[[str], render.Rendered]:
    """``rendered("dev")``: the resources of a committed stack."""
    return _render


@pytest.fixture(params=STACKS)
def environment(request: pytest.FixtureRequest) -> render.Rendered:
    """Each committed stack in turn."""
    return _render(request.param)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With all definitions, for objects in namespaces that no other test uses.

    Shared, because starting one and loading the definitions takes 30 s of CPU. Not for whole stacks: their webhooks
    would reject the objects of other tests.
    """
    with cluster_with_definitions(tmp_path_factory.mktemp("api-server")) as started:
        yield started


@pytest.fixture(scope="session")
def postgres() -> Iterator[real_postgres.Postgres]:
    """A real server; its databases are the tests' own, by their names."""
    with real_postgres.server() as started:
        yield started
