"""docker-compose.yml, as parsed by Docker Compose (local/go/compose-config), matches the code and other files."""

import importlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml
from parts import PARTS

from kinora_kit.settings import Settings, unknown_keys

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "pulumi"))
from kinora_environment import needs  # noqa: E402 - needs the path above
from kinora_environment.images import IMAGES  # noqa: E402

TEXT = (ROOT / "docker-compose.yml").read_text()
OURS = "ghcr.io/kinora-platform/kinora-"
SECRETS = sorted(set(re.findall(r"\$\{(\w+):\?", TEXT)))
ROOTS = {"minio", "configure"}
"""Run as root, which owns new volumes, but without capabilities."""

Services = dict[str, dict[str, Any]]
Read = Callable[[Path], subprocess.CompletedProcess[str]]


def is_job(service: dict[str, Any]) -> bool:
    return bool(service["restart"] != "unless-stopped")


def is_ours(service: dict[str, Any]) -> bool:
    """Whether its image is built from the Dockerfile."""
    image: str = service["image"]
    return image.startswith(OURS) and image != IMAGES["minio"]


def pinned(tool: str, module: str) -> str:
    """The version of a Go module in the go.mod of a tool."""
    found = re.search(rf"{module} (v\S+)", (ROOT / "local" / "go" / tool / "go.mod").read_text())
    assert found
    return found[1]


def ours(services: Services) -> Services:
    """The processes of the services and workers, without the jobs in their images."""
    return {name: each for name, each in services.items() if is_ours(each) and not is_job(each)}


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SECRETS)
def test_compose_rejects_a_missing_secret(name: str, folder: Path, tmp_path: Path, compose_config: Read) -> None:
    shutil.copy(folder / "docker-compose.yml", tmp_path)
    given = (folder / ".env").read_text()
    (tmp_path / ".env").write_text(re.sub(rf"^{name}=.*\n", "", given, flags=re.MULTILINE))
    done = compose_config(tmp_path)
    assert done.returncode != 0
    assert f"required variable {name} is missing a value: run local/dotenv" in done.stderr


def test_dotenv_generates_random_secrets_and_keeps_existing_ones(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "docker-compose.yml", tmp_path)
    (tmp_path / ".env").write_text("VIDEO_SIGNING_SECRET=mine\nOTHER=thing\n")
    for _ in range(2):
        subprocess.run([ROOT / "local" / "dotenv"], cwd=tmp_path, check=True)
    lines = (tmp_path / ".env").read_text().splitlines()
    assert sorted(line.partition("=")[0] for line in lines) == sorted([*SECRETS, "OTHER"])
    assert lines[:2] == ["VIDEO_SIGNING_SECRET=mine", "OTHER=thing"]
    made = {line.partition("=")[2] for line in lines[2:]}
    assert len(made) == len(lines) - 2
    assert all(len(secret) == 64 for secret in made)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


def test_secrets_come_from_env_variables(services: Services, secrets: dict[str, str]) -> None:
    for name, service in services.items():
        for key, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|SECRET|_URL$", key) and (re.search("PASSWORD|SECRET", key) or "@" in value):
                assert any(secret in value for secret in secrets.values()), f"{name}: {key}"


def test_command_lines_contain_no_secrets(services: Services, secrets: dict[str, str]) -> None:
    for name, service in services.items():
        for argument in strings([service.get("entrypoint"), service.get("command"), service.get("healthcheck")]):
            assert not any(secret in argument for secret in secrets.values()), name
            assert not re.search(r"\$\{?\w*PASSWORD", argument), name  # expanded by a shell


def test_services_have_the_passwords_of_their_stores(services: Services) -> None:
    def environment(name: str) -> dict[str, str]:
        return dict(services[name]["environment"])

    given = {
        **{("postgres", key): value for key, value in environment("postgres-provision").items()},
        **{("mongo", key): value for key, value in environment("mongo-provision").items()},
        **{("minio", key): value for key, value in environment("minio-provision").items()},
    }
    for key, value in environment("configure").items():
        identity, store, _ = key.split("_")
        given[store.lower(), f"PASSWORD_{identity}_1"] = value
    signed_in = set()
    for name in (*ours(services), "auth-migrate", "video-migrate"):
        variables = environment(name)
        for value in variables.values():
            url = urlsplit(value)
            if url.username:
                assert url.password == given[str(url.hostname), f"PASSWORD_{url.username.upper()}"], name
                signed_in.add((url.hostname, url.username))
    for name, key, secret in (
        ("video", "KINORA_S3_ACCESS_KEY", "KINORA_S3_SECRET_KEY"),
        ("video-worker", "KINORA_S3_ACCESS_KEY", "KINORA_S3_SECRET_KEY"),
        ("tusd", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ):
        login = environment(name)[key]
        assert environment(name)[secret] == given["minio", f"PASSWORD_{login.upper()}"]
        signed_in.add(("minio", login))
    hosts = {"s3": "minio"}
    needed = {(hosts.get(s, s), f"{identity}_1") for identity, need in needs.read().items() for s in need.stores()}
    assert signed_in == needed


# --- what runs --------------------------------------------------------------------------------------------------------


def test_all_parts_and_grafana_run(services: Services) -> None:
    running = {name for name, service in services.items() if not is_job(service)}
    assert running == {*PARTS, "grafana"}


def classes() -> dict[str, type[Settings]]:
    """The settings classes of all apps, by process."""
    for file in (ROOT / "apps").glob("*/src/*/settings.py"):
        importlib.import_module(f"{file.parent.name}.settings")

    def below(one: type[Settings]) -> Iterator[type[Settings]]:
        for each in one.__subclasses__():
            yield each
            yield from below(each)

    return {
        each.service: each
        for each in below(Settings)
        if each.__module__.endswith(".settings") and "service" in vars(each)
    }


@pytest.mark.parametrize("process", sorted(classes()))
def test_environment_of_a_service_is_valid(process: str, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = services[process]["environment"]
    settings = classes()[process]
    assert unknown_keys(settings, environment) == []
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    loaded = settings()
    assert loaded.http_host == "0.0.0.0"  # noqa: S104 - in its container
    assert {loaded.http_port, getattr(loaded, "grpc_port", loaded.http_port)} == set(PARTS[process].ports)
    if hasattr(loaded, "grpc_host"):
        assert loaded.grpc_host == "0.0.0.0"  # noqa: S104


def test_addresses_have_the_ports_of_their_parts(services: Services) -> None:
    ports = {**{name: part.ports for name, part in PARTS.items()}, "grafana": (3000,)}
    addressed = set()
    for name, service in services.items():
        for text in strings([service.get(key) for key in ("environment", "command", "entrypoint", "healthcheck")]):
            for host, port in re.findall(r"(?:^|//)(?:[^/@]+@)?([a-z][a-z-]*|127\.0\.0\.1):(\d+)(?=[/?]|$)", text):
                if host != "localhost":  # the gateway's URL for clients
                    part = name if host == "127.0.0.1" else host
                    assert int(port) in ports[part], f"{name}: {text}"
                    addressed.add(part)
    assert {"auth", "media", "video", "tusd", "postgres", "redis", "rabbitmq", "mongo", "minio"} <= addressed


def test_tusd_has_the_same_options_as_natively(services: Services) -> None:
    script = (ROOT / "local" / "tusd").read_text()
    hooks = re.search(r"^hooks=(.*)$", script, flags=re.MULTILINE)
    assert hooks
    line = script[script.index("exec tusd") :].replace("\\\n", " ").removesuffix(' "$@"\n')
    command = line.replace('"$hooks"', hooks[1]).split()[2:]
    native = {flag.replace("127.0.0.1:8900", "minio:8900").replace("127.0.0.1:8103", "video:8103") for flag in command}
    assert set(services["tusd"]["command"]) ^ native == {"-host=0.0.0.0", "-host=127.0.0.1"}


# --- how it runs ------------------------------------------------------------------------------------------------------


def test_only_the_gateway_and_grafana_are_published_on_loopback(services: Services) -> None:
    published = {
        name: [(port["host_ip"], port["published"]) for port in service["ports"]]
        for name, service in services.items()
        if service.get("ports")
    }
    assert published == {"traefik": [("127.0.0.1", "8080")], "grafana": [("127.0.0.1", "3000")]}
    assert services["grafana"]["profiles"] == ["observability"]


def test_only_published_services_have_egress(folder: Path, services: Services, compose_config: Read) -> None:
    networks = json.loads(compose_config(folder).stdout)["networks"]
    assert networks["platform"]["internal"] is True
    assert {name for name, each in services.items() if set(each["networks"]) != {"platform"}} == {"traefik", "grafana"}


def test_containers_have_limits_and_no_capabilities(services: Services) -> None:
    for name, service in services.items():
        assert int(service["mem_limit"]) > 0, name
        assert service["pids_limit"] > 0, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.keys() & {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc"}, name
    roots = {name for name, service in services.items() if str(service.get("user", "")).startswith("0")}
    assert roots == ROOTS


def test_services_have_health_checks_and_jobs_disable_them(services: Services) -> None:
    for name, service in services.items():
        if not is_job(service) and not is_ours(service):  # our images have a HEALTHCHECK
            assert service["healthcheck"]["test"], name
            # On a slow machine a store takes longer to start than the default of three checks.
            assert service["healthcheck"]["start_period"] == "2m0s", name
        if is_job(service) and is_ours(service):
            assert service["healthcheck"]["disable"], name


def test_depends_on_waits_for_health_or_completion(services: Services) -> None:
    awaited = set()
    for name, service in services.items():
        for other, how in (service.get("depends_on") or {}).items():
            wanted = "service_completed_successfully" if is_job(services[other]) else "service_healthy"
            assert how["condition"] == wanted, f"{name}: {other}"
            awaited.add(other)
    # `up --wait` fails if a job exits that no other service depends on.
    jobs = {name for name, service in services.items() if is_job(service) and "profiles" not in service}
    assert jobs <= awaited


# --- images -----------------------------------------------------------------------------------------------------------


def test_images_match_the_environments(services: Services) -> None:
    theirs = {service["image"] for service in services.values() if not is_ours(service)}
    tusd = f"docker.io/tusproject/tusd:{pinned('tusd', 'github.com/tus/tusd/v2')}"
    assert theirs - {tusd} <= set(IMAGES.values())
    assert {IMAGES["postgres"], IMAGES["mongo"], IMAGES["minio"], IMAGES["traefik"], tusd} <= theirs
    assert all(re.search(r":[^:/]*\d[^:/]*$", image) for image in theirs)


def test_minio_image_is_built_from_its_go_module_and_has_its_version(services: Services) -> None:
    assert IMAGES["minio"] == f"{OURS}minio:{pinned('minio', 'github.com/minio/minio').removeprefix('v')}"
    for name in ("minio", "minio-provision", "mc"):
        assert services[name]["image"] == IMAGES["minio"]
        assert services[name]["build"]["context"].endswith("/local/go/minio")


def test_our_images_are_built_from_the_dockerfile_and_have_the_apps_versions(services: Services) -> None:
    for name, service in services.items():
        if not is_ours(service):
            continue
        image, version = service["image"].removeprefix(OURS).split(":")
        app, _, worker = image.partition("-")
        args, target, folder = {"APP": app}, worker or None, ROOT / "apps" / app
        if name == "demo":
            args, target, folder = {"APP": "video", "DEMO": "yes"}, "demo", ROOT
        project = tomllib.loads((folder / "pyproject.toml").read_text())
        assert version == project["project"]["version"], name
        assert service["build"]["args"] == args, name
        assert service["build"].get("target") == target, name


def test_health_checks_use_programs_of_their_images(services: Services) -> None:
    """Programs of the service itself, or bash in images whose entry point or hooks need it."""
    programs = {
        name: service["healthcheck"]["test"][1].split()[0]
        for name, service in services.items()
        if service.get("healthcheck", {}).get("test")
    }
    assert programs == {
        "postgres": "pg_isready",
        "redis": "redis-cli",
        "minio": "mc",
        "traefik": "traefik",
        "prometheus": "promtool",
        **dict.fromkeys(("mongo", "rabbitmq", "tusd", "grafana"), "bash"),
    }


# --- what configure.py writes -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def configuration(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written with exactly the variables of its container."""
    made = tmp_path_factory.mktemp("configuration")
    command = [sys.executable, str(ROOT / "local" / "compose" / "configure.py"), str(made)]
    subprocess.run(command, env=services["configure"]["environment"], check=True)
    return made


def test_configuration_contains_no_secrets(configuration: Path, secrets: dict[str, str]) -> None:
    for file in configuration.rglob("*"):
        if file.is_file():
            assert not any(secret in file.read_text() for secret in secrets.values()), file


def test_configuration_uses_container_names_instead_of_loopback(configuration: Path) -> None:
    for file in configuration.rglob("*"):
        if file.is_file():
            assert "127.0.0.1" not in file.read_text(), file
    services = yaml.safe_load((configuration / "traefik/dynamic/services.yml").read_text())["http"]["services"]
    for service in services.values():
        for server in service["loadBalancer"]["servers"]:
            url = urlsplit(server["url"])
            assert url.port in PARTS[str(url.hostname)].ports
    static = yaml.safe_load((configuration / "traefik/traefik.yml").read_text())
    assert static["entryPoints"]["admin"]["address"] == ":8081"
    assert static["entryPoints"]["checks"]["address"] == ":8082"
    native = (ROOT / "traefik/dynamic/routes.yml").read_text()
    assert (configuration / "traefik/dynamic/routes.yml").read_text() == native


@pytest.mark.parametrize(
    ("job", "script"),
    [
        ("postgres-provision", "postgres/provision.sql"),
        ("mongo-provision", "mongo/provision.js"),
        ("minio-provision", "minio/provision.sh"),
    ],
)
def test_provisioning_jobs_have_all_passwords(job: str, script: str, configuration: Path, services: Services) -> None:
    asked = set(re.findall(r"PASSWORD_[A-Z]+_\d", (configuration / script).read_text()))
    assert asked
    assert asked == {name for name in services[job]["environment"] if name.startswith("PASSWORD_")}


def test_prometheus_configuration_is_valid(configuration: Path) -> None:
    command = ["promtool", "check", "config", str(configuration / "prometheus" / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (configuration / "prometheus" / "prometheus.yml").read_text()
    for job in yaml.safe_load(text)["scrape_configs"]:
        host, port = job["static_configs"][0]["targets"][0].lstrip(":").rpartition(":")[::2]
        assert int(port) in PARTS[host].ports


def test_redis_users_can_access_only_their_own_keys(
    configuration: Path, secrets: dict[str, str], tmp_path: Path
) -> None:
    socket = tmp_path / "redis.sock"
    command = ["redis-server", "--port", "0", "--save", "", "--daemonize", "no", "--unixsocket", str(socket)]
    with subprocess.Popen([*command, "--dir", tmp_path, "--aclfile", configuration / "redis" / "users.acl"]) as server:
        try:
            password = secrets["MEDIA_REDIS_PASSWORD"]
            client = redis.Redis(
                unix_socket_path=str(socket),
                username="media_1",
                password=password,
                retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.1), 50),
                retry_on_error=[redis.ConnectionError],
            )
            client.set("media:x", 1)
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.get("video:x")
            assert client.get("auth:revoked:x") is None
            stranger = redis.Redis(unix_socket_path=str(socket))
            with pytest.raises(redis.exceptions.AuthenticationError):
                stranger.get("media:x")
        finally:
            server.terminate()
