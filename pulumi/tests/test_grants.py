"""An identity's permissions in the real stores, across generations of its credentials."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import real_stores
from real_postgres import Postgres
from real_stores import PLATFORM, ROOT, free_ports, listens, password, program, running, wait_for, write

from kinora_environment import grants

# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def test_both_live_generations_own_the_same_tables(postgres: Postgres, tmp_path: Path) -> None:
    postgres.provision(tmp_path, "alpha_1")
    postgres.act("alpha_1", "CREATE TABLE videos (id int)")
    postgres.provision(tmp_path, "alpha_1", "alpha_2")
    postgres.act("alpha_2", "ALTER TABLE videos ADD COLUMN title text")
    postgres.act("alpha_1", "INSERT INTO videos VALUES (1, 'one')")
    assert postgres.act("alpha_2", "SELECT title FROM videos") == "one"


def test_retired_postgres_login_is_dropped(postgres: Postgres, tmp_path: Path) -> None:
    postgres.provision(tmp_path, "beta_1", "beta_2")
    postgres.act("beta_1", "CREATE TABLE kept (id int)")
    postgres.provision(tmp_path, "beta_2", "beta_3")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        postgres.act("beta_1", "SELECT 1")
    assert 'password authentication failed for user "beta_1"' in refused.value.stderr
    assert postgres.root("SELECT rolname FROM pg_roles WHERE rolname ~ '^beta' ORDER BY 1").split() == [
        "beta",
        "beta_2",
        "beta_3",
    ]
    assert postgres.act("beta_3", "SELECT count(*) FROM kept") == "0"


def test_removed_identity_loses_logins_but_keeps_data(postgres: Postgres, tmp_path: Path) -> None:
    postgres.provision(tmp_path, "former_1", "present_1")
    postgres.provision(tmp_path, "present_1")
    assert postgres.root("SELECT rolname FROM pg_roles WHERE rolname ~ '^former'") == "former"
    assert postgres.root("SELECT datname FROM pg_database WHERE datname = 'former'") == "former"


def test_postgres_login_can_access_only_its_database(postgres: Postgres, tmp_path: Path) -> None:
    postgres.provision(tmp_path, "gamma_1", "delta_1")
    for database in ("delta", "postgres", "template1"):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            postgres.psql("gamma_1", password("gamma_1"), database, "SELECT 1")
        assert "permission denied for database" in refused.value.stderr
    with pytest.raises(subprocess.CalledProcessError) as refused:
        postgres.psql("gamma_1", password("gamma_1"), "gamma", "SELECT 1", role="delta")
    assert 'permission denied to set role "delta"' in refused.value.stderr


def test_postgres_login_has_no_privileges_of_its_own(postgres: Postgres, tmp_path: Path) -> None:
    """Objects that it created as itself, and not as the owner, would prevent dropping it."""
    postgres.provision(tmp_path, "epsilon_1")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        postgres.psql("epsilon_1", password("epsilon_1"), "epsilon", "CREATE TABLE mine (id int)")
    assert "permission denied for schema public" in refused.value.stderr


def test_postgres_provisioning_is_idempotent(postgres: Postgres, tmp_path: Path) -> None:
    catalogue = (
        "SELECT rolname, rolcanlogin, rolinherit, rolsuper FROM pg_roles ORDER BY 1;"
        "SELECT roleid::regrole, member::regrole, inherit_option, set_option FROM pg_auth_members ORDER BY 1, 2;"
        "SELECT datname, datdba, datacl FROM pg_database ORDER BY 1"
    )
    postgres.provision(tmp_path, "zeta_1", "zeta_2", extensions={"zeta": ["vector"]})
    before = postgres.root(catalogue)
    postgres.provision(tmp_path, "zeta_1", "zeta_2", extensions={"zeta": ["vector"]})
    assert postgres.root(catalogue) == before
    assert postgres.root("SELECT extname FROM pg_extension WHERE extname = 'vector'", "zeta") == "vector"


def test_postgres_provisioning_without_password_fails(postgres: Postgres, tmp_path: Path) -> None:
    write(tmp_path, {"provision.sql": grants.postgres_sql({"eta_1": "eta"}, extensions={})})
    with pytest.raises(subprocess.CalledProcessError):
        postgres.root(f"\\i {tmp_path}/provision.sql")


# Like a service: the driver takes `role` from the URL, and keeps it when a connection returns to the pool.
ASYNCPG = """
import asyncio, asyncpg, sys
async def main():
    async with asyncpg.create_pool(sys.argv[1], min_size=1, max_size=1) as pool:
        await pool.execute("CREATE TABLE IF NOT EXISTS mine (id int)")
        print(await pool.fetchval("SELECT session_user || ' ' || current_user"))
        print(await pool.fetchval("SELECT tableowner FROM pg_tables WHERE tablename = 'mine'"))
asyncio.run(main())
"""


def test_service_url_assumes_the_owner_role(postgres: Postgres, tmp_path: Path) -> None:
    url = urlsplit(real_stores.make().variables["auth.KINORA_POSTGRES_URL"])
    assert (url.hostname, url.port) == ("postgres.kinora-test-stores.svc.cluster.local", 5432)
    postgres.provision(tmp_path, "auth_1")
    postgres.root(f"ALTER ROLE auth_1 PASSWORD '{url.password}'")
    here = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{postgres.port}").geturl()
    answer = subprocess.run([PLATFORM, "-c", ASYNCPG, here], check=True, capture_output=True, text=True).stdout
    assert answer.split("\n")[:2] == ["auth_1 auth", "auth"]


# --- MinIO ------------------------------------------------------------------------------------------------------------

# Tries every action on its own and on another bucket, and prints which were allowed.
S3 = """
import io, json, os, sys
from minio import Minio, S3Error
endpoint, key, secret, own, other = sys.argv[1:]
store = Minio(endpoint, access_key=key, secret_key=secret, secure=False)
def put(bucket):
    store.put_object(bucket, "a/b", io.BytesIO(b"data"), 4)
def abandon(bucket):
    upload = store._create_multipart_upload(bucket, "parts", {})
    store._list_multipart_uploads(bucket)
    store._list_parts(bucket, "parts", upload)
    store._abort_multipart_upload(bucket, "parts", upload)
actions = {
    "put": put,
    "get": lambda bucket: store.get_object(bucket, "a/b").read(),
    "list": lambda bucket: list(store.list_objects(bucket, recursive=True)),
    "abandon": abandon,
    "delete": lambda bucket: store.remove_object(bucket, "a/b"),
    "set policy": lambda bucket: store.set_bucket_policy(bucket, '{"Version": "2012-10-17", "Statement": []}'),
    "remove bucket": store.remove_bucket,
}
def allowed(action, bucket):
    try:
        action(bucket)
    except S3Error as error:
        assert error.code in ("AccessDenied", "InvalidAccessKeyId"), error
        return False
    return True
print(json.dumps({name: [allowed(action, own), allowed(action, other)] for name, action in actions.items()}))
"""

OWN_OBJECTS_ONLY = {
    "put": [True, False],
    "get": [True, False],
    "list": [True, False],
    "abandon": [True, False],
    "delete": [True, False],
    "set policy": [False, False],
    "remove bucket": [False, False],
}


@dataclass(frozen=True)
class S3Server:
    port: int
    folder: Path

    def provision(self, generation: int) -> None:
        """Run the provisioning task's own script."""
        made = real_stores.make(generation=generation)
        client = Path(program("mc", ROOT / ".kinora" / "bin"))
        files = write(self.folder / f"provision-{generation}", made.data("ConfigMap", "s3-provision"))
        (container,) = made.job("s3-provision")["spec"]["template"]["spec"]["containers"]
        subprocess.run(
            ["sh", files / "provision.sh"],
            # Only the client and shell built-ins: the image has little else.
            env={
                **real_stores.environment(container),
                **made.data("Secret", "s3-provision"),
                "PATH": str(self.tools(client)),
                "S3_URL": f"http://127.0.0.1:{self.port}",
                "ROOT_PASSWORD": "kinora-root",
                "POLICIES": str(files),
                "HOME": str(self.folder),
            },
            check=True,
            capture_output=True,
            text=True,
        )

    def tools(self, client: Path) -> Path:
        folder = self.folder / "tools"
        folder.mkdir(exist_ok=True)
        for tool in (client, *(Path(program(name)) for name in ("sh", "sleep"))):
            with contextlib.suppress(FileExistsError):
                (folder / tool.name).symlink_to(tool)
        return folder

    def ask(self, login: str, secret: str, own: str, other: str) -> dict[str, list[bool]]:
        command: list[str | Path] = [PLATFORM, "-c", S3, f"127.0.0.1:{self.port}", login, secret, own, other]
        answer: dict[str, list[bool]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return answer


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    server, (port,) = program("minio", ROOT / ".kinora" / "bin"), free_ports(1)
    made = real_stores.make().container("s3", "minio")
    variables = {**real_stores.environment(made), "MINIO_ROOT_PASSWORD": "kinora-root"}
    command = [server, *made["command"][1:]]
    places = {"--address=:9000": f"--address=127.0.0.1:{port}", "--certs-dir=/tmp/certs": f"--certs-dir={tmp_path}/c"}
    command = [places.get(word, word) for word in command]
    command[-1] = str(tmp_path / "data")
    log = tmp_path / "log"
    with running(command, log, variables=variables):
        wait_for(lambda: listens(port), log=log)
        yield S3Server(port, tmp_path)


def test_s3_keys_are_limited_to_their_buckets_and_retired(s3: S3Server) -> None:
    s3.provision(2)
    s3.provision(2)  # like a retry of an interrupted task
    for generation in (1, 2):
        login, secret = f"tusd_{generation}", password(f"tusd-s3-{generation}")
        assert s3.ask(login, secret, "uploads", "streams") == OWN_OBJECTS_ONLY
    s3.provision(3)
    for identity in ("tusd", "video"):
        retired = s3.ask(f"{identity}_1", password(f"{identity}-s3-1"), "uploads", "streams")
        assert not any(map(any, retired.values()))
    assert s3.ask("video_3", password("video-s3-3"), "streams", "none")["put"][0]


def test_s3_script_needs_only_a_shell_and_mc() -> None:
    script = grants.s3_script({"video_1": ["uploads", "streams"], "tusd_1": ["uploads"]})
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert "mc mb --ignore-existing store/streams\nmc mb --ignore-existing store/uploads\n" in script
    assert script.count("mc admin user add") == 2
    # The client's image has a shell and its own built-ins, and little else.
    assert not {"awk", "grep", "sed", "cut"} & set(script.split())
