"""The stand-in for MongoDB (local/mongo), as the native platform and the sandbox run it."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from parts import Tcp
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

ROOT = Path(__file__).resolve().parents[2]
# MongoDB's error codes (src/mongo/base/error_codes.yml).
USER_NOT_FOUND, UNAUTHORIZED, AUTHENTICATION_FAILED, EXISTS = 11, 13, 18, 51003

ROOT_PASSWORD = "root-secret"
ROOT_USER = {"MONGO_INITDB_ROOT_USERNAME": "root", "MONGO_INITDB_ROOT_PASSWORD": ROOT_PASSWORD}

Client = MongoClient[dict[str, Any]]


@dataclass
class Server:
    port: int
    log: Path
    process: "subprocess.Popen[bytes]"

    @contextmanager
    def client(self, user: str = "", password: str = "", **options: Any) -> Iterator[Client]:
        login = f"{quote_plus(user)}:{quote_plus(password)}@" if user else ""
        with Client(f"mongodb://{login}127.0.0.1:{self.port}/?authSource=admin", **options) as client:
            yield client

    @contextmanager
    def root(self) -> Iterator[Client]:
        with self.client("root", ROOT_PASSWORD) as client:
            yield client

    def create(self, user: str, password: str, database: str) -> None:
        with self.root() as root:
            roles = [{"role": "readWrite", "db": database}]
            root.admin.command("createUser", user, pwd=password, roles=roles)

    def shell(self, script: str, password: str = ROOT_PASSWORD, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a script as the environments' job runs it (mongo.PROVISION)."""
        file = self.log.with_name("provision.js")
        file.write_text(script)
        options = ["--norc", "--quiet", "--file", str(file)]
        return subprocess.run(
            [ROOT / "local/mongo/mongosh", *options, f"mongodb://127.0.0.1:{self.port}/admin"],
            env={"PATH": os.environ["PATH"], "ROOT_USER": "root", "ROOT_PASSWORD": password, **variables},
            capture_output=True,
            text=True,
            check=False,
        )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(folder: Path, variables: Mapping[str, str] | None = None, *, port: int = 0) -> Iterator[Server]:
    port = port or free_port()
    log = folder / "log"
    with log.open("a") as output:
        process = subprocess.Popen(
            # The arguments of the environments' containers.
            [ROOT / "local/mongo/mongod", f"--dbpath={folder}", f"--port={port}", "--wiredTigerCacheSizeGB=0.25"],
            env={"PATH": os.environ["PATH"], **(variables or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 100
        while Tcp(port).trouble(1):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Server(port, log, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("mongo"), ROOT_USER) as server:
        yield server


@contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(OperationFailure) as refusal:
        yield
    assert refusal.value.code == code


READ_WRITE = [{"role": "readWrite", "db": "media"}]
FIND, INSERT = {"find": "things"}, {"insert": "things", "documents": [{}]}
BECOME_ROOT = {"createUser": "me", "pwd": "mine", "roles": [{"role": "root", "db": "admin"}]}


def test_unauthenticated_commands_are_rejected(server: Server) -> None:
    with server.client() as nobody:
        commands: list[dict[str, Any]] = [{"usersInfo": 1}, {"listDatabases": 1}, {"dropUser": "root"}]
        for command in [*commands, BECOME_ROOT, FIND, INSERT]:
            for database in ("admin", "media"):
                with refused(UNAUTHORIZED):
                    nobody[database].command(dict(command))


def test_wrong_password_is_rejected(server: Server) -> None:
    server.create("known_1", "its=own,secret", "media")
    with server.client("known_1", "its=own,secret") as known:
        assert known.admin.command("ping")["ok"] == 1
    for user, password in (("known_1", "its=own,secres"), ("unknown_1", "its=own,secret"), ("root", "its=own,secret")):
        with server.client(user, password) as somebody, refused(AUTHENTICATION_FAILED):
            somebody.admin.command("ping")


def test_service_user_can_access_only_its_database(server: Server) -> None:
    server.create("media_1", "secret", "media")
    with server.client("media_1", "secret") as media:
        media.media.things.create_index("name", unique=True)
        media.media.things.insert_many([{"name": str(number)} for number in range(300)])
        assert len(list(media.media.things.find(batch_size=100))) == 300
        merge = {"$merge": {"into": {"db": "video", "coll": "things"}}}
        elsewhere: list[tuple[str, dict[str, Any]]] = [
            ("video", FIND),
            ("video", INSERT),
            ("media", {"aggregate": "things", "pipeline": [merge], "cursor": {}}),
            ("media", {"dropDatabase": 1}),
            ("admin", {"listDatabases": 1}),
            ("admin", {"usersInfo": 1}),
            ("admin", BECOME_ROOT),
            ("admin", {"updateUser": "media_1", "roles": [{"role": "root", "db": "admin"}]}),
        ]
        for database, command in elsewhere:
            with refused(UNAUTHORIZED):
                media[database].command(dict(command))


def test_new_password_takes_effect_immediately(server: Server) -> None:
    server.create("short_1", "first", "media")
    with server.root() as root:
        root.admin.command("updateUser", "short_1", pwd="second")
        with server.client("short_1", "first") as late, refused(AUTHENTICATION_FAILED):
            late.admin.command("ping")
        with server.client("short_1", "second") as renewed:
            renewed.media.things.find_one()  # it keeps its roles
        root.admin.command("dropUser", "short_1")
        with server.client("short_1", "second") as dropped, refused(AUTHENTICATION_FAILED):
            dropped.admin.command("ping")
        with refused(USER_NOT_FOUND):
            root.admin.command("dropUser", "short_1")


def test_passwords_appear_in_no_log_or_process_list(server: Server) -> None:
    server.create("quiet_1", "never-to-be-read", "media")
    with server.root() as root, refused(EXISTS):
        root.admin.command({"createUser": "quiet_1", "pwd": "never-to-be-read", "roles": READ_WRITE})
    with server.client() as nobody, refused(UNAUTHORIZED):
        nobody.admin.command({"createUser": "quiet_2", "pwd": "never-to-be-read", "roles": READ_WRITE})
    with server.client("quiet_1", "never-to-be-read-either") as wrong, refused(AUTHENTICATION_FAILED):
        wrong.admin.command("ping")
    assert "never-to-be-read" not in server.log.read_text()
    for word in (b"never-to-be-read", ROOT_PASSWORD.encode()):
        assert word not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert word not in Path(f"/proc/{server.process.pid}/environ").read_bytes()


def test_users_survive_restart_and_root_is_created_once(tmp_path: Path) -> None:
    with running(tmp_path, ROOT_USER) as first:
        first.create("media_1", "secret", "media")
    with running(tmp_path, {**ROOT_USER, "MONGO_INITDB_ROOT_PASSWORD": "another"}) as second, second.root() as root:
        assert {user["user"] for user in root.admin.command("usersInfo", 1)["users"]} == {"media_1", "root"}


def test_interrupted_first_start_is_retried(tmp_path: Path) -> None:
    (tmp_path / "secantus.partial").mkdir()
    (tmp_path / "secantus.partial" / "WiredTiger").write_text("half written")
    with running(tmp_path, ROOT_USER) as server, server.root() as root:
        assert root.admin.command("ping")["ok"] == 1


def test_unsupported_option_is_rejected(tmp_path: Path) -> None:
    command: list[str | Path] = [ROOT / "local/mongo/mongod", f"--dbpath={tmp_path}", "--replSet=kinora"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--replSet=kinora" in done.stderr


@pytest.mark.timeout(120)
def test_kill_9_loses_no_confirmed_write(tmp_path: Path) -> None:
    """With four writers and MongoDB's default write concern, which does not mention the journal."""
    port, seed = free_port(), random.randrange(1000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    confirmed: list[str] = []
    stop = threading.Event()

    def write(name: str) -> None:
        options: dict[str, Any] = {"serverSelectionTimeoutMS": 200, "socketTimeoutMS": 5000}
        with Client(f"mongodb://127.0.0.1:{port}/", **options) as client:
            number = 0
            while not stop.is_set():
                number += 1
                with suppress(PyMongoError):
                    client.media.things.insert_one({"_id": f"{name}-{number}", "text": "x" * 200})
                    confirmed.append(f"{name}-{number}")

    writers = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            with running(tmp_path, port=port) as server:
                count = len(confirmed)
                while len(confirmed) < count + chance.randint(50, 250):
                    time.sleep(0.01)
                server.process.send_signal(signal.SIGKILL)
                server.process.wait()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    with running(tmp_path, port=port) as server, server.client() as client:
        found = {document["_id"] for document in client.media.things.find({}, {"_id": True})}
    assert len(confirmed) >= 150
    assert not set(confirmed) - found


# --- the environments' script -----------------------------------------------------------------------------------------


def script(**logins: str) -> str:
    """The environments' mongosh script for these users of these databases."""
    code = f"from kinora_environment import grants; print(grants.mongo_script({logins!r}))"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "pulumi", capture_output=True, text=True, check=True
    ).stdout


def names(server: Server) -> set[str]:
    with server.root() as root:
        return {user["user"] for user in root.admin.command("usersInfo", 1)["users"]}


def test_provision_script_creates_updates_and_drops_users(tmp_path: Path) -> None:
    with running(tmp_path, ROOT_USER) as fresh:
        for _ in range(2):  # idempotent
            run = fresh.shell(script(media_1="media"), PASSWORD_MEDIA_1="old")
            assert run.returncode == 0, run.stderr
        with fresh.client("media_1", "old") as media:
            media.media.things.insert_one({"_id": 1})
        run = fresh.shell(script(media_1="media", media_2="media"), PASSWORD_MEDIA_1="new", PASSWORD_MEDIA_2="next")
        assert run.returncode == 0, run.stderr
        for login in (("media_1", "new"), ("media_2", "next")):
            with fresh.client(*login) as media:
                assert media.media.things.find_one() == {"_id": 1}
        run = fresh.shell(script(media_2="media"), PASSWORD_MEDIA_2="next")
        assert run.returncode == 0, run.stderr
        assert names(fresh) == {"root", "media_2"}


def test_provision_script_without_passwords_fails_and_prints_none(server: Server) -> None:
    run = server.shell(script(media_9="media"), password="wrong-secret", PASSWORD_MEDIA_9="other-secret")
    assert run.returncode == 1
    assert "secret" not in run.stdout + run.stderr
    # The server rejects a user without a password.
    run = server.shell(script(media_9="media"))
    assert (run.returncode, "pwd" in run.stderr) == (1, True), run.stderr
    assert "media_9" not in names(server)
