"""The platform as a person meets it: through the gateway, with accounts, clips and uploads of their own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from client import GATEWAY, Person, register

# Longer than anything takes here, on a slow machine that does much else; who waits in vain waits so long.
PATIENCE_SECONDS = 90


@pytest.fixture(scope="session", autouse=True)
def _platform_is_up() -> None:
    try:
        httpx.get(f"{GATEWAY}/auth/.well-known/jwks.json", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        pytest.fail(f"The platform does not answer at {GATEWAY} ({error}). Start it: make up", pytrace=False)


@pytest.fixture
async def person() -> AsyncIterator[Person]:
    """Someone new, whose account and videos are deleted in the end."""
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
    """Wait for ``condition``, and fail with ``what`` was awaited."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"waited {PATIENCE_SECONDS} s for {what}")
