"""HTTP to other services: the whole request is bounded by a timeout and by the deadline of the current call."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx

from kinora_kit import deadline


class _Transport(httpx.AsyncHTTPTransport):
    """httpx bounds each read and write separately, so a trickling response could take for ever."""

    def __init__(self, timeout_seconds: float) -> None:
        super().__init__()
        self._timeout_seconds = timeout_seconds

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            async with asyncio.timeout(deadline.within(self._timeout_seconds)):
                answer = await super().handle_async_request(request)
                try:
                    await answer.aread()
                finally:
                    await answer.aclose()
                return answer
        except TimeoutError:
            raise httpx.ReadTimeout("no complete response in time", request=request) from None


@contextlib.asynccontextmanager
async def connect(base_url: str = "", *, timeout_seconds: float) -> AsyncIterator[httpx.AsyncClient]:
    """A client for small responses, which are read completely. Ignores proxies from the environment."""
    async with httpx.AsyncClient(
        base_url=base_url, transport=_Transport(timeout_seconds), timeout=timeout_seconds, trust_env=False
    ) as client:
        yield client
