"""The committed values of each environment, compared with the code: settings, addresses, routes, flags, redundancy."""

from __future__ import annotations

import importlib
import os
import re
import shlex
from string import Template
from typing import Any

import pytest
import yaml
from environment import FILES, parse

import charts
from kinora_kit.server import ForwardedFor
from kinora_kit.settings import PREFIX, Settings, load
from kinora_video import wiring
from kinora_video.settings import VideoSettings

ROOT = charts.ROOT
RELEASES = [(app, environment) for app in charts.apps() for environment in charts.environments(app)]
SECRET = "x" * 40
NAMES = re.compile(r"(?:^|//)([a-z][a-z0-9-]*):(\d+)")


def base(app: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "apps" / app / "deploy" / "values.yaml").read_text())
    return loaded


WORKLOADS: dict[str, dict[str, Any]] = {
    name: workload for app in charts.apps() for name, workload in base(app)["workloads"].items()
}
NEEDS: dict[str, dict[str, Any]] = {
    identity: needs
    for app in charts.apps()
    for identity, needs in yaml.safe_load((ROOT / "apps" / app / "deploy" / "needs.yaml").read_text()).items()
}


def settings_of(app: str, service: str) -> type[Settings]:
    module = importlib.import_module(f"kinora_{app}.settings")
    (found,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Settings) and getattr(each, "service", None) == service
    )
    return found


def loaded(monkeypatch: pytest.MonkeyPatch, settings: type[Settings], variables: dict[str, str]) -> Any:
    """The settings of a process with these variables; fails if they are invalid."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load(settings)


# --- settings ---------------------------------------------------------------------------


def deployments(app: str, environment: str) -> dict[str, Any]:
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in charts.service(app, environment)
        if each["kind"] == "Deployment"
    }


def given(pod: Any) -> dict[str, str]:
    """The variables of a pod, with plausible values for those from Secrets."""
    (container,) = pod["containers"]
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        identity, _, secret = source["secretRef"]["name"].rpartition("-")
        needed = NEEDS[identity]
        assert secret in needed, f"needs.yaml of {identity} does not name {secret}"
        keys = [f"KINORA_{key.upper()}" for key in needed["keys"]] if secret == "keys" else charts.VARIABLES[secret]
        found |= {key: f"http://{SECRET}" if key.endswith("_URL") else SECRET for key in keys}
    return {**found, **{each["name"]: each["value"] for each in container["env"]}}


OURS = [
    (app, environment, name)
    for app, environment in RELEASES
    for name, workload in base(app)["workloads"].items()
    if "image" not in workload
]


@pytest.mark.parametrize(("app", "environment", "name"), OURS)
def test_settings_accept_the_variables_of_the_pod(
    monkeypatch: pytest.MonkeyPatch, app: str, environment: str, name: str
) -> None:
    pod = deployments(app, environment)[name]
    settings = loaded(monkeypatch, settings_of(app, name), given(pod))
    (container,) = pod["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    # A pod must listen on its own address to be reachable.
    assert settings.http_host == "0.0.0.0"  # noqa: S104
    assert settings.http_port == ports["http"]
    if "grpc" in ports:
        assert settings.grpc_port == ports["grpc"]
        assert getattr(settings, "grpc_host", settings.http_host) == "0.0.0.0"  # noqa: S104
    assert hasattr(settings, "grpc_port") == ("grpc" in ports)
    if hasattr(settings, "public_url"):
        assert settings.public_url == charts.facts(environment)["publicUrl"]
    delay = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    # 10 s for gRPC: kinora_kit/rpc.py.
    assert delay + settings.drain_timeout_seconds + 10 < pod["terminationGracePeriodSeconds"]
    if getattr(settings, "work_dir", None):
        assert str(settings.work_dir) in {each["mountPath"] for each in container["volumeMounts"]}
    assert importlib.util.find_spec(container["command"][-1])


class Behind(Settings):
    service = "behind"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.42.0.7", "203.0.113.7", "203.0.113.7"),
        # In the mesh, the pod's own proxy connects.
        ("127.0.0.6", "203.0.113.7, 10.42.0.7", "203.0.113.7"),
        # If clients have private addresses, as in the sandbox.
        ("10.42.0.7", "10.0.0.1", "10.0.0.1"),
        # Values from the client precede those added by the gateway or a load balancer.
        ("10.42.0.7", "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        # Behind a load balancer, which the gateway appends.
        ("10.42.0.7", "203.0.113.7, 10.9.0.5", "203.0.113.7"),
        ("10.42.0.7", "10.0.0.1, 10.9.0.5", "10.0.0.1"),
        ("10.42.0.7", "198.51.100.1, 10.0.0.1, 10.9.0.5", "10.0.0.1"),
        ("10.42.0.7", "10.0.0.2, 10.0.0.1, 10.9.0.5", "10.0.0.1"),
        ("127.0.0.6", "198.51.100.1, 10.0.0.1, 10.9.0.5, 10.42.0.7", "10.0.0.1"),
        ("10.42.0.7", "10.9.0.6", "10.9.0.6"),
    ],
)
async def test_forwarded_for_is_trusted_only_from_the_gateway(peer: str, forwarded: str, client: str) -> None:
    pod = deployments("auth", "prod")["auth"]
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])

    settings = Behind(http_port=1, trusted_proxies=given(pod)["KINORA_TRUSTED_PROXIES"], load_balancers="10.9.0.0/24")
    scope = {"type": "http", "client": (peer, 1), "headers": [(b"x-forwarded-for", forwarded.encode())]}
    await ForwardedFor(app, settings)(scope, None, None)  # type: ignore[arg-type]
    assert seen == [client]


PROCESSES = re.findall(
    r"^([a-z-]+): local/with-env (\S+) -- python -m (kinora_([a-z]+)\.(?:main|worker))$",
    (ROOT / "Procfile").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize(("process", "file", "module", "app"), PROCESSES)
def test_settings_accept_the_variables_of_the_process(
    monkeypatch: pytest.MonkeyPatch, process: str, file: str, module: str, app: str
) -> None:
    variables = parse((FILES / f"{file}.env").read_text())
    filled = {
        name: Template(value).safe_substitute(dict.fromkeys(Template(value).get_identifiers(), SECRET))
        for name, value in variables.items()
    }
    settings = loaded(monkeypatch, settings_of(app, process), filled)
    assert settings.http_port == WORKLOADS[process]["ports"]["http"]
    assert module == WORKLOADS[process]["command"][-1]


def test_every_service_of_ours_is_a_process_and_a_workload() -> None:
    assert {process for process, *_ in PROCESSES} == {name for _, _, name in OURS}


# --- addresses --------------------------------------------------------------------------------------------


def test_workloads_may_call_the_services_in_their_variables() -> None:
    called = {
        (caller, name, int(port))
        for caller, workload in WORKLOADS.items()
        for text in [*workload.get("env", {}).values(), *(each.partition("=")[2] for each in workload["command"])]
        for name, port in NAMES.findall(text)
    }
    assert ("graphql", "auth", 8201) in called
    assert ("tusd", "video", 8103) in called
    for caller, name, port in called:
        ports = {number: protocol for protocol, number in WORKLOADS[name]["ports"].items()}
        allowed = [rule for rule in WORKLOADS[name]["allowFrom"] if caller in rule["from"]]
        assert ports[port] in {rule["port"] for rule in allowed}, f"{caller} may not call {name}"


def test_worker_scales_by_the_queues_that_it_consumes() -> None:
    queues = [each.name for each in (wiring.FIRST, wiring.SOUND, wiring.BULK)]
    assert WORKLOADS["video-worker"]["autoscale"]["queues"] == queues


def test_apps_with_migrations_enable_them() -> None:
    have = {file.parents[1].name.removeprefix("kinora_") for file in ROOT.glob("apps/*/src/*/migrations/0001_*.sql")}
    assert {name for name, workload in WORKLOADS.items() if workload.get("migrations")} == have


# --- consistency with the native platform
# -----------------------------------------------------------------------------------------------------


def flags(words: list[str]) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in words if word.startswith("-"))


def test_tusd_flags_match_the_native_ones() -> None:
    script = (ROOT / "local" / "tusd").read_text()
    (hooks,) = re.findall(r"^hooks=(.+)$", script, re.MULTILINE)
    native = flags(shlex.split(script.partition("exec tusd")[2].replace("$hooks", hooks)))
    ours = flags(WORKLOADS["tusd"]["command"])
    assert {name for name in native.keys() | ours.keys() if native.get(name) != ours.get(name)} == {
        "-host",
        "-s3-endpoint",
        "-hooks-http",
    }
    path = "/internal/tusd/hooks"
    assert native["-hooks-http"].partition(path)[1] == ours["-hooks-http"].partition(path)[1] == path
    # Parts are buffered in files: while received, while queued, and in flight to the object store.
    part = int(ours["-s3-part-size"])
    of_each = (int(ours["-s3-max-buffered-parts"]) + 1) * part
    of_all = int(ours["-s3-concurrent-part-uploads"]) * part
    assert WORKLOADS["tusd"]["scratch"]["/tmp"] * 2**20 >= of_all + 50 * of_each  # noqa: S108
    assert int(ours["-max-size"]) == VideoSettings.model_fields["upload_max_bytes"].default
    # A final upload may take this long; tusd can send no response after twice -network-timeout.
    network, completion = (int(ours[f"-{name}-timeout"].rstrip("s")) for name in ("network", "request-completion"))
    services = yaml.safe_load((ROOT / "traefik" / "dynamic" / "services.yml").read_text())["http"]
    gateway = services["serversTransports"]["uploads"]["forwardingTimeouts"]["responseHeaderTimeout"]
    assert network + completion < min(2 * network, int(gateway.rstrip("s")))
    # No timeout.
    assert ours["-shutdown-timeout"] == f"{charts_defaults()['drain']['timeoutSeconds']}s"


def test_routes_match_the_native_ones() -> None:
    native = yaml.safe_load((ROOT / "traefik" / "dynamic" / "routes.yml").read_text())["http"]["routers"]
    services = yaml.safe_load((ROOT / "traefik" / "dynamic" / "services.yml").read_text())["http"]["services"]
    objects = [each for app in charts.apps() for each in charts.service(app, "sandbox")] + charts.gateway("sandbox")
    found, unavailable = {}, {}
    for each in objects:
        if each["kind"] != "IngressRoute":
            continue
        name = each["metadata"]["name"]
        (route,) = each["spec"]["routes"]
        (service,) = route["services"]
        if name.endswith("-unavailable"):
            unavailable[name.removesuffix("-unavailable")] = (each["spec"].get("entryPoints"), route)
            continue
        found[name] = {
            "entryPoints": each["spec"].get("entryPoints"),
            "rule": route["match"],
            "priority": route.get("priority"),
            "middlewares": [middleware["name"] for middleware in route.get("middlewares", [])],
            "service": service["name"].removesuffix("@file"),
            "transport": service.get("serversTransport"),
        }
    assert found == {
        name: {
            "entryPoints": router.get("entryPoints"),
            "rule": router["rule"],
            "priority": router.get("priority"),
            "middlewares": router.get("middlewares", []),
            "service": router["service"],
            "transport": services.get(router["service"], {}).get("loadBalancer", {}).get("serversTransport"),
        }
        for name, router in native.items()
    }
    # While a service has no pod, its routes must answer 503 instead of 404. Traefik does not drop services from files.
    kept = {"streams", "fallback"}
    assert unavailable == {
        name: (
            route["entryPoints"],
            {
                "kind": "Rule",
                "match": route["rule"],
                "priority": (route["priority"] or 6) - 1,
                "middlewares": [{"name": "unavailable-path"}],
                "services": [{"kind": "TraefikService", "name": "fallback@file"}],
            },
        )
        for name, route in found.items()
        if route["service"] not in kept and not route["service"].endswith("@internal")
    }


# --- no redundant values -------------------------------------------------------------------------------------------


def charts_defaults() -> dict[str, Any]:
    defaults: dict[str, Any] = yaml.safe_load((ROOT / "charts" / "service" / "values.yaml").read_text())["defaults"]
    return defaults


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = under.keys() & over.keys()
    nested = {key: merged(under[key], over[key]) for key in both if isinstance(under[key], dict)}
    return {**under, **over, **nested}


def repeated(under: Any, over: Any, path: str = "") -> list[str]:
    """The keys in ``over`` whose values equal those in ``under``."""
    if isinstance(under, dict) and isinstance(over, dict):
        return [each for key in over for each in repeated(under.get(key, ...), over[key], f"{path}.{key}")]
    return [path.removeprefix(".")] if under == over else []


def test_repeated_finds_redundant_values() -> None:
    under = {"a": 1, "b": {"c": [1, 2], "d": {"e": "f"}}, "g": None}
    assert repeated(under, {"a": 2, "b": {"c": [1], "d": {"e": "x", "new": 1}}}) == []
    assert repeated(under, {"a": 1, "b": {"c": [1, 2], "d": {"e": "f"}}}) == ["a", "b.c", "b.d.e"]


@pytest.mark.parametrize("app", charts.apps())
def test_app_values_do_not_repeat_defaults(app: str) -> None:
    for name, workload in base(app)["workloads"].items():
        assert not repeated(charts_defaults(), workload), name
        assert workload.get("image") != name
        assert workload.get("identity") != name


@pytest.mark.parametrize(("app", "environment"), RELEASES)
def test_environment_values_contain_only_differences(app: str, environment: str) -> None:
    file = ROOT / "apps" / app / "deploy" / "envs" / environment / "values.yaml"
    over = yaml.safe_load(file.read_text()) if file.exists() else {"workloads": {}}
    defaults = charts_defaults()
    under = {name: merged(defaults, workload) for name, workload in base(app)["workloads"].items()}
    # Values for all environments belong to the app.
    assert over.keys() == {"workloads"}
    assert over["workloads"].keys() <= under.keys()
    assert not repeated(under, over["workloads"])


@pytest.mark.parametrize(("app", "environment"), RELEASES)
def test_version_file_has_one_line(app: str, environment: str) -> None:
    text = (ROOT / "apps" / app / "deploy" / "envs" / environment / "version.yaml").read_text()
    assert re.fullmatch(r"version: [0-9a-zA-Z][0-9a-zA-Z_.-]*\n", text)
