"""Shared fixtures: the stacks, rendered once by the real program."""

import functools
from collections.abc import Callable, Iterator

import pytest
import real_postgres

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
def postgres() -> Iterator[real_postgres.Postgres]:
    """A real server; its databases are the tests' own, by their names."""
    with real_postgres.server() as started:
        yield started
