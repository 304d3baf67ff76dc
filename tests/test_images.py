"""The services' images, built by `make images`, and run with a read-only root.

If this machine cannot build images, every test here is skipped, with the reason from local/doctor.py.
"""

import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from kinora_kit.testing import free_port

ROOT = Path(__file__).resolve().parents[1]
CONTAINERS = ROOT / ".kinora" / "containers"
BUILDAH = [
    "buildah",
    "--root",
    f"{CONTAINERS}/storage",
    "--runroot",
    f"{CONTAINERS}/run",
    "--storage-driver",
    "overlay",
]
SERVICES = sorted(file.parts[-4] for file in ROOT.glob("apps/*/src/*/main.py"))
WORKERS = sorted(f"{file.parts[-4]}-worker" for file in ROOT.glob("apps/*/src/*/worker.py"))

sys.path.insert(0, str(ROOT / "local" / "images"))
import requirements  # noqa: E402 - found only now

# The first time, everything is built.
pytestmark = pytest.mark.timeout(900)

# Runs a process in an image like in a container: as the image's user, without privilege escalation, with a read-only
# root except /tmp. Only the network is the host's.
ENTER = """\
set -eu
root=$1 user=$2
shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
exec setpriv --no-new-privs chroot --userspec="$user" "$root" env -i "$@"
"""


def buildah(*command: str) -> str:
    return subprocess.run([*BUILDAH, *command], capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Image:
    name: str
    reference: str
    root: Path
    """The mounted file system."""
    config: dict[str, Any]

    @property
    def app(self) -> str:
        return self.name.removesuffix("-worker")

    def command(self, *command: str, environment: dict[str, str] | None = None) -> list[str]:
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in (environment or {}).items())]
        enter = ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(self.root), self.config["User"]]
        return [*enter, *variables, *(command or self.config["Cmd"])]

    def run(self, *command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command; default: the image's own."""
        whole = self.command(*command, environment=environment)
        return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="session")
def said() -> str:
    """The output of `make images`, which builds missing or outdated images."""
    able = subprocess.run(
        [sys.executable, ROOT / "local" / "doctor.py", "images"], capture_output=True, text=True, check=False
    )
    if able.returncode != 0:
        pytest.skip(able.stdout.strip())
    made = subprocess.run(["make", "images"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


@pytest.fixture(scope="session")
def built(said: str) -> dict[str, str]:
    """The reference of each image, by its name."""
    lines = re.findall(r"^(ghcr.io/\S*/kinora-(\S+):[\d.]+): .* built in .*$", said, flags=re.MULTILINE)
    return {name: reference for reference, name in lines}


@pytest.fixture(scope="session")
def images(built: dict[str, str]) -> Iterator[Callable[[str], Image]]:
    opened: dict[str, Image] = {}
    containers: list[str] = []

    def get(name: str) -> Image:
        if name not in opened:
            reference = built[name]
            containers.append(buildah("from", "--pull=never", reference))
            config = json.loads(buildah("inspect", "--type", "image", reference))["Docker"]["config"]
            opened[name] = Image(name, reference, Path(buildah("mount", containers[-1])), config)
        return opened[name]

    yield get
    for container in containers:
        buildah("umount", container)
        buildah("rm", container)


@pytest.fixture(params=[*SERVICES, *WORKERS])
def image(request: pytest.FixtureRequest, images: Callable[[str], Image]) -> Image:
    return images(request.param)


def test_every_service_and_every_worker_has_an_image(
    said: str, built: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(built) == sorted([*SERVICES, *WORKERS])
    with capsys.disabled():
        print("\n" + said)  # sizes and build times


def test_only_tmp_is_writable(image: Image) -> None:
    # /var/tmp would be writable if the root were not read-only.
    script = "for place in /app /venv /var/tmp /tmp; do touch $place/x || echo $place; done; id -u"
    assert image.run("sh", "-c", script).stdout.split() == ["/app", "/venv", "/var/tmp", "10001"]  # noqa: S108


def test_image_has_labels_and_no_files_of_its_user(image: Image) -> None:
    labels = image.config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"kinora-{image.app}"
    assert image.reference.endswith(f":{labels['org.opencontainers.image.version']}")
    assert image.config["User"] == "10001:10001"
    found = subprocess.run(["find", image.root, "-xdev", "-uid", "10001"], capture_output=True, text=True, check=True)
    assert found.stdout == ""


def test_missing_settings_exit_with_a_message(image: Image) -> None:
    done = image.run()
    assert done.returncode == 1, done.stderr
    assert f"KINORA_HTTP_PORT is not set, and {image.name} cannot start without it" in done.stderr.splitlines()


def test_service_starts_without_stores_and_stops_on_sigterm(image: Image, services: dict[str, dict[str, Any]]) -> None:
    http_port, grpc_port = free_port(), free_port()
    environment = {**services[image.name]["environment"], "KINORA_HTTP_PORT": str(http_port)}
    environment |= {name: str(grpc_port) for name in environment if name == "KINORA_GRPC_PORT"}
    environment |= {name: "127.0.0.1" for name in environment if name == "KINORA_HTTP_HOST"}
    with subprocess.Popen(image.command(environment=environment), stdout=subprocess.PIPE, text=True) as process:
        try:
            answered = {path: get(http_port, path, process) for path in ("/healthz", "/readyz", "/metrics")}
            ready = not has_schema(image.app)
            assert answered == {"/healthz": 200, "/readyz": 200 if ready else 503, "/metrics": 200}
            check = image.run(*health_check(image), environment={"KINORA_HTTP_PORT": str(http_port)})
            assert check.returncode == (0 if ready else 1), check.stderr
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) in {0, -signal.SIGTERM}


def has_schema(app: str) -> bool:
    """Whether an app has its own database, whose schema it must see once before it is ready."""
    needs = yaml.safe_load((ROOT / "apps" / app / "deploy" / "needs.yaml").read_text())
    return any({"postgres", "mongo"} & need.keys() for need in needs.values())


def get(port: int, path: str, process: subprocess.Popen[str]) -> int:
    """The status of the response, once it listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except ConnectionRefusedError:
            time.sleep(0.1)  # there is no notification for that
        finally:
            connection.close()
    raise AssertionError(f"it does not listen, and exited with {process.poll()}")


def health_check(image: Image) -> list[str]:
    kind, *command = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    return list(command)


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_check_uses_readyz(image: Image, status: int, code: int) -> None:
    asked = []

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # A proxy could not reach the container.
        environment = {"KINORA_HTTP_PORT": str(server.server_port), "http_proxy": "http://127.0.0.1:9"}
        assert image.run(*health_check(image), environment=environment).returncode == code
        server.shutdown()
    assert asked == ["/readyz"]


def test_image_contains_only_required_distributions(image: Image) -> None:
    lock = (ROOT / "requirements.txt").read_text()
    needed = {text.partition("==")[0] for text in requirements.needed(lock, {"kinora-kit", f"kinora-{image.app}"})}
    listing = "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()))"
    installed = {re.sub(r"[-_.]+", "-", name).lower() for name in image.run("python", "-c", listing).stdout.split()}
    assert {"fastapi", "asyncpg", "grpcio"} <= installed <= needed
    assert not needed & {"pytest", "ruff", "mypy", "uv", "hatchling", "supervisor"}
    assert {each.name for each in (image.root / "app").iterdir()} == {
        "kinora",
        "kinora_kit",
        f"kinora_{image.app}",
        "packages",
    }


def test_image_contains_no_build_artifacts(image: Image) -> None:
    for pattern in (
        "usr/bin/*gcc*",
        "usr/bin/cc",
        "usr/bin/pip*",
        "venv/bin/pip*",
        "usr/bin/curl",
        "needs",
        "root/.cache",
    ):
        assert list(image.root.glob(pattern)) == [], pattern
    for pattern in ("var/lib/apt/lists/*", "var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "run/secrets/*"):
        assert list(image.root.glob(pattern)) == [], pattern
    for file in ("etc/pip.conf", ".env", "app/.env", "etc/ssl/private"):
        assert not (image.root / file).exists(), file
    assert not re.search("password|secret|token", " ".join(image.config["Env"]), flags=re.IGNORECASE)


def test_image_contains_compiled_code(image: Image) -> None:
    """Nothing can be compiled later, because its root is read-only."""
    for folder in ("app", "own", "venv"):
        sources = [file for file in (image.root / folder).rglob("*.py") if "lib2to3" not in file.parts]
        compiled = {file.name.split(".")[0] for file in (image.root / folder).rglob("*.pyc")}
        assert {file.stem.split(".")[0] for file in sources} <= compiled


def test_images_share_the_layers_of_the_kit(built: dict[str, str]) -> None:
    """Those of Debian, Python and the kit's packages, so that a node stores and unpacks them once."""
    assert len({tuple(layers(reference)[:3]) for reference in built.values()}) == 1


@pytest.mark.parametrize("name", WORKERS)
def test_worker_image_has_ffmpeg_7(name: str, images: Callable[[str], Image]) -> None:
    image = images(name)
    assert image.run("ffmpeg", "-version").stdout.startswith("ffmpeg version 7.")
    encode = "ffmpeg -v error -f lavfi -i testsrc2=duration=1:size=320x180 -c:v libx264 -c:a aac -f mp4 /tmp/x.mp4"
    done = image.run(*encode.split())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", WORKERS)
def test_worker_image_can_contain_ffmpeg(name: str, images: Callable[[str], Image]) -> None:
    """The containment code, tested more thoroughly natively, works with the image's libraries and Python."""
    tests = ROOT / "apps" / "video" / "tests"
    worker, attack = ((tests / file).read_text() for file in ("attacked.py", "attack.py"))
    given = {"secrets": ["/etc/hosts"], "outside": "/tmp", "local": "/tmp/socket", "addresses": {}}  # noqa: S108

    done = images(name).run("python", "-c", worker, attack, json.dumps({**given, "source": None}))

    assert done.returncode == 0, done.stderr
    end = json.loads(done.stdout)
    assert (end["code"], end["survived"]) == (0, True), end["stderr"]
    assert set(json.loads(end["stdout"]).values()) == {"refused"}


@pytest.mark.parametrize("name", SERVICES)
def test_service_image_has_no_ffmpeg(name: str, images: Callable[[str], Image]) -> None:
    assert not (images(name).root / "usr" / "bin" / "ffmpeg").exists()


def test_configure_runs_in_its_compose_image(
    images: Callable[[str], Image], services: dict[str, dict[str, Any]], built: dict[str, str]
) -> None:
    service = services["configure"]
    assert service["image"] == built["auth"]
    _, script, _ = service["command"]
    given = [volume["target"] for volume in service["volumes"] if volume["type"] == "bind"]
    with subprocess.Popen(
        ["tar", "--create", *(folder.removeprefix("/kinora/") for folder in given)], cwd=ROOT, stdout=subprocess.PIPE
    ) as repository:
        configure = f"mkdir /tmp/kinora && tar x -C /tmp/kinora && python /tmp{script} /tmp/made && ls /tmp/made"
        command = images("auth").command("sh", "-c", configure, environment=service["environment"])
        done = subprocess.run(command, stdin=repository.stdout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"postgres", "redis", "traefik"} <= set(done.stdout.split())


@pytest.fixture
def build(built: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Builds an app's image, as version 0.0.0, from a separate checkout in the temporary folder."""
    references = []
    for path in ("Dockerfile", ".dockerignore", "requirements.txt"):
        shutil.copy2(ROOT / path, tmp_path)
    for path in ("local", "platform", "apps"):
        shutil.copytree(ROOT / path, tmp_path / path, ignore=shutil.ignore_patterns("__pycache__"))

    def make(app: str) -> str:
        command = ["make", "--silent", "--file=local/images.mk", f"APP={app}", "VERSION=0.0.0"]
        references.append(f"ghcr.io/kinora-platform/kinora-{app}:0.0.0")
        (CONTAINERS / "built" / f"{app}-0.0.0").unlink(missing_ok=True)
        # The build cache is shared with this checkout's, which is what is tested.
        done = subprocess.run(
            [*command, f"CONTAINERS={CONTAINERS}"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return references[-1]

    yield make
    for reference in references:
        (CONTAINERS / "built" / f"{reference.rpartition('-')[2].replace(':', '-')}").unlink(missing_ok=True)
        subprocess.run([*BUILDAH, "rmi", reference], capture_output=True, check=False)


def test_code_change_rebuilds_only_the_last_layer(
    build: Callable[[str], str], built: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "apps" / "media" / "src" / "kinora_media" / "changed.py").write_text("CHANGED = True\n")
    before, after = layers(built["media"]), layers(build("media"))
    assert len(before) == len(after)
    assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [len(before) - 1]
    assert "Collecting" not in (tmp_path / ".kinora" / "logs" / "install-media.log").read_text(), "pip ran"


def test_image_installs_the_apps_debian_packages(build: Callable[[str], str], tmp_path: Path) -> None:
    app = tmp_path / "apps" / "heavy"
    code = app / "src" / "kinora_heavy"
    code.mkdir(parents=True)
    (code / "__init__.py").touch()
    (code / "main.py").write_text("import fastapi, six\nprint(fastapi.__file__, six.__file__)\n")
    (app / "packages").write_text("python3-six\n")
    container = buildah("from", "--pull=never", build("heavy"))
    try:
        said = buildah("run", "--isolation", "chroot", container, "python", "-m", "kinora_heavy.main").split()
    finally:
        buildah("rm", container)
    assert said[0].startswith("/venv/"), "locked packages come from there"
    assert said[1].startswith("/usr/lib/python3/dist-packages/")


def test_lock_without_via_comment_is_rejected() -> None:
    lock = "a==1 \\\n    --hash=sha256:00\n    # via\n    #   kinora-auth (apps/auth/pyproject.toml)\n    #   c\n"
    lock += "b==1 \\\n    --hash=sha256:00\n    # via a\nc==1 \\\n    --hash=sha256:00\n    # via pytest\n"
    assert [text[0] for text in requirements.needed(lock, {"kinora-auth"})] == ["a", "b"]
    with pytest.raises(SystemExit, match="does not say what requires d"):
        requirements.needed(lock + "d==1 \\\n    --hash=sha256:00\n", {"kinora-auth"})


def test_own_requirements_are_those_that_the_kit_does_not_need() -> None:
    lock = "a==1\n    # via\n    #   kinora-auth\n    #   kinora-kit\nb==1\n    # via kinora-auth\n"
    assert requirements.own(lock, {"kinora-auth"}, {"kinora-kit"}) == ["b==1\n    # via kinora-auth\n"]


def layers(reference: str) -> list[str]:
    described = json.loads(buildah("inspect", "--type", "image", reference))
    found: list[str] = described["Docker"]["rootfs"]["diff_ids"]
    return found
