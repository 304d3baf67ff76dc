import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from kinora_kit import postgres, tasks
from kinora_kit.errors import Unavailable
from kinora_kit.outages import OUTAGES, as_domain_error
from kinora_kit.postgres import Pool
from kinora_kit.testing import eventually, proxy


async def test_json_codec_round_trip(pool: Pool) -> None:
    value = {"list": [1, 2.5, None, "ü"]}
    assert await pool.fetchval("SELECT $1::jsonb", value) == value


async def test_transaction_commits_or_rolls_back_on_exception(pool: Pool) -> None:
    async with postgres.transaction(pool) as connection:
        await connection.execute("INSERT INTO things VALUES (1)")

    async def fail() -> None:
        async with postgres.transaction(pool) as connection:
            await connection.execute("INSERT INTO things VALUES (2)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert [row["n"] for row in await pool.fetch("SELECT n FROM things")] == [1]


async def test_connections_have_timeouts_and_application_name(pool: Pool) -> None:
    names = ("application_name", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "timezone")
    assert [await pool.fetchval("SELECT current_setting($1)", name) for name in names] == [
        "kit test",
        "10s",
        "5s",
        "30s",
        "UTC",
    ]


async def test_statement_timeout_is_an_outage(pool: Pool) -> None:
    async with postgres.transaction(pool) as connection:
        await connection.execute("SET LOCAL statement_timeout = '50ms'")
        with pytest.raises(asyncpg.QueryCanceledError) as caught:
            await connection.execute("SELECT pg_sleep(5)")
    assert isinstance(as_domain_error(caught.value), Unavailable)


async def in_transaction(pool: Pool) -> None:
    async with postgres.transaction(pool):
        pass


@pytest.mark.parametrize(
    "use",
    [
        lambda pool: pool.fetch("SELECT 1"),
        lambda pool: pool.fetchrow("SELECT 1"),
        lambda pool: pool.fetchval("SELECT 1"),
        lambda pool: pool.execute("SELECT 1"),
        lambda pool: pool.executemany("SELECT $1::int", [(1,)]),
        lambda pool: pool.fetchmany("SELECT $1::int", [(1,)]),
        lambda pool: pool.copy_records_to_table("things", records=[(1,)]),
        lambda pool: pool.acquire(),
        in_transaction,
        postgres.check,
    ],
)
async def test_exhausted_pool_is_an_outage(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, use: Callable[[Pool], Awaitable[object]]
) -> None:
    async with postgres.connect(postgres_url, name="kit test", size=1) as pool:
        async with postgres.transaction(pool), asyncio.timeout(60):
            with monkeypatch.context() as patch:
                patch.setattr(postgres, "ACQUIRE_SECONDS", 0.1)
                with pytest.raises(OUTAGES):
                    await use(pool)
        assert await pool.fetchval("SELECT 1") == 1  # and the connection was returned


async def test_value_out_of_range_is_not_an_outage(pool: Pool) -> None:
    with pytest.raises(asyncpg.DataError) as caught:
        await pool.execute("INSERT INTO things VALUES ($1)", "text")
    assert as_domain_error(caught.value) is None
    with pytest.raises(asyncpg.PostgresSyntaxError) as wrong:
        await pool.execute("SELEC")
    assert as_domain_error(wrong.value) is None


async def test_pool_starts_without_database_and_recovers(postgres_url: str) -> None:
    async with proxy(postgres_url) as link:
        await link.cut()
        async with postgres.connect(link.url, name="kit test") as pool:
            with pytest.raises(OUTAGES):
                await postgres.check(pool)
            await link.restore()
            await postgres.check(pool)


async def test_pool_recovers_from_lost_connection(postgres_url: str) -> None:
    async with proxy(postgres_url) as link, postgres.connect(link.url, name="kit test") as pool:
        held = asyncio.Event()

        async def in_the_middle() -> None:
            async with postgres.transaction(pool) as connection:
                held.set()
                await connection.execute("SELECT pg_sleep(10)")

        running = asyncio.create_task(in_the_middle())
        await held.wait()
        await link.cut()
        with pytest.raises(OUTAGES):
            await running
        with pytest.raises(OUTAGES):
            await postgres.check(pool)
        await link.restore()
        await postgres.check(pool)
        assert link.accepted == 2


async def test_close_does_not_wait_for_unresponsive_database(postgres_url: str) -> None:
    async with (
        proxy(postgres_url) as link,
        asyncio.timeout(10),
        postgres.connect(link.url, name="kit test") as pool,
    ):
        await postgres.check(pool)
        link.stall()


async def test_listener_receives_payloads_and_reconnects(postgres_url: str, unique: str) -> None:
    heard: list[str] = []
    connects = 0

    def connected() -> None:
        nonlocal connects
        connects += 1

    async with (
        postgres.connect(postgres_url, name="kit test") as pool,
        proxy(postgres_url) as link,
        tasks.background(
            listening=lambda: postgres.listen(link.url, channel=unique, on_notify=heard.append, on_connect=connected)
        ),
    ):
        await eventually(lambda: connects == 1)
        await pool.execute("SELECT pg_notify($1, 'one')", unique)
        await eventually(lambda: heard == ["one"])
        await link.cut()
        await link.restore()
        await eventually(lambda: connects == 2)
        await pool.execute("SELECT pg_notify($1, 'two')", unique)
        await eventually(lambda: heard == ["one", "two"])
