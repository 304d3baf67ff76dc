import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from kinora_kit import migrate, postgres
from kinora_kit.migrate import MigrationError
from kinora_kit.testing import eventually

FIRST = "CREATE TABLE first (n int); INSERT INTO first VALUES (1);"


@pytest.fixture
def package(tmp_path: Path, unique: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate importable package; returns its migrations folder, which has one migration."""
    folder = tmp_path / unique / "migrations"
    folder.mkdir(parents=True)
    (tmp_path / unique / "__init__.py").touch()
    (folder / "0001_first.sql").write_text(FIRST)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.fixture
async def connection(schema_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(schema_url)
    yield connection
    await connection.close()


async def test_migrate_applies_kit_first_and_each_migration_once(
    connection: asyncpg.Connection, package: Path, unique: str
) -> None:
    applied = await migrate.migrate(connection, unique)
    assert [(m.package, m.version, m.name) for m in applied] == [("kinora_kit", 1, "outbox"), (unique, 1, "first")]
    assert await migrate.migrate(connection, unique) == []
    (package / "0002_second.sql").write_text("ALTER TABLE first ADD m int")
    assert [m.name for m in await migrate.migrate(connection, unique)] == ["second"]


async def test_concurrent_jobs_apply_each_migration_once(schema_url: str, package: Path, unique: str) -> None:
    async def one() -> int:
        connection = await asyncpg.connect(schema_url)
        try:
            return len(await migrate.migrate(connection, unique))
        finally:
            await connection.close()

    assert sorted(await asyncio.gather(*(one() for _ in range(4)))) == [0, 0, 0, 2]


async def test_changed_migration_is_rejected(connection: asyncpg.Connection, package: Path, unique: str) -> None:
    await migrate.migrate(connection, unique)
    (package / "0001_first.sql").write_text(FIRST + " -- better")
    with pytest.raises(MigrationError, match=r"0001_first.sql was changed .* write the change as a new migration"):
        await migrate.migrate(connection, unique)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("0003_gap.sql", "without a gap"),
        ("0001_double.sql", "without a gap"),
        ("second.sql", "must be named NNNN_what.sql"),
    ],
)
async def test_misnumbered_files_are_rejected_before_anything_is_applied(
    *, connection: asyncpg.Connection, package: Path, unique: str, file: str, sentence: str
) -> None:
    (package / file).write_text("SELECT 1")
    with pytest.raises(MigrationError, match=sentence):
        await migrate.migrate(connection, unique)
    assert await connection.fetchval("SELECT to_regclass('first')") is None


async def test_failed_migration_is_rolled_back_and_earlier_ones_kept(
    connection: asyncpg.Connection, package: Path, unique: str
) -> None:
    (package / "0002_second.sql").write_text("CREATE TABLE second (n int); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate.migrate(connection, unique)
    assert await connection.fetchval("SELECT to_regclass('second')") is None
    (package / "0002_second.sql").write_text("CREATE TABLE second (n int)")
    assert [m.name for m in await migrate.migrate(connection, unique)] == ["second"]


async def test_restore_migrates_only_an_empty_database(
    connection: asyncpg.Connection, schema_url: str, package: Path, unique: str
) -> None:
    await migrate.restore(schema_url, unique)
    assert await connection.fetchval("SELECT n FROM first") == 1
    (package / "0002_second.sql").write_text("ALTER TABLE first ADD m int")
    await migrate.restore(schema_url, unique)
    assert [m.name for m in await migrate.migrate(connection, unique)] == ["second"]


async def test_check_fails_until_all_migrations_are_applied(
    schema_url: str, connection: asyncpg.Connection, package: Path, unique: str
) -> None:
    async with postgres.connect(schema_url, name="kit test") as pool:
        with pytest.raises(MigrationError, match="2 migrations are not applied"):
            await migrate.check(pool, unique)
        await migrate.migrate(connection, unique)
        await migrate.check(pool, unique)
        (package / "0002_second.sql").write_text("SELECT 1")
        with pytest.raises(MigrationError, match="1 migrations are not applied"):
            await migrate.check(pool, unique)
        (package / "0002_second.sql").unlink()
        (package / "0001_first.sql").unlink()  # older code beside a newer database
        await migrate.check(pool, unique)


def test_job_prints_applied_migrations_and_errors(schema_url: str, package: Path, unique: str) -> None:
    def job(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kinora_kit.migrate", unique],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(package.parent.parent), **more},
            capture_output=True,
            text=True,
            check=False,
        )

    said = job(KINORA_POSTGRES_URL=schema_url).stdout.splitlines()
    assert said == ["applied kinora_kit 0001_outbox", f"applied {unique} 0001_first"]
    assert job(KINORA_POSTGRES_URL=schema_url).stdout == ""
    (package / "0003_gap.sql").touch()
    for wrong in (job(KINORA_POSTGRES_URL=schema_url), job()):
        assert wrong.returncode == 1
        assert len(wrong.stderr.splitlines()) == 1


# Locks and timeouts
# ------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def reading(url: str, table: str) -> AsyncIterator[None]:
    """An open transaction that has read ``table``."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.fetch(f"SELECT * FROM {table}")  # noqa: S608
            yield
    finally:
        await connection.close()


async def test_migration_waits_for_lock_without_blocking_queries(
    schema_url: str, connection: asyncpg.Connection, package: Path, unique: str
) -> None:
    await migrate.migrate(connection, unique)
    (package / "0002_second.sql").write_text("ALTER TABLE first ADD m int")
    pid, other = connection.get_server_pid(), await asyncpg.connect(schema_url)
    try:
        async with reading(schema_url, "first"):
            migrating = asyncio.create_task(migrate.migrate(connection, unique))

            async def waiting() -> bool:
                asked = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"
                return bool(await other.fetchval(asked, pid))

            await eventually(waiting)
            # Queued behind the ALTER TABLE, which waits for the reader and gives up its place before it gets the lock.
            await other.fetch("SELECT * FROM first", timeout=30)
            assert not migrating.done()
        assert [m.name for m in await migrating] == ["second"]
    finally:
        await other.close()


async def test_migration_without_lock_fails_with_its_file_name(
    *, schema_url: str, connection: asyncpg.Connection, package: Path, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(migrate, "LOCKS_SECONDS", 0.3)
    monkeypatch.setattr(migrate, "LOCK_RETRY_SECONDS", 0.1)
    await migrate.migrate(connection, unique)
    (package / "0002_second.sql").write_text("ALTER TABLE first ADD m int")
    async with reading(schema_url, "first"):
        with pytest.raises(MigrationError, match=r"0002_second.sql could not acquire its locks"):
            await migrate.migrate(connection, unique)
    assert [m.name for m in await migrate.migrate(connection, unique)] == ["second"]


async def test_statement_timeout_can_be_set_per_file(
    *, connection: asyncpg.Connection, package: Path, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate.migrate(connection, unique)
    monkeypatch.setattr(migrate, "STATEMENT_TIMEOUT", "100ms")
    (package / "0002_slow.sql").write_text("SELECT pg_sleep(0.5)")
    with pytest.raises(MigrationError, match=r"0002_slow.sql has a statement that takes longer than 100ms"):
        await migrate.migrate(connection, unique)
    (package / "0002_slow.sql").write_text("-- migrate: statement_timeout=1min\nSELECT pg_sleep(0.2)")
    assert [m.name for m in await migrate.migrate(connection, unique)] == ["slow"]
    assert await connection.fetchval("SHOW statement_timeout") == "0"


@pytest.mark.parametrize("line", ["lock_timeout=1s", "transaction=yes", "concurrently", "statement_timeout 1s"])
async def test_unknown_migration_option_is_rejected(
    connection: asyncpg.Connection, package: Path, unique: str, line: str
) -> None:
    (package / "0002_second.sql").write_text(f"-- migrate: {line}\nSELECT 1")
    with pytest.raises(MigrationError, match=r"0002_second.sql: "):
        await migrate.migrate(connection, unique)


# Outside a transaction ------------------------------------------------------------------------------------------------

INDEX = "-- migrate: transaction=no\nCREATE UNIQUE INDEX CONCURRENTLY first_n ON first (n);\n"


async def valid(connection: asyncpg.Connection) -> bool | None:
    found: bool | None = await connection.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('first_n')"
    )
    return found


async def test_index_is_built_concurrently_while_other_jobs_wait(
    schema_url: str, package: Path, unique: str, connection: asyncpg.Connection
) -> None:
    (package / "0002_index.sql").write_text(INDEX)

    async def one() -> int:
        own = await asyncpg.connect(schema_url)
        try:
            return len(await migrate.migrate(own, unique))
        finally:
            await own.close()

    async with reading(schema_url, "pg_class"):
        jobs = [asyncio.create_task(one()) for _ in range(3)]

        async def building() -> bool:
            return await valid(connection) is False

        await eventually(building)
    assert sorted(await asyncio.gather(*jobs)) == [0, 0, 3]
    assert await valid(connection) is True


async def test_interrupted_index_is_rebuilt(
    schema_url: str, package: Path, unique: str, connection: asyncpg.Connection
) -> None:
    (package / "0002_index.sql").write_text(INDEX)
    killed = await asyncpg.connect(schema_url)
    async with reading(schema_url, "pg_class"):
        job = asyncio.create_task(migrate.migrate(killed, unique))

        async def building() -> bool:
            return await valid(connection) is False

        await eventually(building)
        await connection.fetchval("SELECT pg_terminate_backend($1)", killed.get_server_pid())
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await job
    assert await valid(connection) is False
    assert [m.name for m in await migrate.migrate(connection, unique)] == ["index"]
    assert await valid(connection) is True


async def test_failed_index_is_rebuilt_once_possible(
    package: Path, unique: str, connection: asyncpg.Connection
) -> None:
    await migrate.migrate(connection, unique)
    await connection.execute("INSERT INTO first VALUES (1)")
    (package / "0002_index.sql").write_text(INDEX)
    with pytest.raises(asyncpg.UniqueViolationError):
        await migrate.migrate(connection, unique)
    await connection.execute("DELETE FROM first")
    assert [m.name for m in await migrate.migrate(connection, unique)] == ["index"]
    assert await valid(connection) is True


async def test_unrecorded_valid_index_is_recorded(package: Path, unique: str, connection: asyncpg.Connection) -> None:
    await migrate.migrate(connection, unique)
    await connection.execute("CREATE UNIQUE INDEX CONCURRENTLY first_n ON first (n)")
    (package / "0002_index.sql").write_text(INDEX)
    assert [m.name for m in await migrate.migrate(connection, unique)] == ["index"]
    assert await migrate.migrate(connection, unique) == []
