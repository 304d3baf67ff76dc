"""istio/: policies, timeouts and retries, compared with the code and analysed by istioctl in a cluster."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster, cluster_with_definitions
from meshed import Manifest, analyse, inject, policies

import charts
from kinora_environment import gitops, helm, mesh, needs, render, upstream
from kinora_environment.place import namespace_name
from kinora_environment.render import identity

ROOT = Path(__file__).resolve().parents[2]
VALUES = ROOT / "istio" / "values.yaml"
SERVICES: Mapping[str, Mapping[str, Any]] = yaml.safe_load(VALUES.read_text())["services"]
RPC = (ROOT / "platform" / "src" / "kinora_kit" / "rpc.py").read_text()
TUSD = (ROOT / "local" / "tusd").read_text()
MESHED = [stack for stack in render.stacks() if render.configuration(stack).mesh.enabled]

UPLOAD_HOOKS_SECONDS = 15
"""tusd's own -hooks-http-timeout."""
FORWARD_AUTH_SECONDS = 30
"""Fixed in Traefik (pkg/middlewares/auth/forward.go)."""


ALLOWED: Mapping[str, list[dict[str, Any]]] = {
    name: workload.get("allowFrom", [])
    for app in charts.apps()
    for name, workload in yaml.safe_load((ROOT / "apps" / app / "deploy" / "values.yaml").read_text())[
        "workloads"
    ].items()
}
"""Who may call each workload, from its app's values."""


def authorization(environment: str = "test") -> list[Manifest]:
    """The rendered AuthorizationPolicies."""
    given = {"environment": {"name": environment, "publicUrl": "https://test.example", "mesh": True}}
    return [
        each
        for app in charts.apps()
        for each in charts.template("service", app, charts.values(app, "dev"), given)
        if each["kind"] == "AuthorizationPolicy"
    ]


@pytest.fixture(scope="module")
def rendered_policies() -> list[Manifest]:
    return [*policies(), *authorization()]


def of(objects: list[Manifest], kind: str, name: str) -> Any:
    (found,) = (
        each
        for each in objects
        if (each["kind"], each["metadata"]["namespace"], each["metadata"]["name"]) == (kind, "kinora-test-apps", name)
    )
    return found["spec"]


# --- callers, from the code ------------------------------------------------------------------------------------


def settings(service: str) -> dict[str, str]:
    lines = (ROOT / "local" / "env" / f"{service}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def listening() -> dict[str, tuple[str, str]]:
    """The services' native ports: port -> (service, http or grpc)."""
    found = {}
    for service in [*needs.read(), "fallback"]:
        given = settings(service)
        for protocol in ("http", "grpc"):
            if f"KINORA_{protocol.upper()}_PORT" in given:
                found[given[f"KINORA_{protocol.upper()}_PORT"]] = (service, protocol)
    (port,) = re.findall(r"-port=(\d+)", TUSD)
    return {**found, port: ("tusd", "http")}


def addresses() -> dict[str, str]:
    """The addresses of other services in each caller's settings."""
    dynamic = (file.read_text() for file in sorted((ROOT / "traefik" / "dynamic").glob("*.yml")))
    return {
        **{service: "\n".join(settings(service).values()) for service in needs.read()},
        "tusd": TUSD,
        "gateway": "\n".join(dynamic),
    }


def test_table_names_the_listening_ports() -> None:
    table = {
        str(service[protocol]): (name, protocol)
        for name, service in SERVICES.items()
        for protocol in ("http", "grpc")
        if protocol in service
    }
    assert table == listening()
    assert SERVICES.keys() >= needs.read().keys()


def test_allowed_callers_match_the_code() -> None:
    ports = listening()
    called = {
        (caller, *ports[port])
        for caller, text in addresses().items()
        for port in re.findall(r"127\.0\.0\.1:(\d+)", text)
        if port in ports and ports[port][0] != caller
    }
    table = {
        (caller, name, rule["port"]) for name, rules in ALLOWED.items() for rule in rules for caller in rule["from"]
    }
    assert table == called


def test_proxies_verify_tokens_for_services_that_do() -> None:
    """Except graphql, where a refresh may carry an expired token."""
    verifying = {name for name in needs.read() if "KINORA_JWKS_URL" in settings(name)}
    assert {name for name, service in SERVICES.items() if service.get("verifiesTokens")} == verifying - {"graphql"}


# --- authorization ----------------------------------------------------------------------------------------------------


def permitted(objects: list[Manifest], caller: str, service: str, port: int, request: str) -> bool:
    """Whether a request is allowed, per https://istio.io/latest/docs/reference/config/security/authorization-policy/"""
    method, _, path = request.partition(" ")
    role, account = ("gateway", "traefik") if caller == "gateway" else ("apps", caller)
    principal = f"cluster.local/ns/kinora-test-{role}/sa/{account}"

    def matches(path: str, patterns: list[str]) -> bool:
        return any(path.startswith(each[:-1]) if each.endswith("*") else path == each for each in patterns)

    found = [each["spec"] for each in objects if each["kind"] == "AuthorizationPolicy"]
    selecting = [
        each
        for each in found
        if each.get("selector", {}).get("matchLabels", {}).get("app.kubernetes.io/name", service) == service
    ]
    assert selecting, "without a policy, everything is allowed"
    return any(
        principal in rule["from"][0]["source"]["principals"]
        and str(port) in operation["ports"]
        and method in operation.get("methods", [method])
        and matches(path, operation.get("paths", [path]))
        and not matches(path, operation.get("notPaths", []))
        for policy in selecting
        for rule in policy.get("rules", [])
        for operation in [rule["to"][0]["operation"]]
    )


def test_forward_auth_requests_are_allowed(rendered_policies: list[Manifest]) -> None:
    """ForwardAuth uses the entry point `checks`."""
    dynamic = ROOT / "traefik" / "dynamic"
    asked = re.findall(r"127\.0\.0\.1:8082(/[^?\"]+)", (dynamic / "middlewares.yml").read_text())
    assert len(asked) >= 4
    routers = yaml.safe_load((dynamic / "routes.yml").read_text())["http"]["routers"].values()
    checks = [router for router in routers if router.get("entryPoints") == ["checks"]]
    for path in asked:
        (service,) = [router["service"] for router in checks if f"`{path}`" in router["rule"]]
        assert permitted(rendered_policies, "gateway", service, SERVICES[service]["http"], f"GET {path}"), path


def test_tusd_hooks_are_allowed(rendered_policies: list[Manifest]) -> None:
    (path,) = re.findall(r"-hooks-http=http://127\.0\.0\.1:8103(\S+)", TUSD)
    assert permitted(rendered_policies, "tusd", "video", 8103, f"POST {path}")
    assert not permitted(rendered_policies, "gateway", "video", 8103, f"POST {path}")
    (base,) = re.findall(r"-base-path=(\S+)", TUSD)
    assert permitted(rendered_policies, "video", "tusd", 8108, f"POST {base}")
    assert not permitted(rendered_policies, "video", "tusd", 8108, f"DELETE {base}")


@pytest.mark.parametrize("caller", ["graphql", "media", "video"])
def test_services_read_key_set_and_token_check_of_auth_only(rendered_policies: list[Manifest], caller: str) -> None:
    assert permitted(rendered_policies, caller, "auth", 8101, "GET /auth/.well-known/jwks.json")
    assert permitted(rendered_policies, caller, "auth", 8101, "GET /user/token_verify")
    assert not permitted(rendered_policies, caller, "auth", 8101, "GET /user/profile")
    assert not permitted(rendered_policies, caller, "auth", 8101, "POST /auth/login")


ENFORCING = {("media", "video"), ("auth", "video"), ("auth", "media"), ("video", "media")}


@pytest.mark.parametrize("service", ["media", "video"])
def test_only_deciding_services_may_call_enforcement(rendered_policies: list[Manifest], service: str) -> None:
    package = f"/kinora.{service}.v1"
    for caller in ("auth", "media", "video", "graphql", "gateway", "tusd"):
        if caller == service:
            continue
        port = SERVICES[service]["grpc"]
        enforces = permitted(rendered_policies, caller, service, port, f"POST {package}.Enforcement/X")
        assert enforces == ((caller, service) in ENFORCING), caller
        others = permitted(rendered_policies, caller, service, port, f"POST {package}.Other/X")
        assert others == (caller == "graphql"), caller


@pytest.mark.parametrize("service", ["media", "video"])
def test_only_auth_may_export(rendered_policies: list[Manifest], service: str) -> None:
    export = "POST /kinora.export.v1.Export/ExportPage"
    callers = {"auth", "media", "video", "graphql", "gateway", "tusd"} - {service}
    allowed = {
        caller for caller in callers if permitted(rendered_policies, caller, service, SERVICES[service]["grpc"], export)
    }
    assert allowed == {"auth"}


def test_only_media_may_create_uploads(rendered_policies: list[Manifest]) -> None:
    create = "POST /kinora.video.v1.Uploads/CreateUpload"
    port = SERVICES["video"]["grpc"]
    callers = ("auth", "media", "graphql", "gateway", "tusd")
    allowed = {caller for caller in callers if permitted(rendered_policies, caller, "video", port, create)}
    assert allowed == {"media"}


def test_media_may_only_list_users_of_auth(rendered_policies: list[Manifest]) -> None:
    port = SERVICES["auth"]["grpc"]
    allowed = [
        method
        for method in ("Users/ListUsers", "Users/GetProfile", "Accounts/Login")
        if permitted(rendered_policies, "media", "auth", port, f"POST /kinora.auth.v1.{method}")
    ]
    assert allowed == ["Users/ListUsers"]


@pytest.mark.parametrize("service", SERVICES)
def test_metrics_and_unlisted_paths_are_denied(rendered_policies: list[Manifest], service: str) -> None:
    for protocol in ("http", "grpc"):
        port = SERVICES[service].get(protocol, 0)
        assert not permitted(rendered_policies, "gateway", service, port, "GET /metrics")
        assert not permitted(rendered_policies, "stranger", service, port, "GET /")
    assert not permitted(rendered_policies, "gateway", service, SERVICES[service].get("grpc", 0), "POST /")
    assert not permitted(rendered_policies, "gateway", "video-worker", 8113, "GET /")


def test_gateway_service_account_matches_policies(rendered: Callable[[str], render.Rendered]) -> None:
    namespace = namespace_name(MESHED[0], "gateway")
    (gateway,) = (
        each
        for each in rendered(MESHED[0]).objects
        if (each["kind"], each["metadata"].get("namespace")) == ("Deployment", namespace)
    )
    account = gateway["spec"]["template"]["spec"]["serviceAccountName"]
    assert f"cluster.local/ns/{namespace}/sa/{account}" in json.dumps(authorization(MESHED[0]))


def test_invalid_token_is_rejected_and_missing_token_passes(rendered_policies: list[Manifest]) -> None:
    assert {name for name, service in SERVICES.items() if service.get("verifiesTokens")} == {"media", "video"}
    kit = (ROOT / "platform" / "src" / "kinora_kit" / "identity.py").read_text()
    for name, service in SERVICES.items():
        found = [
            each
            for each in rendered_policies
            if each["kind"] == "RequestAuthentication" and each["metadata"]["name"] == name
        ]
        assert len(found) == bool(service.get("verifiesTokens"))
        for each in found:
            (rule,) = each["spec"]["jwtRules"]
            assert rule["issuer"] == "https://test.example"
            assert f'AUDIENCE = "{rule["audiences"][0]}"' in kit
            assert rule["jwksUri"] == ("http://auth.kinora-test-apps.svc.cluster.local:8101/auth/.well-known/jwks.json")
            assert rule["forwardOriginalToken"]
    assert "requestPrincipals" not in json.dumps(rendered_policies)


def test_upload_requests_are_sticky(rendered_policies: list[Manifest]) -> None:
    policies = {name: of(rendered_policies, "DestinationRule", name)["trafficPolicy"] for name in SERVICES}
    assert policies["tusd"]["loadBalancer"] == {"consistentHash": {"httpHeaderName": "X-Real-Ip"}}
    assert {name for name, policy in policies.items() if "loadBalancer" in policy} == {"tusd"}


def test_mutual_tls_is_strict(rendered_policies: list[Manifest]) -> None:
    assert of(rendered_policies, "PeerAuthentication", "default") == {"mtls": {"mode": "STRICT"}}
    modes = {
        each["spec"]["host"]: each["spec"]["trafficPolicy"]["tls"]["mode"]
        for each in rendered_policies
        if each["kind"] == "DestinationRule"
    }
    assert modes == {f"{name}.kinora-test-apps.svc.cluster.local": "ISTIO_MUTUAL" for name in SERVICES}


def test_egress_is_limited_to_external_stores(rendered_policies: list[Manifest]) -> None:
    sidecars = [each["spec"] for each in rendered_policies if each["kind"] == "Sidecar"]
    for each in sidecars:
        assert each["outboundTrafficPolicy"] == {"mode": "REGISTRY_ONLY"}
        assert each["egress"] == [{"hosts": ["kinora-test-apps/*", "kinora-test-stores/*"]}]
    assert len(sidecars) == 2
    assert "ServiceEntry" not in {each["kind"] for each in rendered_policies}
    outside = policies(external={"postgres": {"host": "db.example.com", "port": 5432, "protocol": "TCP"}})
    entry = of(outside, "ServiceEntry", "external-postgres")
    assert (entry["hosts"], entry["ports"][0]["number"]) == (["db.example.com"], 5432)


# --- timeouts ----------------------------------------------------------------------------------------------------


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def route(
    objects: list[Manifest], service: str, port: int, request: str = "GET /", headers: Mapping[str, str] | None = None
) -> Any:
    """The first route that matches a request."""
    method, _, path = request.partition(" ")
    for each in of(objects, "VirtualService", service)["http"]:
        (match,) = each["match"]
        patterns = match.get("headers", {})
        if (
            match["port"] == port
            and re.fullmatch(match.get("method", {}).get("regex", ".*"), method)
            and re.fullmatch(match.get("uri", {}).get("regex", ".*"), path)
            and all(re.fullmatch(value["regex"], (headers or {}).get(name, "")) for name, value in patterns.items())
        ):
            assert each["route"][0]["destination"]["port"]["number"] == port
            return each
    raise AssertionError("no route")


def number(pattern: str, text: str) -> float:
    (value,) = re.findall(pattern, text)
    return float(value)


def test_callers_time_out_after_their_callees(rendered_policies: list[Manifest]) -> None:
    """The table in istio/values.yaml."""
    transport = yaml.safe_load((ROOT / "traefik" / "traefik.yml").read_text())["serversTransport"]
    gateway = seconds(transport["forwardingTimeouts"]["responseHeaderTimeout"])
    assert gateway < FORWARD_AUTH_SECONDS
    deadline = number(r"DEADLINE_SECONDS = ([\d.]+)", RPC)
    keys = number(r"connect\(timeout_seconds=(\d+)", (ROOT / "platform/src/kinora_kit/identity.py").read_text())
    waits: dict[str, float] = {}
    for name, service in SERVICES.items():
        for method in ("GET", "POST", "DELETE"):
            timeout = route(rendered_policies, name, service["http"], f"{method} /").get("timeout")
            waits[name] = seconds(timeout) if timeout else math.inf
            assert timeout is None or seconds(timeout) < gateway, name
        if "grpc" in service:
            assert seconds(route(rendered_policies, name, service["grpc"], "POST /")["timeout"]) > deadline
    behind = [name for name in settings("graphql") if name.endswith("_GRPC")]
    assert waits["graphql"] >= keys + len(behind) * deadline
    assert "-hooks-http-timeout" not in TUSD
    assert waits["video"] < UPLOAD_HOOKS_SECONDS
    assert min(waits["auth"], waits["media"], waits["video"]) > keys + deadline
    for name in ("media", "video"):
        assert of(rendered_policies, "RequestAuthentication", name)["jwtRules"][0]["timeout"] == f"{keys:.0f}s"


def test_streams_have_no_timeout(rendered_policies: list[Manifest]) -> None:
    video, graphql, tusd = (SERVICES[name]["http"] for name in ("video", "graphql", "tusd"))
    progress = "/video/019a0000-0000-7000-8000-000000000000/progress"
    assert "timeout" not in route(rendered_policies, "video", video, f"GET {progress}")
    assert "timeout" in route(rendered_policies, "video", video, f"GET {progress.removesuffix('/progress')}")
    assert "timeout" not in route(rendered_policies, "graphql", graphql, headers={"upgrade": "WebSocket"})
    assert "timeout" in route(rendered_policies, "graphql", graphql)
    for method in ("POST", "PATCH", "HEAD"):
        assert "timeout" not in route(rendered_policies, "tusd", tusd, f"{method} /")


def test_idle_timeout_is_shorter_than_keep_alive(rendered_policies: list[Manifest]) -> None:
    transport = yaml.safe_load((ROOT / "traefik" / "traefik.yml").read_text())["serversTransport"]
    for name in SERVICES:
        pool = of(rendered_policies, "DestinationRule", name)["trafficPolicy"]["connectionPool"]
        assert pool["http"]["idleTimeout"] == transport["forwardingTimeouts"]["idleConnTimeout"]
        assert pool["tcp"]["connectTimeout"] == transport["forwardingTimeouts"]["dialTimeout"]


# --- retries -------------------------------------------------------------------------------------------------------


def test_unanswered_requests_are_retried_except_uploads(
    rendered_policies: list[Manifest],
) -> None:
    once = {"attempts": 1, "retryOn": "connect-failure,refused-stream,reset"}
    for name, service in SERVICES.items():
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            retries = route(rendered_policies, name, service["http"], f"{method} /")["retries"]
            assert retries == ({"attempts": 0} if name == "tusd" else once)
        if "grpc" in service:
            assert route(rendered_policies, name, service["grpc"], "POST /")["retries"] == {"attempts": 0}


def test_retry_amplification_matches_the_documentation(rendered_policies: list[Manifest]) -> None:
    assert "retry" not in (ROOT / "traefik" / "dynamic" / "middlewares.yml").read_text()
    outer = 1 + route(rendered_policies, "graphql", 8105)["retries"]["attempts"]
    inner = int(number(r'"maxAttempts": (\d+)', RPC))
    assert f"{outer} x {inner} = {outer * inner} only" in VALUES.read_text()


# --- the chart -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"publicUrl": ""}, "/publicUrl"),
        ({"publicUrl": "https://x.example/"}, "/publicUrl"),
        ({"environment": "kinora-dev-"}, "/environment"),
        ({"enviroment": "dev"}, "additional properties 'enviroment' not allowed"),
        ({"services": {"auth": {"prot": 1}}}, "additional properties 'prot' not allowed"),
        ({"external": {"postgres": {"host": "db", "port": 5432, "protocol": "HTTP"}}}, "/external/postgres/protocol"),
    ],
)
def test_invalid_values_are_rejected(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        policies(**{"environment": "test", **values})


def test_environment_name_selects_everything() -> None:
    first, second = policies("dev"), policies("dev-2")
    assert not {identity(each) for each in first} & {identity(each) for each in second}
    expected = json.dumps(first).replace("kinora-dev", "kinora-dev-2").replace("https://dev.", "https://dev-2.")
    expected = expected.replace('"kinora.io/environment": "dev"', '"kinora.io/environment": "dev-2"')
    assert json.loads(expected) == second


def test_mesh_objects_are_unique_and_within_the_project(rendered_policies: list[Manifest]) -> None:
    for each in rendered_policies:
        assert each["kind"] in gitops.LAYERS["mesh"].kinds[each["apiVersion"].partition("/")[0]]
        assert each["metadata"]["namespace"] in ("kinora-test-apps", "kinora-test-gateway")
        assert each["metadata"]["labels"]["istio.io/rev"] == mesh.revision("test")


# --- in a cluster ----------------------------------------------------------------------------------------------------


def pods(objects: list[Manifest], environment: str, deployments: list[Manifest]) -> Iterator[Manifest]:
    """A pod with a proxy for each meshed Deployment, as the controllers and istiod of a cluster would create."""
    for each in deployments:
        template = inject(objects, environment, each)
        metadata = {"namespace": each["metadata"]["namespace"], "name": f"{each['metadata']['name']}-0"}
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], **metadata},
            "spec": template["spec"],
        }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, rendered: Callable[[str], render.Rendered]) -> Iterator[Cluster]:
    """All environments that have a mesh, with their services and policies, in one cluster."""
    with cluster_with_definitions(tmp_path_factory.mktemp("istio")) as started:
        hooks = []
        for stack in MESHED:
            # Without the quota controller, a quota admits nothing.
            objects = [each for each in rendered(stack).objects if each["kind"] != "ResourceQuota"]
            hooks += [each for each in objects if each["kind"].endswith("WebhookConfiguration")]
            started.apply([each for each in objects if each not in hooks])
            services = [each for app in charts.apps() for each in charts.service(app, stack)]
            started.apply(services)
            gateway = namespace_name(stack, "gateway")
            deployments = [
                each
                for each in [*objects, *services]
                if each["kind"] == "Deployment"
                and each["metadata"]["namespace"] in (gateway, namespace_name(stack, "apps"))
            ]
            started.apply(list(pods(objects, stack, deployments)))
            started.apply(policies(stack))
        # Last, because istiod is not there to answer the webhook.
        started.apply(hooks)
        yield started


@pytest.mark.parametrize("stack", MESHED)
def test_istioctl_analyze_finds_no_problems(server: Cluster, stack: str) -> None:
    assert not analyse(server, stack)


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        (
            "networking.istio.io/v1 VirtualService",
            {"hosts": ["nobody"], "http": [{"route": [{"destination": {"host": "nobody"}}]}]},
            'Error IST0101 VirtualService kinora-{}-apps/wrong: Referenced host not found: "nobody"',
        ),
        (
            "networking.istio.io/v1 VirtualService",
            {"hosts": ["x"], "http": [{"route": [{"destination": {"host": "auth", "port": {"number": 1}}}]}]},
            'Error IST0101 VirtualService kinora-{}-apps/wrong: Referenced host:port not found: "auth:1"',
        ),
        (
            "security.istio.io/v1 AuthorizationPolicy",
            {"selector": {"matchLabels": {"app.kubernetes.io/name": "nobody"}}},
            "Warning IST0127 AuthorizationPolicy kinora-{}-apps/wrong: No matching workloads",
        ),
    ],
)
def test_istioctl_analyze_detects_problems(server: Cluster, kind: str, spec: dict[str, Any], said: str) -> None:
    version, _, kind = kind.partition(" ")
    metadata = {"name": "wrong", "namespace": namespace_name(MESHED[0], "apps")}
    wrong = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
    server.apply([wrong])
    try:
        assert any(each.startswith(said.format(MESHED[0])) for each in analyse(server, MESHED[0]))
    finally:
        server.kubectl("delete", "-f", "-", given=[wrong])


def test_missing_istioctl_error_names_the_make_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(helm, "BIN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(upstream.Unavailable, match="istioctl is missing: `make tools`"):
        helm.program("istioctl")
