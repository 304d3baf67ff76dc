"""PostgreSQL: the connection pool with its timeouts and codecs; queries are plain SQL."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import asyncpg

from kinora_kit import tasks
from kinora_kit.metrics import POOL_IDLE, POOL_SIZE

Connection: TypeAlias = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
Pool: TypeAlias = asyncpg.Pool

ACQUIRE_SECONDS = 5.0


class _Pool(asyncpg.Pool):  # type: ignore[misc] # asyncpg has no types
    """Limits waiting for a connection to ACQUIRE_SECONDS: ``fetch`` and similar methods have no timeout for it."""

    def acquire(self, *, timeout: float | None = None) -> Any:
        return super().acquire(timeout=ACQUIRE_SECONDS if timeout is None else timeout)


async def _prepare(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


async def _keep_session(_: asyncpg.Connection) -> None:
    """asyncpg would send another query after each use, to undo what nobody does: change the session's settings, listen,
    or hold an advisory lock on a pooled connection. It still rolls back an open transaction."""


@contextlib.asynccontextmanager
async def connect(url: str, *, name: str, size: int = 10) -> AsyncIterator[Pool]:
    """A pool that opens connections on demand, so that the process can start without its database.

    Timeouts: 5 s to acquire a connection, 10 s per statement, 5 s per lock; the server ends transactions that are idle
    for 30 s.
    """
    pool = _Pool(
        url,
        min_size=0,
        max_size=size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300,
        loop=None,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        timeout=3,
        command_timeout=15,
        init=_prepare,
        reset=_keep_session,
        server_settings={
            "application_name": name,
            "statement_timeout": "10000",
            "lock_timeout": "5000",
            "idle_in_transaction_session_timeout": "30000",
            "timezone": "UTC",
        },
    )
    await pool
    POOL_SIZE.labels("postgres").set_function(pool.get_size)
    POOL_IDLE.labels("postgres").set_function(pool.get_idle_size)
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(5):
                await pool.close()
        except TimeoutError:
            pool.terminate()


@contextlib.asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """A connection in a transaction that commits at the end of the block and rolls back on an exception."""
    async with pool.acquire() as connection, connection.transaction():
        yield connection


async def check(pool: Pool) -> None:
    await pool.fetchval("SELECT 1", timeout=2)


async def listen(url: str, *, channel: str, on_notify: Callable[[str], None], on_connect: Callable[[], None]) -> None:
    """Call ``on_notify`` with the payload of each NOTIFY on ``channel`` until the connection is lost.

    ``on_connect`` is called once listening, because earlier notifications were missed.
    """
    closed = asyncio.Event()

    def notified(_: Any, __: int, ___: str, payload: str) -> None:
        on_notify(payload)

    connection = await asyncpg.connect(url, timeout=3, server_settings={"application_name": f"listen {channel}"})
    try:
        connection.add_termination_listener(lambda _: closed.set())
        await connection.add_listener(channel, notified)
        on_connect()

        async def probe() -> None:
            await connection.execute("SELECT 1", timeout=5)

        # A dead connection delivers no notifications; the next probe detects it.
        probing = asyncio.create_task(tasks.every(15, probe))
        waiting = asyncio.create_task(closed.wait())
        try:
            await asyncio.wait({probing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            probing.cancel()
            waiting.cancel()
            await asyncio.gather(probing, waiting, return_exceptions=True)
    finally:
        connection.terminate()
