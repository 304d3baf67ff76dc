"""The sandbox's images, each run like in its pod, by runc and without a cluster: with the pod's own commands,
variables, files and user, a read-only root file system, no capabilities, its memory limit, and a separate network.

Skipped unless they are built, which takes minutes: `make --file=local/sandbox/images.mk`.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MADE = ROOT / ".kinora"
BUILDAH = [
    "buildah",
    f"--root={MADE}/containers/storage",
    f"--runroot={MADE}/containers/run",
    "--storage-driver=overlay",
]
READY_SECONDS = 60

Object = dict[str, Any]
HOST = {name: f"{name}.kinora-sandbox-stores.svc.cluster.local" for name in ("postgres", "mongo", "redis", "rabbitmq")}


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def built() -> set[str]:
    if os.geteuid() != 0 or not all(shutil.which(each) for each in ("buildah", "runc", "nsenter")):
        pytest.skip("buildah and runc, as root, are needed to run images")
    listed: list[Object] = json.loads(run(*BUILDAH, "images", "--json"))
    return {name for each in listed for name in each.get("names") or []}


def references() -> list[str]:
    return run("make", "--silent", "--file=local/sandbox/images.mk", "references").split()


def reference(name: str) -> str:
    (found,) = (each for each in references() if each.rpartition(":")[0].endswith(f"/{name}"))
    return found


@dataclass
class Containers:
    """The containers of a test, in one network in which all service names resolve to loopback."""

    folder: Path
    objects: list[Object]
    started: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    network: str = ""

    def end(self) -> None:
        for name in self.started:
            subprocess.run(["runc", "delete", "--force", name], capture_output=True, check=False)
        for name in self.made:
            subprocess.run([*BUILDAH, "rm", name], capture_output=True, check=False)

    def find(self, kind: str, name: str) -> Object:
        (found,) = (each for each in self.objects if (each["kind"], each["metadata"]["name"]) == (kind, name))
        return found

    # --- what a kubelet does -----------------------------------------------------------------------------------------

    def volumes(self, pod: Object, claims: Sequence[Object] = ()) -> dict[str, Path]:
        group = pod.get("securityContext", {}).get("fsGroup", 0)
        made = {}
        for volume in [*pod.get("volumes", []), *({"name": each["metadata"]["name"]} for each in claims)]:
            folder = made[volume["name"]] = self.folder / f"{pod['serviceAccountName']}-{volume['name']}"
            folder.mkdir()
            for file, text in self.files(volume).items():
                (folder / file).write_text(text)
                (folder / file).chmod(0o640)
                os.chown(folder / file, 0, group)
            os.chown(folder, 0, group)
            folder.chmod(0o2777)
        return made

    def files(self, volume: Object) -> dict[str, str]:
        source = volume.get("configMap") or volume.get("secret") or {"optional": True}
        if source.get("optional"):
            return {}
        if "secret" in volume:
            return self.secret(source["secretName"])
        return dict(self.find("ConfigMap", source["name"]).get("data", {}))

    def secret(self, name: str) -> dict[str, str]:
        found = self.find("Secret", name)
        encoded = {key: base64.b64decode(value).decode() for key, value in found.get("data", {}).items()}
        return {**encoded, **found.get("stringData", {})}

    def variables(self, container: Object) -> dict[str, str]:
        given = {}
        for source in container.get("envFrom", []):
            given.update(self.secret(source["secretRef"]["name"]))
        for variable in container.get("env", []):
            if "value" in variable:
                given[variable["name"]] = variable["value"]
            elif chosen := variable["valueFrom"].get("secretKeyRef"):
                given[variable["name"]] = self.secret(chosen["name"])[chosen["key"]]
        return given

    def bundle(self, pod: Object, container: Object, volumes: dict[str, Path]) -> tuple[str, Path]:
        """A container's name and its OCI bundle for runc."""
        image = container["image"]
        if image not in built():
            pytest.skip(f"{image} is not built: make --file=local/sandbox/images.mk")
        name = f"kinora-test-{uuid.uuid4().hex[:12]}"
        run(*BUILDAH, "from", "--pull-never", "--name", name, image)
        self.made.append(name)
        folder = self.folder / name
        folder.mkdir()
        run("runc", "spec", "--bundle", folder)
        spec = json.loads((folder / "config.json").read_text())
        config = json.loads(run(*BUILDAH, "inspect", "--type", "image", image))["OCIv1"]["config"]
        variables = {
            **dict(each.split("=", 1) for each in config.get("Env", [])),
            **self.variables(container),
        }
        arguments = container.get("args") or ([] if "command" in container else config.get("Cmd") or [])
        for variable, value in variables.items():
            arguments = [each.replace(f"$({variable})", value) for each in arguments]
        user = {**pod.get("securityContext", {}), **container["securityContext"]}.get("runAsUser")
        spec["process"] |= {
            "terminal": False,
            "user": {"uid": user if user is not None else int(config["User"]), "gid": user or int(config["User"])},
            "args": [*(container.get("command") or config.get("Entrypoint") or []), *arguments],
            "env": [f"{variable}={value}" for variable, value in variables.items()],
            "cwd": container.get("workingDir") or config.get("WorkingDir") or "/",
            "capabilities": {},
            "noNewPrivileges": True,
            "rlimits": [],
        }
        assert spec["process"]["user"]["uid"] != 0
        spec["root"] = {"path": run(*BUILDAH, "mount", name).strip(), "readonly": True}
        hosts = self.folder / "hosts"
        hosts.write_text("127.0.0.1 localhost postgres mongo redis s3\n")
        binds = {
            "/etc/hosts": hosts,
            **{each["mountPath"]: volumes[each["name"]] for each in container.get("volumeMounts", [])},
        }
        spec["mounts"] += [
            {"destination": path, "type": "bind", "source": str(source), "options": ["bind", "rw"]}
            for path, source in binds.items()
        ]
        mebibytes = int(container["resources"]["limits"]["memory"].removesuffix("Mi"))
        spec["linux"]["resources"]["memory"] = {"limit": mebibytes * 2**20}
        spec["linux"]["cgroupsPath"] = f"/{name}"
        for namespace in spec["linux"]["namespaces"]:
            if namespace["type"] == "network" and self.network:
                namespace["path"] = self.network
        (folder / "config.json").write_text(json.dumps(spec))
        return name, folder

    def to_its_end(self, pod: Object, container: Object, volumes: dict[str, Path]) -> str:
        name, folder = self.bundle(pod, container, volumes)
        self.started.append(name)
        done = subprocess.run(
            ["runc", "run", "--bundle", folder, name], capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, kind: str, name: str) -> None:
        """Start a workload like its pod: init containers, then all containers; waits until the first is ready."""
        found = self.find(kind, name)
        pod = found["spec"]["template"]["spec"]
        volumes = self.volumes(pod, found["spec"].get("volumeClaimTemplates", []))
        for container in pod.get("initContainers", []):
            self.to_its_end(pod, container, volumes)
        for container in pod["containers"]:
            started, folder = self.bundle(pod, container, volumes)
            log = (folder / "log").open("w")
            with log:
                subprocess.run(
                    ["runc", "run", "--detach", "--bundle", folder, started], stdout=log, stderr=log, check=True
                )
            self.started.append(started)
            if not self.network:
                self.network = f"/proc/{json.loads(run('runc', 'state', started))['pid']}/ns/net"
                self.await_ready(started, container, folder / "log")

    def await_ready(self, name: str, container: Object, log: Path) -> None:
        probe = container.get("readinessProbe") or {"tcpSocket": {"port": container["ports"][0]["containerPort"]}}
        deadline = time.monotonic() + READY_SECONDS
        while not self.is_ready(name, container, probe):
            state = json.loads(run("runc", "state", name))["status"]
            assert state == "running", log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def is_ready(self, name: str, container: Object, probe: Object) -> bool:
        if "exec" in probe:
            asked = ["runc", "exec", name, *probe["exec"]["command"]]
            return subprocess.run(asked, capture_output=True, check=False).returncode == 0
        how = probe.get("httpGet") or probe["tcpSocket"]
        ports = {each.get("name"): each["containerPort"] for each in container["ports"]}
        port = ports.get(how["port"], how["port"])
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        if "path" in how:
            code = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}{how['path']}', timeout=2)"
        return self.inside(code).returncode == 0

    def inside(self, code: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run this machine's Python in the containers' network."""
        return subprocess.run(
            ["nsenter", f"--net={self.network}", sys.executable, "-c", code],
            env={"PATH": os.environ["PATH"], **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def job(self, name: str) -> str:
        (found,) = (
            each
            for each in self.objects
            if each["kind"] == "Job" and each["metadata"]["name"].rpartition("-")[0] == name
        )
        pod = found["spec"]["template"]["spec"]
        return self.to_its_end(pod, pod["containers"][0], self.volumes(pod))


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """The objects of the environment `sandbox`."""
    built()  # skips early
    python = MADE / "pulumi" / "bin" / "python"
    if not python.exists():
        pytest.skip("the Python of the environments is not installed: make tools")
    made = run(
        python,
        ROOT / "local" / "sandbox" / "objects.py",
        tmp_path_factory.mktemp("objects"),
        PYTHONPATH=str(ROOT / "pulumi"),
    )
    items: list[Object] = json.loads(made)["items"]
    return items


@pytest.fixture
def containers(tmp_path: Path, objects: list[Object]) -> Iterator[Containers]:
    tmp_path.chmod(0o755)
    containers = Containers(tmp_path, objects)
    yield containers
    containers.end()


def alone(image: str, *command: str, memory: int = 64, writable: Sequence[str] = (), **variables: str) -> Object:
    """A pod with one container, which is not part of any environment, as the image's own user."""
    return {
        "serviceAccountName": "alone",
        "securityContext": {"fsGroup": 1000},
        "volumes": [{"name": path.strip("/"), "emptyDir": {}} for path in writable],
        "containers": [
            {
                "image": image,
                **({"command": list(command)} if command else {}),
                "env": [{"name": name, "value": value} for name, value in variables.items()],
                "securityContext": {},
                "resources": {"limits": {"memory": f"{memory}Mi"}},
                "volumeMounts": [{"name": path.strip("/"), "mountPath": path} for path in writable],
            }
        ],
    }


def test_environment_uses_only_images_built_here() -> None:
    stack = (ROOT / "pulumi" / "Pulumi.sandbox.yaml").read_text()
    wanted = {line.split()[1] for line in stack.splitlines() if "localhost/" in line}
    beside = {reference(name) for name in ("git", "pause", "tusd", "kinora-minio")}
    assert wanted | beside == set(references())


def test_postgres_is_provisioned_with_pgvector(containers: Containers) -> None:
    containers.start("StatefulSet", "postgres")
    containers.job("postgres-provision")
    url = containers.secret("auth-postgres")["KINORA_POSTGRES_URL"].replace(HOST["postgres"], "127.0.0.1")
    asked = containers.inside(
        "import asyncio, asyncpg, os\n"
        "async def ask():\n"
        "    server = await asyncpg.connect(os.environ['URL'])\n"
        "    print(await server.fetchval('SELECT current_user'))\n"
        "asyncio.run(ask())",
        URL=url,
    )
    assert asked.stdout == "auth\n", asked.stderr
    password = containers.secret("postgres-root")["password"]
    distance = "CREATE EXTENSION vector; SELECT '[3,4]'::vector <-> '[0,0]'"
    psql = ["psql", "--host=127.0.0.1", "--username=postgres", "--tuples-only", "--no-align", f"--command={distance}"]
    assert run("runc", "exec", "--env", f"PGPASSWORD={password}", containers.started[1], *psql).endswith("5\n")


def test_mongo_is_provisioned(containers: Containers) -> None:
    containers.start("StatefulSet", "mongo")
    containers.job("mongo-provision")
    url = containers.secret("media-mongo")["KINORA_MONGO_URL"].replace(HOST["mongo"], "127.0.0.1")
    insert = "pymongo.MongoClient(os.environ['URL']).media.things.insert_one({'_id': 7})"
    code = f"import os, pymongo; print({insert}.inserted_id)"
    asked = containers.inside(code, URL=url)
    assert asked.stdout == "7\n", asked.stderr
    assert "AuthenticationFailed" in containers.inside(code, URL=url.replace("media_1:", "media_1:x")).stderr


def test_redis_is_provisioned_and_accepts_its_users(containers: Containers) -> None:
    containers.start("StatefulSet", "redis")
    containers.job("redis-provision")
    url = containers.secret("auth-redis")["KINORA_REDIS_URL"].replace(HOST["redis"], "127.0.0.1")
    code = "import os, redis; print(redis.Redis.from_url(os.environ['URL']).set('auth:x', 1))"
    assert containers.inside(code, URL=url).stdout == "True\n"
    assert "invalid username-password" in containers.inside(code, URL=url.replace("auth_1:", "auth_1:x")).stderr


def test_rabbitmq_accepts_its_users_and_reloads_definitions(containers: Containers) -> None:
    containers.start("StatefulSet", "rabbitmq")
    url = containers.secret("video-rabbitmq")["KINORA_RABBITMQ_URL"].replace(HOST["rabbitmq"], "127.0.0.1")
    asked = containers.inside(
        "import asyncio, aio_pika, os\n"
        "async def ask():\n"
        "    async with await aio_pika.connect(os.environ['URL']) as connection:\n"
        "        channel = await connection.channel()\n"
        "        await channel.declare_queue('video.test', durable=True, arguments={'x-queue-type': 'quorum'})\n"
        "asyncio.run(ask())",
        URL=url,
    )
    assert asked.returncode == 0, asked.stderr
    sidecar = containers.folder / containers.started[-1] / "log"
    deadline = time.monotonic() + READY_SECONDS
    while "applied the definitions" not in sidecar.read_text():
        assert time.monotonic() < deadline, sidecar.read_text()
        time.sleep(0.2)


def test_object_store_is_provisioned(containers: Containers) -> None:
    containers.start("StatefulSet", "s3")
    containers.job("s3-provision")
    secret = containers.secret("tusd-s3")
    code = (
        "import io, os, minio\n"
        "store = minio.Minio('127.0.0.1:9000', os.environ['KEY'], os.environ['SECRET'], secure=False)\n"
        "store.put_object('uploads', 'x', io.BytesIO(b'bytes'), 5)\n"
        "print(store.get_object('uploads', 'x').read())"
    )
    key, password = (value for _, value in sorted(secret.items()) if not value.startswith("http"))
    asked = containers.inside(code, KEY=key, SECRET=password)
    assert asked.stdout == "b'bytes'\n", asked.stderr


@pytest.mark.parametrize("name", ["prometheus", "alertmanager"])
def test_monitoring_becomes_ready(containers: Containers, name: str) -> None:
    containers.start("StatefulSet", name)
    assert "Unknown option" not in (containers.folder / containers.started[0] / "log").read_text()


def test_argocd_redis_requires_its_password(containers: Containers) -> None:
    containers.start("Deployment", "argocd-redis")
    code = "import os, redis; print(redis.Redis(password=os.environ.get('PASSWORD')).ping())"
    assert containers.inside(code, PASSWORD=containers.secret("argocd-redis")["auth"]).stdout == "True\n"
    assert "AuthenticationError" in containers.inside(code).stderr


def test_argocd_image_has_all_program_names(containers: Containers) -> None:
    pod = containers.find("Deployment", "argocd-repo-server")["spec"]["template"]["spec"]
    volumes = containers.volumes(pod)
    (copy,) = pod["initContainers"]
    containers.to_its_end(pod, copy, volumes)
    assert (volumes["var-files"] / "argocd-cmp-server").is_symlink()
    ask = "set -e; argocd version --client --short; helm version --short; git --version; gpg --version | head -1"
    names = ("server", "repo-server", "application-controller", "applicationset-controller")
    ask += "".join(f"; /usr/local/bin/argocd-{name} --help | grep -o '^  argocd-{name} \\[flags'" for name in names)
    said = containers.to_its_end(pod, {**pod["containers"][0], "command": ["sh", "-c", ask], "args": []}, volumes)
    assert f"argocd: v{reference('argocd').rpartition(':')[2]}" in said
    assert [line.split()[0] for line in said.splitlines()[-4:]] == [f"argocd-{name}" for name in names]


def test_traefik_version_matches_the_native_one(containers: Containers) -> None:
    pod = containers.find("Deployment", "traefik")["spec"]["template"]["spec"]
    version = {**pod["containers"][0], "command": ["traefik", "version"]}
    native = run(MADE / "venv" / "bin" / "traefik", "version")
    assert containers.to_its_end(pod, version, containers.volumes(pod)) == native != ""


def test_tusd_version_matches_its_reference(containers: Containers) -> None:
    image = reference("tusd")
    pod = alone(image, "sha256sum", "/usr/local/bin/tusd")
    said = containers.to_its_end(pod, pod["containers"][0], containers.volumes(pod))
    assert said.split()[0] == hashlib.sha256((MADE / "bin" / "tusd").read_bytes()).hexdigest()
    # The binary contains its module version.
    version = image.rpartition(":")[2]
    assert f"github.com/tus/tusd/v2\t{version}" in run("go", "version", "-m", MADE / "bin" / "tusd")


def test_git_server_allows_anonymous_fetch_and_authenticated_push(containers: Containers, tmp_path: Path) -> None:
    writable = ("/repositories", "/tmp")  # noqa: S108
    pod = alone(reference("git"), writable=writable, PUSH_PASSWORD="push-secret")
    pod["containers"][0]["ports"] = [{"containerPort": 8080}]
    containers.objects = [{"kind": "Pod", "metadata": {"name": "git"}, "spec": {"template": {"spec": pod}}}]
    containers.start("Pod", "git")
    tree = tmp_path / "tree"
    run("git", "init", "--quiet", "--initial-branch=main", tree)
    (tree / "file").write_text("text")
    run("git", "add", "file", cwd=tree)
    run("git", "-c", "user.name=test", "-c", "user.email=test@test", "commit", "--quiet", "-m", "Add a file", cwd=tree)

    def git(*words: str | Path) -> "subprocess.CompletedProcess[str]":
        command = ["nsenter", f"--net={containers.network}", "git", "-C", tree, *words]
        quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        return subprocess.run(command, env=quiet, capture_output=True, text=True, check=False, timeout=60)

    for login, complaint in (("", "could not read Username"), ("push:wrong@", "Authentication failed")):
        assert complaint in git("push", f"http://{login}127.0.0.1:8080/kinora.git", "main").stderr
    pushed = git("push", "http://push:push-secret@127.0.0.1:8080/kinora.git", "main")
    assert pushed.returncode == 0, pushed.stderr
    cloned = git("clone", "--quiet", "http://127.0.0.1:8080/kinora.git", tmp_path / "clone")
    assert (tmp_path / "clone" / "file").read_text() == "text", cloned.stderr


def test_git_server_does_not_start_without_password(containers: Containers) -> None:
    pod = alone(reference("git"), writable=("/repositories", "/tmp"))  # noqa: S108
    with pytest.raises(AssertionError, match="PUSH_PASSWORD: is the password of who may push"):
        containers.to_its_end(pod, pod["containers"][0], containers.volumes(pod))


def test_pause_exits_on_sigterm(containers: Containers) -> None:
    pod = alone(reference("pause"))
    name, folder = containers.bundle(pod, pod["containers"][0], {})
    containers.started.append(name)
    with subprocess.Popen(["runc", "run", "--bundle", folder, name]) as waiting:
        deadline = time.monotonic() + READY_SECONDS
        while subprocess.run(["runc", "kill", name, "TERM"], capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < deadline
            assert waiting.poll() is None
            time.sleep(0.05)
        assert waiting.wait(timeout=20) in (0, 143)
