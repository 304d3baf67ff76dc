"""The scripts that take and restore backups, run on a real PostgreSQL."""

import subprocess
from pathlib import Path

import pytest
from real_postgres import Postgres

from kinora_environment.postgres import BACK_UP, RESTORE

IDENTITY = "archive"


@pytest.fixture
def database(postgres: Postgres, tmp_path: Path) -> Postgres:
    """A server with a database that the identity owns, and a table in it."""
    postgres.provision(tmp_path / "provision", f"{IDENTITY}_1")
    postgres.act(f"{IDENTITY}_1", "DROP TABLE IF EXISTS films; CREATE TABLE films (title text PRIMARY KEY)")
    postgres.act(f"{IDENTITY}_1", "INSERT INTO films VALUES ('Metropolis'), ('M')")
    return postgres


def run(script: str, postgres: Postgres, backups: Path, databases: str = IDENTITY) -> subprocess.CompletedProcess[str]:
    backups.mkdir(exist_ok=True)
    variables = {**postgres.connection(), "DATABASES": databases, "KEEP_DAYS": "7"}
    command = ["sh", "-c", script.replace("/backups", str(backups))]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)


def films(postgres: Postgres) -> list[str]:
    return postgres.act(f"{IDENTITY}_1", "SELECT title FROM films ORDER BY title").splitlines()


def test_restore_recovers_data_with_its_owner(database: Postgres, tmp_path: Path) -> None:
    assert run(BACK_UP, database, tmp_path / "backups").returncode == 0
    database.act(f"{IDENTITY}_1", "DELETE FROM films")
    restored = run(RESTORE, database, tmp_path / "backups")
    assert restored.returncode == 0, restored.stderr
    assert films(database) == ["M", "Metropolis"]
    database.act(f"{IDENTITY}_1", "ALTER TABLE films ADD year int")


NEWER = {
    "a table": "CREATE TABLE mistakes (id int)",
    "a table that refers to an older one": "CREATE TABLE mistakes (film text REFERENCES films)",
    "a view of an older table": "CREATE VIEW mistakes AS SELECT title FROM films",
    "a type": "CREATE TYPE mistakes AS ENUM ('grave')",
    "a schema": "CREATE SCHEMA other CREATE TABLE mistakes (id int)",
}


@pytest.mark.parametrize("newer", NEWER)
def test_restore_drops_objects_newer_than_the_backup(database: Postgres, tmp_path: Path, newer: str) -> None:
    """Otherwise the migration that created it could not run again."""
    assert run(BACK_UP, database, tmp_path / "backups").returncode == 0
    database.act(f"{IDENTITY}_1", NEWER[newer])
    restored = run(RESTORE, database, tmp_path / "backups")
    assert restored.returncode == 0, restored.stderr
    assert films(database) == ["M", "Metropolis"]
    database.act(f"{IDENTITY}_1", NEWER[newer])
    database.act(f"{IDENTITY}_1", "DROP SCHEMA IF EXISTS other CASCADE; DROP OWNED BY CURRENT_ROLE")


def test_restore_keeps_extensions_and_their_users(database: Postgres, tmp_path: Path) -> None:
    database.provision(tmp_path / "extended", f"{IDENTITY}_1", extensions={IDENTITY: ["vector"]})
    database.act(f"{IDENTITY}_1", "CREATE TABLE tastes (taste vector(2)); INSERT INTO tastes VALUES ('[1,2]')")
    assert run(BACK_UP, database, tmp_path / "backups").returncode == 0
    database.act(f"{IDENTITY}_1", "DELETE FROM tastes")
    restored = run(RESTORE, database, tmp_path / "backups")
    assert restored.returncode == 0, restored.stderr
    assert database.act(f"{IDENTITY}_1", "SELECT taste <-> '[1,2]' FROM tastes") == "0"
    database.act(f"{IDENTITY}_1", "DROP TABLE tastes")


def test_restore_uses_the_newest_backup(database: Postgres, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    assert run(BACK_UP, database, backups).returncode == 0
    (first,) = backups.glob("*.dump")
    first.rename(backups / f"{IDENTITY}-2001-01-01T000000Z.dump")
    database.act(f"{IDENTITY}_1", "INSERT INTO films VALUES ('Nosferatu')")
    assert run(BACK_UP, database, backups).returncode == 0
    database.act(f"{IDENTITY}_1", "DELETE FROM films")
    assert run(RESTORE, database, backups).returncode == 0
    assert films(database) == ["M", "Metropolis", "Nosferatu"]


def test_restore_of_broken_backup_changes_nothing(database: Postgres, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    assert run(BACK_UP, database, backups).returncode == 0
    (dump,) = backups.glob("*.dump")
    dump.write_bytes(dump.read_bytes()[:-200])
    database.act(f"{IDENTITY}_1", "DELETE FROM films WHERE title = 'M'")
    assert run(RESTORE, database, backups).returncode != 0
    assert films(database) == ["Metropolis"]


def test_failed_backup_keeps_older_ones(database: Postgres, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    old = backups / f"{IDENTITY}-2001-01-01T000000Z.dump"
    old.write_text("precious")
    subprocess.run(["touch", "--date=2001-01-01", old], check=True)
    assert run(BACK_UP, database, backups, databases=f"{IDENTITY} nothing").returncode != 0
    assert old.exists()
    assert run(BACK_UP, database, backups).returncode == 0
    assert not old.exists()


def test_restore_without_backup_fails_with_message(database: Postgres, tmp_path: Path) -> None:
    refused = run(RESTORE, database, tmp_path / "backups")
    assert refused.returncode == 1
    assert f"there is no dump of {IDENTITY}" in refused.stdout


def test_restore_changes_only_the_named_database(database: Postgres, tmp_path: Path) -> None:
    other = "library"
    database.provision(tmp_path / "other", f"{IDENTITY}_1", f"{other}_1")
    database.act(f"{other}_1", "DROP TABLE IF EXISTS books; CREATE TABLE books (title text)")
    assert run(BACK_UP, database, tmp_path / "backups", databases=f"{IDENTITY} {other}").returncode == 0
    database.act(f"{IDENTITY}_1", "DELETE FROM films")
    database.act(f"{other}_1", "INSERT INTO books VALUES ('Momo')")
    assert run(RESTORE, database, tmp_path / "backups").returncode == 0
    assert films(database) == ["M", "Metropolis"]
    assert database.act(f"{other}_1", "SELECT title FROM books").split() == ["Momo"]
