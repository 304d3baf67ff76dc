"""HTTP to other services: bounded as a whole, by a timeout and by the deadline of the call that it is made for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx

from kinora_kit import deadline


class _Transport(httpx.AsyncHTTPTransport):
    """httpx bounds each read and write by itself, so an answer that trickles in could take for ever."""

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
            raise httpx.ReadTimeout("no whole answer in time", request=request) from None


@contextlib.asynccontextmanager
async def connect(base_url: str = "", *, timeout_seconds: float) -> AsyncIterator[httpx.AsyncClient]:
    """A client for small answers, which are read whole. No proxy from the environment may come between services."""
    async with httpx.AsyncClient(
        base_url=base_url, transport=_Transport(timeout_seconds), timeout=timeout_seconds, trust_env=False
    ) as client:
        yield client
