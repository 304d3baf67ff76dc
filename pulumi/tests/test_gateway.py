"""Traefik in an environment: the same configuration as natively, and reachable only through its public ports."""

import http.server
import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apiserver
import pytest
import yaml
from alone import SMALL, register, value
from cluster import Cluster

import charts
from kinora_environment import config, images
from kinora_environment.gateway import NATIVE, Gateway, GatewayArgs, default_middlewares, native
from kinora_environment.place import Place
from kinora_environment.render import PROJECT, Rendered

TRAEFIK = PROJECT.parent / ".kinora" / "venv" / "bin" / "traefik"
needs_traefik = pytest.mark.skipif(not TRAEFIK.exists(), reason="Traefik is missing: `make install`")

TLS = config.Gateway(certificate="tls", trusted_addresses=["10.0.0.0/8"])
NODE_PORT = config.Gateway(service="NodePort", node_port=30080)

Places = Callable[[str], Place]


def arguments(places: Places, given: config.Gateway, mesh: bool = False) -> GatewayArgs:
    return GatewayArgs(
        place=places("gateway"),
        apps=places("apps"),
        config=given,
        sizes=SMALL,
        images=images.choose({}),
        mesh=mesh,
        streams="http://s3.kinora-test-stores.svc.cluster.local:9000",
    )


def made(
    given: config.Gateway, *, mesh: bool = False, status: dict[str, Any] | None = None
) -> tuple[Rendered, Gateway]:
    services = {"kubernetes:core/v1:Service": {"status": status}} if status else {}
    return register(lambda places: Gateway("gateway", arguments(places, given, mesh)), status=services)


def find(rendered: Rendered, kind: str, name: str = "traefik", role: str = "gateway") -> Any:
    (found,) = (
        each
        for each in rendered.objects
        if (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace"))
        == (kind, name, f"kinora-test-{role}")
    )
    return found


def configuration(rendered: Rendered) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(find(rendered, "ConfigMap")["data"]["traefik.yml"])
    return loaded


def from_file(rendered: Rendered) -> Any:
    return yaml.safe_load(find(rendered, "ConfigMap")["data"]["services.yml"])


def flat(given: Any, path: str = "") -> dict[str, Any]:
    if isinstance(given, Mapping):
        return {key: each for name in given for key, each in flat(given[name], f"{path}.{name}").items()}
    return {path.removeprefix("."): given}


def test_static_configuration_differs_from_native_only_as_listed() -> None:
    ours, theirs = flat(configuration(made(config.Gateway())[0])), flat(native("traefik.yml"))
    assert {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)} == {
        "entryPoints.admin.address",
        "entryPoints.admin.transport.lifeCycle.requestAcceptGraceTimeout",
        "entryPoints.checks.http.middlewares",
        "entryPoints.web.http.middlewares",
        "entryPoints.web.transport.lifeCycle.requestAcceptGraceTimeout",
        "ping.manualRouting",
        "providers.file.directory",
        "providers.file.filename",
        "providers.file.watch",
        "providers.providersThrottleDuration",
        *(
            f"providers.kubernetesCRD.{option}"
            for option in (
                "allowCrossNamespace",
                "defaultTLSResourcesNamespace",
                "disableClusterScopeResources",
                "namespaces",
                "nativeLBByDefault",
                "safeNaming",
            )
        ),
    }


@pytest.mark.parametrize("mesh", [False, True], ids=["plain", "mesh"])
def test_client_entry_points_have_the_native_middlewares(mesh: bool) -> None:
    """Without a mesh, it retries before it reports an unavailable service."""
    rendered, _ = made(TLS, mesh=mesh)
    *others, last = default_middlewares()
    assert (others[0], last) == ("strip-identity", "unavailable")
    retry = [] if mesh else ["kinora-test-gateway_retry@kubernetescrd"]
    objects = [f"kinora-test-gateway_{name}@kubernetescrd" for name in others]
    expected = {"admin": None, "checks": ["unavailable@file", *retry]}
    for name, entry in configuration(rendered)["entryPoints"].items():
        assert entry["http"].get("middlewares") == expected.get(name, [*objects, "unavailable@file", *retry])
        assert entry.get("asDefault", False) == (name not in expected), f"{name}: routes that name no entry point"
    known = native("dynamic/middlewares.yml")["http"]["middlewares"]
    for name in others:
        spec = find(rendered, "Middleware", name)["spec"]
        if name == "in-flight":
            criterion = spec["inFlightReq"].pop("sourceCriterion")
            assert criterion == {"ipStrategy": {"excludedIPs": ["10.0.0.0/8"]}}, "all clients share the balancer's"
            known[name]["inFlightReq"].pop("sourceCriterion")
        assert spec == known[name]


def test_unavailable_service_is_answered_by_fallback() -> None:
    for mesh in (False, True):
        given = from_file(made(config.Gateway(), mesh=mesh)[0])["http"]
        errors = given["middlewares"]["unavailable"]["errors"]
        assert errors["status"] == ["502", "504", *(["503"] if mesh else [])]
        assert errors["service"] == "fallback"
        assert given["services"]["fallback"]["loadBalancer"] == {
            "servers": [{"url": "http://fallback.kinora-test-apps.svc.cluster.local:8109"}],
            "passHostHeader": False,
        }


def test_checks_entry_point_is_bound_to_loopback() -> None:
    """Its headers are trusted, and it has no routes for clients."""
    rendered, _ = made(TLS)
    assert configuration(rendered)["entryPoints"]["checks"]["address"] == "127.0.0.1:8082"
    assert "8082" not in json.dumps([find(rendered, kind)["spec"] for kind in ("Service", "NetworkPolicy")])


def test_certificate_redirects_http_to_https() -> None:
    rendered, _ = made(TLS)
    entries = configuration(rendered)["entryPoints"]
    assert entries["web"]["http"].pop("redirections")["entryPoint"] == {
        "to": ":443",
        "scheme": "https",
        "permanent": True,
    }
    assert entries["websecure"]["http"].pop("tls") == {}
    assert {**entries["websecure"], "address": ":8080"} == entries["web"]
    assert find(rendered, "TLSStore", "default")["spec"] == {"defaultCertificate": {"secretName": "tls"}}
    assert [port["port"] for port in find(rendered, "Service")["spec"]["ports"]] == [80, 443]


def test_without_a_certificate_there_is_no_tls() -> None:
    rendered, _ = made(config.Gateway())
    assert configuration(rendered)["entryPoints"].keys() == {"web", "checks", "admin"}
    assert [port["port"] for port in find(rendered, "Service")["spec"]["ports"]] == [80]


def test_segments_use_the_signed_host_of_the_object_store() -> None:
    rendered, _ = made(config.Gateway())
    assert configuration(rendered)["providers"]["file"]["filename"] == "/config/services.yml"
    service = from_file(rendered)["http"]["services"]["streams"]["loadBalancer"]
    assert service == {
        "servers": [{"url": "http://s3.kinora-test-stores.svc.cluster.local:9000"}],
        "passHostHeader": False,
    }


def test_forwarded_headers_are_trusted_only_from_configured_addresses() -> None:
    for given, expected in ((config.Gateway(), None), (TLS, {"trustedIPs": ["10.0.0.0/8"]})):
        entries = configuration(made(given)[0])["entryPoints"]
        public = [each for name, each in entries.items() if name not in ("admin", "checks")]
        assert {json.dumps(each.get("forwardedHeaders")) for each in public} == {json.dumps(expected)}


def test_only_public_ports_are_open() -> None:
    public, monitoring = find(made(config.Gateway())[0], "NetworkPolicy")["spec"]["ingress"]
    assert public == {"ports": [{"port": 8080, "protocol": "TCP"}]}
    assert monitoring == {
        "from": [
            {"namespaceSelector": {"matchLabels": {"kinora.io/environment": "test", "kinora.io/role": "monitoring"}}}
        ],
        "ports": [{"port": 8081, "protocol": "TCP"}],
    }
    service = find(made(TLS)[0], "Service")["spec"]
    assert {port["targetPort"] for port in service["ports"]} == {"web", "websecure"}


def test_gateway_permissions_are_limited_to_the_environment() -> None:
    rendered, _ = made(config.Gateway())
    assert not [each for each in rendered.objects if each["kind"].startswith("ClusterRole")]
    assert configuration(rendered)["providers"]["kubernetesCRD"]["namespaces"] == [
        "kinora-test-gateway",
        "kinora-test-apps",
    ]
    for role in ("gateway", "apps"):
        rules = find(rendered, "Role", role=role)["rules"]
        assert {verb for rule in rules for verb in rule["verbs"]} == {"list", "watch"}


def test_only_outbound_traffic_passes_the_sidecar() -> None:
    inbound = "traffic.sidecar.istio.io/includeInboundPorts"
    for mesh in (True, False):
        rendered, _ = made(config.Gateway(), mesh=mesh)
        annotations = find(rendered, "Deployment")["spec"]["template"]["metadata"]["annotations"]
        assert annotations.get(inbound) == ("" if mesh else None)
        assert configuration(rendered)["providers"]["kubernetesCRD"]["nativeLBByDefault"] == mesh


@pytest.mark.parametrize(
    ("given", "ingress", "expected"),
    [
        (config.Gateway(), [{"ip": "203.0.113.7"}], "http://203.0.113.7"),
        (TLS, [{"hostname": "lb.example.org"}], "https://lb.example.org"),
        (NODE_PORT, [], "http://<a node that runs it>:30080"),
        (TLS, [], "not known yet; look it up: kubectl --namespace kinora-test-gateway get service traefik"),
    ],
)
def test_gateway_address_output(given: config.Gateway, ingress: list[Any], expected: str) -> None:
    _, gateway = made(given, status={"loadBalancer": {"ingress": ingress}})
    assert value(gateway.address) == expected
    if not ingress:
        assert value(made(given)[1].address) == expected


# --- with the real Traefik --------------------------------------------------------------------------------------------


def ask(
    url: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, str], str]:
    """Status, headers and the start of the body; status 0 if there is no response."""
    # The certificate is self-signed.
    handler = urllib.request.HTTPSHandler(context=ssl._create_unverified_context())  # noqa: S323
    opener = urllib.request.build_opener(handler, NoRedirect)
    try:
        request = urllib.request.Request(url, body, headers or {}, method=method)  # noqa: S310
        with opener.open(request, timeout=5) as answer:
            return answer.status, dict(answer.headers), answer.read(200).decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read(200).decode()
    except OSError:
        return 0, {}, ""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return met


@contextmanager
def traefik(
    folder: Path, given: dict[str, Any], more: dict[str, Any] | None = None, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Run Traefik with our configuration on free ports; yields the address of each entry point.

    ``more``: additional dynamic configuration.
    """
    addresses = {name: f"127.0.0.1:{apiserver.free_port()}" for name in given["entryPoints"]}
    for name, address in addresses.items():
        given["entryPoints"][name]["address"] = address
    if "filename" in given["providers"]["file"]:
        given["providers"]["file"]["filename"] = str(folder / "services.yml")
        content = from_file(made(config.Gateway())[0])["http"]
        merged = {kind: {**content.get(kind, {}), **each} for kind, each in (more or {}).items()}
        (folder / "services.yml").write_text(json.dumps({"http": {**content, **merged}}))
    file = folder / "traefik.yml"
    file.write_text(yaml.safe_dump(given))
    with (folder / "traefik.log").open("w") as log:
        process = subprocess.Popen(
            [TRAEFIK, f"--configFile={file}"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], **environment},
            stdout=log,
            stderr=log,
            text=True,
        )
        try:
            yield process, addresses
        finally:
            process.kill()
            process.wait()


@needs_traefik
@pytest.mark.parametrize("given", [config.Gateway(), TLS], ids=["plain", "tls"])
def test_traefik_accepts_the_configuration_but_is_not_ready_without_routes(
    given: config.Gateway, tmp_path: Path
) -> None:
    with traefik(tmp_path, configuration(made(given)[0])) as (process, addresses):
        assert until(lambda: ask(f"http://{addresses['admin']}/metrics")[0] == 200 or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "traefik.log").read_text()
        assert ask(f"http://{addresses['admin']}/ping")[0] == 404


@needs_traefik
def test_traefik_rejects_unknown_configuration(tmp_path: Path) -> None:
    """Proves that the test above can fail."""
    wrong = configuration(made(config.Gateway())[0])
    wrong["entryPoints"]["web"]["http"]["aliasHeaderStrategy"] = "delete"
    with traefik(tmp_path, wrong) as (process, _):
        assert process.wait(30) != 0


@contextmanager
def breaking() -> Iterator[tuple[str, list[str]]]:
    """A server that accepts requests and then breaks the connections; yields its address and the methods that it
    saw."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline()
            if self.raw_requestline and self.parse_request():
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen.append((self.command, len(body)))
            self.close_connection = True

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()


@needs_traefik
@pytest.mark.parametrize(
    ("method", "size", "times"),
    [
        *((method, 0, 4) for method in ("GET", "HEAD", "DELETE")),
        *((method, 1 << 10, 4) for method in ("PUT", "POST", "PATCH")),
        ("PATCH", 1 << 20, 1),
    ],
)
def test_broken_requests_are_retried_but_large_bodies_are_not(
    method: str, size: int, times: int, tmp_path: Path
) -> None:
    retry = find(made(config.Gateway())[0], "Middleware", "retry")["spec"]
    given = configuration(made(config.Gateway())[0])
    for entry in ("web", "checks"):
        given["entryPoints"][entry]["http"]["middlewares"] = ["retry@file"]
    del given["providers"]["kubernetesCRD"]
    with breaking() as (address, seen):
        more = {
            "middlewares": {"retry": retry},
            "routers": {"all": {"rule": "PathPrefix(`/`)", "entryPoints": ["web"], "service": "breaking"}},
            "services": {"breaking": {"loadBalancer": {"servers": [{"url": address}]}}},
        }
        with traefik(tmp_path, given, more) as (_, addresses):
            web = addresses["web"]
            sent = until(lambda: ask(f"http://{web}/", method, body=b"." * size)[0] == 502)
            assert sent, (tmp_path / "traefik.log").read_text()
    assert seen == [(method, size)] * times


ROUTE = {
    "apiVersion": "traefik.io/v1alpha1",
    "kind": "IngressRoute",
    "metadata": {"name": "preflight", "namespace": "kinora-test-apps"},
    "spec": {
        "routes": [
            {
                "kind": "Rule",
                "match": "Method(`OPTIONS`)",
                "services": [{"kind": "TraefikService", "name": "noop@internal"}],
            }
        ]
    },
}


def tls_secret(certificate: str, key: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": "tls", "namespace": "kinora-test-gateway"},
        "stringData": {"tls.crt": certificate, "tls.key": key},
    }


def access(cluster: Cluster, folder: Path) -> str:
    """A kubeconfig with the token of the pod's service account."""
    content = json.loads(cluster.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", "traefik", "--namespace=kinora-test-gateway").strip()
    content["users"][0]["user"] = {"token": token}
    file = folder / "kubeconfig"
    file.write_text(json.dumps(content))
    return str(file)


@needs_traefik
@pytest.mark.parametrize("given", [config.Gateway(), TLS], ids=["plain", "tls"])
def test_traefik_serves_routes_with_its_permissions(given: config.Gateway, api_server: Cluster, tmp_path: Path) -> None:
    rendered, _ = made(given)
    api_server.install([*rendered.objects, ROUTE])
    folder = api_server.kubeconfig.parent / "certificates"
    certificate, key = ((folder / name).read_text() for name in ("apiserver.crt", "apiserver.key"))
    api_server.kubectl("apply", "--server-side", "-f", "-", given=[tls_secret(certificate, key)])
    kubeconfig = access(api_server, tmp_path)
    with traefik(tmp_path, configuration(rendered), KUBECONFIG=kubeconfig) as (process, addresses):
        ready = f"http://{addresses['admin']}/ping"
        assert until(lambda: ask(ready)[0] == 200), (tmp_path / "traefik.log").read_text()
        preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        client = f"https://{addresses['websecure']}" if given.certificate else f"http://{addresses['web']}"
        # Once it is ready, it has loaded every route.
        status, headers, _ = ask(f"{client}/media", "OPTIONS", preflight)
        assert status == 200
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert headers["X-Frame-Options"] == "DENY"
        assert ask(f"http://{addresses['admin']}/media", "OPTIONS", preflight)[0] == 404
        assert ask(f"{client}/ping")[0] == 404
        if given.certificate:
            status, headers, _ = ask(f"http://{addresses['web']}/media?a=b", headers={"Host": "kinora.example"})
            assert (status, headers["Location"]) == (301, "https://kinora.example/media?a=b")
            host, port = addresses["websecure"].split(":")
            shown = ssl.get_server_certificate((host, int(port)))
            assert shown.strip() in certificate
        # On SIGTERM it becomes unready, and keeps serving.
        process.terminate()
        assert until(lambda: ask(ready)[0] == 503, 5)
        assert ask(f"{client}/media", "OPTIONS", preflight)[0] == 200


API = {"entryPoints": ["admin"], "rule": "PathPrefix(`/api`)", "service": "api@internal"}


WITHOUT_PODS = {1, 3, 5}
"""The priorities of the rules that match a route's requests while its service has no pod."""


def with_api(given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "api": {}}


def short(name: str) -> str:
    """The name without its provider suffix or namespace prefix."""
    return re.sub(r"^kinora-test-(apps|gateway)_|@(file|kubernetescrd)$", "", name)


def known(admin: str, kind: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"http://{admin}/api/http/{kind}?per_page=1000", timeout=5) as answer:
        loaded: list[dict[str, Any]] = json.load(answer)
    return loaded


def routes(admin: str) -> dict[str, dict[str, Any]]:
    """The routes as loaded by Traefik, by rule, with the servers that answer while there are pods."""
    services = {each["name"]: each.get("loadBalancer", {}) for each in known(admin, "services")}
    found = {}
    for each in known(admin, "routers"):
        if each["entryPoints"] == ["admin"] or each["priority"] in WITHOUT_PODS:
            continue
        service = each["service"] if "@" in each["service"] else f"{each['service']}@{each['provider']}"
        balancer = services[service]
        found[each["rule"]] = {
            "status": each["status"],
            "priority": each["priority"],
            "entryPoints": each["entryPoints"],
            "middlewares": [short(name) for name in each.get("middlewares", [])],
            "servers": sorted(server["url"] for server in balancer.get("servers", [])),
            "passHostHeader": balancer.get("passHostHeader"),
            "strategy": balancer.get("strategy"),
            "transport": short(balancer.get("serversTransport", "")),
        }
    return found


@pytest.fixture
def natively(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The routes as loaded from the files in traefik/."""
    folder = tmp_path / "native"
    shutil.copytree(NATIVE / "dynamic", folder / "dynamic")
    (folder / "dynamic" / "api.yml").write_text(json.dumps({"http": {"routers": {"api": API}}}))
    given = native("traefik.yml")
    given["providers"]["file"] = {"directory": str(folder / "dynamic")}
    with traefik(folder, with_api(given)) as (_, addresses):
        admin = addresses["admin"]
        assert until(lambda: ask(f"http://{admin}/api/http/routers")[0] == 200), (folder / "traefik.log").read_text()
        return routes(admin)


@needs_traefik
@pytest.mark.parametrize("mesh", [False, True], ids=["alone", "mesh"])
def test_routes_from_charts_match_the_native_files(
    mesh: bool, natively: dict[str, dict[str, Any]], api_server: Cluster, tmp_path: Path
) -> None:
    rendered, _ = made(config.Gateway(), mesh=mesh)
    facts = {"environment": {"name": "test", "publicUrl": "https://test.example", "mesh": mesh}}
    released = charts.template("gateway", "gateway", charts.GATEWAY_FILES, facts)
    for app in charts.apps():
        released += charts.template("service", app, charts.values(app, "dev"), facts)
    objects = [
        each for each in released if each["kind"] in ("IngressRoute", "Middleware", "ServersTransport", "Service")
    ]
    api_server.install([each for each in rendered.objects if each["kind"] != "ResourceQuota"])
    api_server.apply([*objects, *(endpoints(each) for each in objects if each["kind"] == "Service")])
    services = api_server.kubectl(
        "get",
        "services",
        "--namespace=kinora-test-apps",
        "--output=jsonpath={range .items[*]}{.metadata.name} {.spec.clusterIP}\n{end}",
    )
    virtual = dict(line.split() for line in services.splitlines())
    with traefik(
        tmp_path, with_api(configuration(rendered)), {"routers": {"api": API}}, KUBECONFIG=access(api_server, tmp_path)
    ) as (_, addresses):
        admin = addresses["admin"]
        assert until(lambda: ask(f"http://{admin}/ping")[0] == 200), (tmp_path / "traefik.log").read_text()
        ours = routes(admin)

    native_services = native("dynamic/services.yml")["http"]["services"]
    names = {each["loadBalancer"]["servers"][0]["url"]: name for name, each in native_services.items()}
    assert len(natively) == len(native("dynamic/routes.yml")["http"]["routers"])
    expected = {}
    for rule, route in natively.items():
        expected[rule] = dict(route)
        if not mesh:  # Traefik retries by itself
            middlewares = list(route["middlewares"])
            middlewares.insert(middlewares.index("unavailable") + 1, "retry")
            expected[rule]["middlewares"] = middlewares
        if not route["servers"]:
            continue  # Traefik answers itself
        (url,) = route["servers"]
        name, port = names[url], url.rpartition(":")[2]
        if name in from_file(rendered)["http"]["services"]:
            balancer = from_file(rendered)["http"]["services"][name]["loadBalancer"]
            expected[rule]["servers"] = [server["url"] for server in balancer["servers"]]
            continue
        pods = [virtual[name]] if mesh else ["10.0.0.1", "10.0.0.2"]
        expected[rule]["servers"] = [f"http://{pod}:{port}" for pod in pods]
        # The proxies of a mesh accept the service's name, and choose the pod.
        expected[rule]["passHostHeader"] = not mesh
        if name == "tusd" and not mesh:
            expected[rule]["strategy"] = "hrw"
    assert ours == expected
    assert {each["status"] for each in ours.values()} == {"enabled"}


def endpoints(service: dict[str, Any]) -> dict[str, Any]:
    """The endpoints of a service, which a controller writes in a real cluster."""
    metadata = service["metadata"]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": {"kubernetes.io/service-name": metadata["name"]},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [f"10.0.0.{last}"], "conditions": {"ready": True}} for last in (1, 2)],
        "ports": [{"name": port["name"], "port": port["port"]} for port in service["spec"]["ports"]],
    }
