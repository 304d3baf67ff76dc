"""GraphQL clients of npm, run by Node.js: tests/clients, installed by `make clients`."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any, Self

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / ".kinora" / "npm" / "node_modules"
LIMIT_SECONDS = 30


async def node(script: str, *arguments: str) -> asyncio.subprocess.Process:
    """Run a script of tests/clients."""
    if not MODULES.exists():
        pytest.fail("The npm packages are not installed: make clients", pytrace=False)
    return await asyncio.create_subprocess_exec(
        "node",
        ROOT / "tests" / "clients" / script,
        *arguments,
        env={**os.environ, "NODE_PATH": str(MODULES)},
        stdout=asyncio.subprocess.PIPE,
    )


async def audits(url: str) -> list[dict[str, Any]]:
    """The results of graphql-http's audits: ``id``, ``name``, ``status``."""
    process = await node("audits.cjs", url)
    output, _ = await asyncio.wait_for(process.communicate(), LIMIT_SECONDS)
    results: list[dict[str, Any]] = json.loads(output)
    return results


class Subscriber:
    """graphql-ws (``protocol`` ws) or graphql-sse (sse), running ``operations`` until they end or the block does.

    ``tokens``: of the first connection, the second and so on.
    """

    def __init__(
        self, protocol: str, address: str, tokens: list[str], *operations: dict[str, Any], **more: Any
    ) -> None:
        url = f"{'ws' if protocol == 'ws' else 'http'}://{address}/graphql"
        self._input = {"protocol": protocol, "url": url, "tokens": tokens, "operations": operations, **more}
        self._seen: list[str] = []

    async def __aenter__(self) -> Self:
        self._process = await node("subscribe.cjs", json.dumps(self._input))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()

    def count(self, event: str) -> int:
        return self._seen.count(event)

    async def until(self, event: str) -> dict[str, Any]:
        """The next event of this kind."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LIMIT_SECONDS):
            async for line in self._process.stdout:
                told: dict[str, Any] = json.loads(line)
                self._seen.append(told["event"])
                if told["event"] == event:
                    return told
        pytest.fail(f"no {event} after {self._seen}")

    async def next(self) -> dict[str, Any]:
        """The next result."""
        result: dict[str, Any] = (await self.until("next"))["result"]
        return result
