"""Migrations: numbered plain SQL files, applied by a job (``python -m kinora_kit.migrate kinora_auth``).

A package has them as ``migrations/NNNN_what.sql``. The kit's own (outbox and inbox) come first. Each file runs in one
transaction under an advisory lock, and its checksum is recorded: a file that changed after it was applied is rejected.

A file may begin with options in comments:

    -- migrate: statement_timeout=15min    how long one statement may take; default: 1min
    -- migrate: transaction=no             one statement, outside a transaction, as CREATE INDEX CONCURRENTLY requires

Table locks are acquired with a short timeout and retries, because every query queues behind a waiting ALTER TABLE. An
index that an interrupted CREATE INDEX CONCURRENTLY left invalid is dropped and rebuilt.
"""

import asyncio
import hashlib
import os
import re
import sys
import time
from dataclasses import dataclass
from importlib import resources

import asyncpg

from kinora_kit import logs
from kinora_kit.settings import PREFIX

log = logs.get(__name__)

LOCK = 0x6B696E6F7261  # "kinora", unlikely to collide with another program's lock
WAIT_SECONDS = 120
LOCK_WAIT_SECONDS = 600
"""How long to wait for another migration job."""
STATEMENT_TIMEOUT = "1min"
LOCK_TIMEOUT = "2s"
LOCK_RETRY_SECONDS = 1.0
RESTORE_SECONDS = 15.0
"""How often a service checks whether its database is empty."""
LOCKS_SECONDS = 120
"""How long to retry acquiring the locks of one file."""

_HEADER = re.compile(r"-- migrate: *(\w+) *= *(\S+)\s*")
_CONCURRENT_INDEX = re.compile(
    r"CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?(\w+)\s+ON\b", re.IGNORECASE
)

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

    @property
    def file(self) -> str:
        return f"{self.package} {self.version:04}_{self.name}.sql"

    @property
    def options(self) -> dict[str, str]:
        """The options in its first lines. Raises MigrationError for unknown options."""
        found: dict[str, str] = {}
        for line in self.sql.splitlines():
            if not line.startswith("-- migrate:"):
                break
            option = _HEADER.fullmatch(line)
            if option is None or option[1] not in ("statement_timeout", "transaction"):
                raise MigrationError(
                    f"{self.file}: {line} is not an option: write statement_timeout=15min or transaction=no"
                )
            if option[1] == "transaction" and option[2] != "no":
                raise MigrationError(f"{self.file}: the only value of transaction is no")
            found[option[1]] = option[2]
        return found


def migrations_of(package: str) -> list[Migration]:
    """The migrations of a package in order. Raises MigrationError for duplicate or missing numbers."""
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
    """Apply missing migrations and return them. Safe to run concurrently: one runs, the others wait.

    Raises MigrationError if an applied file was changed, or if one cannot be applied in time.
    """
    await _acquire_lock(connection)
    try:
        await connection.execute(_TABLE)
        applied = await _applied(connection)
        done = []
        for migration in wanted(package):
            checksum = applied.get((migration.package, migration.version))
            if checksum is None:
                await _apply(connection, migration)
                done.append(migration)
            elif checksum != migration.checksum:
                raise MigrationError(
                    f"{migration.file} was changed after it had been applied: restore it and write the "
                    "change as a new migration"
                )
        return done
    finally:
        if not connection.is_closed():  # a closed connection has released its locks
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)


async def _acquire_lock(connection: asyncpg.Connection) -> None:
    # Not pg_advisory_lock: CREATE INDEX CONCURRENTLY waits for every earlier statement, so a statement that waits for
    # the lock of the job that builds the index would deadlock.
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
        if time.monotonic() > deadline:
            raise MigrationError(f"Another job has been migrating for {LOCK_WAIT_SECONDS} s")
        await asyncio.sleep(0.2)


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    options = migration.options
    statement_timeout = options.get("statement_timeout", STATEMENT_TIMEOUT)
    run = _outside_transaction if "transaction" in options else _in_transaction
    deadline = time.monotonic() + LOCKS_SECONDS
    while True:
        try:
            await run(connection, migration, statement_timeout)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if time.monotonic() > deadline:
                raise MigrationError(
                    f"{migration.file} could not acquire its locks within {LOCKS_SECONDS} s, end their holders: {error}"
                ) from error
        except asyncpg.QueryCanceledError as error:
            raise MigrationError(
                f"{migration.file} has a statement that takes longer than {statement_timeout}: use smaller batches, or "
                "allow more with -- migrate: statement_timeout=..."
            ) from error
        else:
            return
        await asyncio.sleep(LOCK_RETRY_SECONDS)


async def _in_transaction(connection: asyncpg.Connection, migration: Migration, statement_timeout: str) -> None:
    async with connection.transaction():
        await _limit(connection, statement_timeout, LOCK_TIMEOUT, local=True)
        await connection.execute(migration.sql)
        await _record(connection, migration)


async def _outside_transaction(connection: asyncpg.Connection, migration: Migration, statement_timeout: str) -> None:
    # No lock_timeout: statements that run outside a transaction do not block readers or writers.
    await _limit(connection, statement_timeout, "0", local=False)
    try:
        if not await _index_exists(connection, migration):
            await connection.execute(migration.sql)
    finally:
        await connection.execute("RESET statement_timeout; RESET lock_timeout")
    await _record(connection, migration)


async def _index_exists(connection: asyncpg.Connection, migration: Migration) -> bool:
    """Whether an earlier run built the file's index but did not record it. Drops the index if it is invalid."""
    index = _CONCURRENT_INDEX.search(migration.sql)
    if index is None:
        return False
    valid: bool | None = await connection.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", index[1]
    )
    if valid is False:
        await connection.execute(f"DROP INDEX CONCURRENTLY {index[1]}")
    return valid is True


async def _limit(connection: asyncpg.Connection, statement_timeout: str, lock_timeout: str, *, local: bool) -> None:
    await connection.execute(
        "SELECT set_config('statement_timeout', $1, $3), set_config('lock_timeout', $2, $3)",
        statement_timeout,
        lock_timeout,
        local,
    )


async def _record(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO schema_migrations (package, version, name, checksum) VALUES ($1, $2, $3, $4)",
        migration.package,
        migration.version,
        migration.name,
        migration.checksum,
    )


async def check(pool: asyncpg.Pool, package: str) -> None:
    """Raises MigrationError while the database lacks a migration that this code needs."""
    try:
        applied = await _applied(pool)
    except asyncpg.UndefinedTableError:
        applied = {}
    missing = [m for m in wanted(package) if (m.package, m.version) not in applied]
    if missing:
        raise MigrationError(f"{len(missing)} migrations are not applied yet")


async def restore(url: str, package: str) -> None:
    """Apply all migrations to a database without any schema, for instance after its volume was lost.

    Called by the service, because the job does not run then. An existing schema is left to the job, because another
    version of the service may be using it.
    """
    connection = await asyncpg.connect(url, timeout=3, server_settings={"application_name": "restore"})
    try:
        if await connection.fetchval("SELECT to_regclass('schema_migrations') IS NULL"):
            for migration in await migrate(connection, package):
                log.warning("the database was empty, applied a migration", migration=migration.file)
    finally:
        await connection.close()


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
