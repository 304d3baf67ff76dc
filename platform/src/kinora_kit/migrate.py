"""Migrations: numbered plain SQL files, applied by a job (``python -m kinora_kit.migrate kinora_auth``).

A package keeps them as ``migrations/NNNN_what.sql``. The kit's own (outbox and inbox) come first. Each file runs in one
transaction under an advisory lock, and its checksum is kept: a file that changed after it was applied is refused.
"""

import asyncio
import hashlib
import os
import sys
import time
from dataclasses import dataclass
from importlib import resources

import asyncpg

from kinora_kit.settings import PREFIX

LOCK = 0x6B696E6F7261  # "kinora", so that it cannot be another program's by accident
WAIT_SECONDS = 120

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    package text NOT NULL,
    version int NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (package, version)
)
"""


class MigrationError(Exception):
    pass


@dataclass(frozen=True)
class Migration:
    package: str
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations_of(package: str) -> list[Migration]:
    """The migrations of a package in their order. Raises MigrationError when numbers are doubled or missing."""
    found = []
    for file in sorted(resources.files(package).joinpath("migrations").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            if not number.isdecimal():
                raise MigrationError(f"{package}: {file.name} must be named NNNN_what.sql")
            found.append(Migration(package, int(number), name, file.read_text(encoding="utf-8")))
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"The migrations of {package} must be numbered 0001, 0002, ... without a gap")
    return found


def wanted(package: str) -> list[Migration]:
    return [*migrations_of("kinora_kit"), *migrations_of(package)]


async def _applied(connection: asyncpg.Connection | asyncpg.Pool) -> dict[tuple[str, int], str]:
    rows = await connection.fetch("SELECT package, version, checksum FROM schema_migrations")
    return {(row["package"], row["version"]): row["checksum"] for row in rows}


async def migrate(connection: asyncpg.Connection, package: str) -> list[Migration]:
    """Apply what is missing and return it. Safe to run from many places at once: one does it, the others wait.

    Raises MigrationError when an applied file was changed.
    """
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
    try:
        await connection.execute(_TABLE)
        applied = await _applied(connection)
        done = []
        for migration in wanted(package):
            checksum = applied.get((migration.package, migration.version))
            if checksum is None:
                async with connection.transaction():
                    await connection.execute(migration.sql)
                    await connection.execute(
                        "INSERT INTO schema_migrations (package, version, name, checksum) VALUES ($1, $2, $3, $4)",
                        migration.package,
                        migration.version,
                        migration.name,
                        migration.checksum,
                    )
                done.append(migration)
            elif checksum != migration.checksum:
                raise MigrationError(
                    f"{migration.package} {migration.version:04}_{migration.name}.sql was changed after it had been "
                    "applied: put it back as it was and write the change as a new migration"
                )
        return done
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)


async def check(pool: asyncpg.Pool, package: str) -> None:
    """Raises MigrationError while the database lacks a migration that this code needs."""
    try:
        applied = await _applied(pool)
    except asyncpg.UndefinedTableError:
        applied = {}
    missing = [m for m in wanted(package) if (m.package, m.version) not in applied]
    if missing:
        raise MigrationError(f"{len(missing)} migrations are not applied yet")


async def _connect(url: str) -> asyncpg.Connection:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return await asyncpg.connect(url, timeout=3, server_settings={"application_name": "migrate"})
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            if time.monotonic() > deadline:
                raise MigrationError(f"No connection to the database within {WAIT_SECONDS} s: {error}") from error
            await asyncio.sleep(0.3)


async def main(package: str) -> None:
    url = os.environ.get(f"{PREFIX}POSTGRES_URL")
    if not url:
        raise MigrationError(f"{PREFIX}POSTGRES_URL is not set")
    connection = await _connect(url)
    try:
        for migration in await migrate(connection, package):
            print(f"applied {migration.package} {migration.version:04}_{migration.name}")  # noqa: T201
    finally:
        await connection.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m kinora_kit.migrate PACKAGE")
    try:
        asyncio.run(main(sys.argv[1]))
    except MigrationError as error:
        sys.exit(str(error))
