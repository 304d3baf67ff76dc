"""Redis: one client per process, short timeouts, a bounded pool."""

import contextlib
from collections.abc import AsyncIterator

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError


@contextlib.asynccontextmanager
async def connect(url: str, *, name: str, size: int = 32) -> AsyncIterator[Redis]:
    """A client that connects on first use. A call waits at most 2 s for a connection and 2 s for its response."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=size,
        timeout=2,
        socket_timeout=2,
        socket_connect_timeout=1,
        health_check_interval=15,
        client_name=name,
        decode_responses=True,
        # One retry covers a connection that died while idle; more would only hide an outage.
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.01), 1),
        retry_on_error=[RedisConnectionError],
    )
    client = Redis(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.aclose()
