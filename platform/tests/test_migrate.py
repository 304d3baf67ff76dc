import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from kinora_kit import migrate, postgres
from kinora_kit.migrate import MigrationError

FIRST = "CREATE TABLE first (n int); INSERT INTO first VALUES (1);"


@pytest.fixture
def package(tmp_path: Path, unique: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package of its own; answers its folder of migrations, which has one."""
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


async def test_the_kit_comes_first_and_nothing_is_applied_twice(
    connection: asyncpg.Connection, package: Path, unique: str
) -> None:
    applied = await migrate.migrate(connection, unique)
    assert [(m.package, m.version, m.name) for m in applied] == [("kinora_kit", 1, "outbox"), (unique, 1, "first")]
    assert await migrate.migrate(connection, unique) == []
    (package / "0002_second.sql").write_text("ALTER TABLE first ADD m int")
    assert [m.name for m in await migrate.migrate(connection, unique)] == ["second"]


async def test_many_at_once_apply_each_migration_once(schema_url: str, package: Path, unique: str) -> None:
    async def one() -> int:
        connection = await asyncpg.connect(schema_url)
        try:
            return len(await migrate.migrate(connection, unique))
        finally:
            await connection.close()

    assert sorted(await asyncio.gather(*(one() for _ in range(4)))) == [0, 0, 0, 2]


async def test_a_file_changed_after_it_was_applied_is_refused(
    connection: asyncpg.Connection, package: Path, unique: str
) -> None:
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
async def test_files_out_of_order_are_refused_before_anything_is_applied(
    *, connection: asyncpg.Connection, package: Path, unique: str, file: str, sentence: str
) -> None:
    (package / file).write_text("SELECT 1")
    with pytest.raises(MigrationError, match=sentence):
        await migrate.migrate(connection, unique)
    assert await connection.fetchval("SELECT to_regclass('first')") is None


async def test_a_migration_that_fails_leaves_nothing_of_itself_and_keeps_those_before(
    connection: asyncpg.Connection, package: Path, unique: str
) -> None:
    (package / "0002_second.sql").write_text("CREATE TABLE second (n int); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate.migrate(connection, unique)
    assert await connection.fetchval("SELECT to_regclass('second')") is None
    (package / "0002_second.sql").write_text("CREATE TABLE second (n int)")
    assert [m.name for m in await migrate.migrate(connection, unique)] == ["second"]


async def test_check_refuses_until_all_that_the_code_needs_is_applied(
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


def test_as_a_job_it_says_what_it_did_and_what_is_wrong(schema_url: str, package: Path, unique: str) -> None:
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
