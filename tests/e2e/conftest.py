"""Fixtures for end-to-end tests: everything goes through the gateway, with new accounts, clips and uploads."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from client import GATEWAY, Person, register

# Longer than anything takes on a slow and busy machine; only failing tests wait this long.
PATIENCE_SECONDS = 90


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Killed servers leave connections of earlier tests to the garbage collector, which would fail whichever test is
    # running: report them in pytest's summary instead. With PYTHONTRACEMALLOC=8 (four times the CPU) it shows the lines
    # that opened them.
    unclosed = "default::pytest.PytestUnraisableExceptionWarning"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(unclosed))


@pytest.fixture(scope="session", autouse=True)
def _platform_is_up() -> None:
    try:
        httpx.get(f"{GATEWAY}/auth/.well-known/jwks.json", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        pytest.fail(f"The platform does not answer at {GATEWAY} ({error}). Start it: make up", pytrace=False)


@pytest.fixture
async def person() -> AsyncIterator[Person]:
    """A new user; the account and its videos are deleted afterwards."""
    async with register() as someone:
        yield someone


@pytest.fixture
async def stranger() -> AsyncIterator[Person]:
    async with register() as someone:
        yield someone


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path


async def until(condition: Callable[[], Awaitable[bool]], *, what: str) -> None:
    """Wait for ``condition``; on timeout, fail with ``what`` was awaited."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"waited {PATIENCE_SECONDS} s for {what}")
