"""The stand-in for MongoDB with users, as the sandbox runs it, before MongoDB's driver and the environments' script."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

ROOT = Path(__file__).resolve().parents[2]
JAR = ROOT / ".kinora" / "bin" / "mongo.jar"
JAVA = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
# Of MongoDB (src/mongo/base/error_codes.yml).
BAD_VALUE, USER_NOT_FOUND, UNAUTHORIZED, AUTHENTICATION_FAILED, ROLE_NOT_FOUND, EXISTS = 2, 11, 13, 18, 31, 51003

ROOT_PASSWORD = "root-secret"
ROOT_USER = {"MONGO_INITDB_ROOT_USERNAME": "root", "MONGO_INITDB_ROOT_PASSWORD": ROOT_PASSWORD}

Client = MongoClient[dict[str, Any]]


@dataclass
class Server:
    port: int
    log: Path

    @contextmanager
    def client(self, user: str = "", password: str = "") -> Iterator[Client]:
        login = f"{quote_plus(user)}:{quote_plus(password)}@" if user else ""
        options = "authSource=admin&retryWrites=false"  # as the services'
        with MongoClient[dict[str, Any]](f"mongodb://{login}127.0.0.1:{self.port}/?{options}") as client:
            yield client

    @contextmanager
    def root(self) -> Iterator[Client]:
        with self.client("root", ROOT_PASSWORD) as client:
            yield client

    def create(self, user: str, password: str, database: str) -> None:
        with self.root() as root:
            roles = [{"role": "readWrite", "db": database}]
            root.admin.command("createUser", user, pwd=password, roles=roles)

    def shell(self, script: str, password: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a script as the environments' job runs it (mongo.PROVISION)."""
        file = self.log.with_name("provision.js")
        file.write_text(script)
        options = ["--norc", "--quiet", "--file", str(file)]
        root = {"ROOT_USER": "root", "ROOT_PASSWORD": password or ROOT_PASSWORD}
        return subprocess.run(
            [*JAVA, "-cp", str(JAR), "MongoShell", *options, f"mongodb://127.0.0.1:{self.port}/admin"],
            env={"PATH": os.environ["PATH"], **root, **variables},
            capture_output=True,
            text=True,
            check=False,
        )


@contextmanager
def running(folder: Path, **variables: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    log = folder / "log"
    with log.open("a") as output:
        process = subprocess.Popen(
            [*JAVA, "-jar", str(JAR), "127.0.0.1", str(port), str(folder / "db")],
            env={"PATH": os.environ["PATH"], **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        await_listening(port, process, log)
        yield Server(port, log)
    finally:
        process.terminate()
        process.wait(timeout=20)


def await_listening(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"the stand-in does not listen: {log.read_text()}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not JAR.exists():
        pytest.skip("the stand-in for MongoDB is not built: make install")
    with running(tmp_path_factory.mktemp("mongo"), **ROOT_USER) as server:
        yield server


@contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(OperationFailure) as refusal:
        yield
    assert refusal.value.code == code


READ_WRITE = [{"role": "readWrite", "db": "media"}]
FIND, INSERT = {"find": "things"}, {"insert": "things", "documents": [{}]}
BECOME_ROOT = {"createUser": "me", "pwd": "mine", "roles": [{"role": "root", "db": "admin"}]}


def test_without_signing_in_there_is_nothing_but_the_greeting(server: Server) -> None:
    with server.client() as nobody:
        greeting = nobody.admin.command("hello", saslSupportedMechs="admin.whoever")
        assert greeting["saslSupportedMechs"] == ["SCRAM-SHA-256"]
        commands: list[dict[str, Any]] = [{"ping": 1}, {"usersInfo": 1}, {"listDatabases": 1}, {"dropUser": "root"}]
        for command in [*commands, BECOME_ROOT, FIND, INSERT]:
            for database in ("admin", "media"):
                with refused(UNAUTHORIZED):
                    nobody[database].command(dict(command))


def test_the_right_password_gets_in_and_no_other(server: Server) -> None:
    server.create("known_1", "its=own,secret", "media")
    with server.client("known_1", "its=own,secret") as known:
        assert known.admin.command("ping")["ok"] == 1
    for user, password in (("known_1", "its=own,secres"), ("unknown_1", "its=own,secret"), ("root", "its=own,secret")):
        with server.client(user, password) as somebody, refused(AUTHENTICATION_FAILED):
            somebody.admin.command("ping")


def test_proof_without_a_conversation_gets_nobody_in(server: Server) -> None:
    with server.client() as nobody:
        for payload in (b"", b"c=biws,r=x,p=", b"c=biws,r=x,p=!", b"n,,n=root,r=x"):
            with refused(AUTHENTICATION_FAILED):
                nobody.admin.command({"saslContinue": 1, "conversationId": 1, "payload": payload})
        with refused(UNAUTHORIZED):
            nobody.admin.command("ping")


def test_a_service_reaches_its_own_database_and_nothing_else(server: Server) -> None:
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
            ("admin", {"renameCollection": "media.things", "to": "video.things"}),
        ]
        for database, command in elsewhere:
            with refused(UNAUTHORIZED):
                media[database].command(dict(command))


def test_a_new_password_or_a_dropped_user_holds_at_once(server: Server) -> None:
    server.create("short_1", "first", "media")
    with server.client("short_1", "first") as short, server.root() as root:
        short.media.things.find_one()
        root.admin.command("updateUser", "short_1", pwd="second")
        with server.client("short_1", "first") as late, refused(AUTHENTICATION_FAILED):
            late.admin.command("ping")
        with server.client("short_1", "second") as renewed:
            renewed.media.things.find_one()  # the roles stayed
        root.admin.command("dropUser", "short_1")
        with refused(UNAUTHORIZED):
            short.media.things.find_one()
        with refused(USER_NOT_FOUND):
            root.admin.command("dropUser", "short_1")


def test_no_password_is_written_into_the_log(server: Server) -> None:
    server.create("quiet_1", "never-to-be-read", "media")
    create = {"pwd": "never-to-be-read", "roles": READ_WRITE}
    with server.root() as root:
        with refused(EXISTS):
            root.admin.command({"createUser": "quiet_1", **create})
        with refused(BAD_VALUE):
            root.media.command({"createUser": "quiet_2", **create})
        with refused(ROLE_NOT_FOUND):
            root.admin.command({"createUser": "quiet_2", **create, "roles": ["dbAdmin"]})
    with server.client() as nobody, refused(UNAUTHORIZED):
        nobody.admin.command({"createUser": "quiet_2", **create})
    with server.client("quiet_1", "never-to-be-read-either") as wrong, refused(AUTHENTICATION_FAILED):
        wrong.admin.command("ping")
    assert "never-to-be-read" not in server.log.read_text()


def test_users_and_data_outlive_the_server_and_root_is_made_once(tmp_path: Path, server: Server) -> None:
    with running(tmp_path, **ROOT_USER) as first:
        first.create("media_1", "secret", "media")
        with first.client("media_1", "secret") as media:
            media.media.things.insert_one({"_id": 1})
    with running(tmp_path, **{**ROOT_USER, "MONGO_INITDB_ROOT_PASSWORD": "another"}) as second:
        with second.client("media_1", "secret") as media:
            assert media.media.things.find_one() == {"_id": 1}
        with second.root() as root:
            assert [user["user"] for user in root.admin.command("usersInfo", 1)["users"]] == ["media_1", "root"]


def test_without_the_variables_there_are_no_users(tmp_path: Path, server: Server) -> None:
    with running(tmp_path) as native, native.client() as anybody:
        anybody.media.things.insert_one({"_id": 1})
        assert anybody.media.things.find_one() == {"_id": 1}


def script(**logins: str) -> str:
    """What the environments give to mongosh, for these users of these databases."""
    code = f"from kinora_environment import grants; print(grants.mongo_script({logins!r}))"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "pulumi", capture_output=True, text=True, check=True
    ).stdout


def names(server: Server) -> set[str]:
    with server.root() as root:
        return {user["user"] for user in root.admin.command("usersInfo", 1)["users"]}


def test_the_environments_script_makes_changes_and_retires_users(tmp_path: Path, server: Server) -> None:
    with running(tmp_path, **ROOT_USER) as fresh:
        for _ in range(2):  # safe to run again
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


def test_the_script_fails_without_its_password_and_says_none(server: Server) -> None:
    run = server.shell(script(media_9="media"), password="wrong-secret", PASSWORD_MEDIA_9="other-secret")
    assert run.returncode == 1
    assert "secret" not in run.stdout + run.stderr
    # Refused by the server: without a password there is no user.
    run = server.shell(script(media_9="media"))
    assert (run.returncode, "pwd" in run.stderr) == (1, True), run.stderr
    with pytest.raises(PyMongoError), server.client("media_9", "other-secret") as nobody:
        nobody.admin.command("ping")
