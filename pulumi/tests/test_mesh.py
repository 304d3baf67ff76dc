"""Istio in an environment: its own control plane, which works with pods of the restricted profile."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from meshed import inject
from pulumi.runtime import mocks
from pulumi.runtime.stack import wait_for_rpcs
from pulumi.runtime.sync_await import _sync_await

from kinora_environment import config, helm, mesh, policies, upstream
from kinora_environment.mesh import Mesh, MeshArgs
from kinora_environment.namespaces import Namespaces, NamespacesArgs
from kinora_environment.place import prefix
from kinora_environment.render import CHARTS, Recorder, Rendered, identity
from kinora_environment.sizes import SIZES
from kinora_environment.upstream import Unavailable

Manifest = dict[str, Any]


@dataclass
class Made(Rendered):
    """Also records each object's resource options, by kind and name."""

    options: dict[tuple[str, str], Any] = field(default_factory=dict)

    def of(self, kind: str) -> list[Manifest]:
        return [each for each in self.objects if each["kind"] == kind]

    def find(self, kind: str, name: str) -> Manifest:
        (found,) = (each for each in self.of(kind) if each["metadata"]["name"] == name)
        return found


class Engine(mocks.MockMonitor):
    def __init__(self, made: Made) -> None:
        super().__init__(Recorder(made, "${{{}}}".format))
        self._made = made

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - the engine's name for it
        if "kind" in request.object.fields:
            self._made.options[request.object["kind"], request.object["metadata"]["name"]] = request
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]


def make(environment: str = "test", size: config.Size = "medium", *, cni: bool = True) -> Made:
    made, sizes = Made(environment), SIZES[size]
    engine = Engine(made)
    mocks.set_mocks(engine.mocks, project="kinora", stack=environment, preview=False, monitor=engine)
    namespaces = Namespaces(
        "namespaces",
        NamespacesArgs(environment=environment, quota=sizes.apps, mesh=True, mesh_privileged=cni, protect=False),
    )
    Mesh("mesh", MeshArgs(place=namespaces["mesh"], config=config.Mesh(cni=cni), sizes=sizes))
    _sync_await(wait_for_rpcs())
    return made


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


def mesh_config(made: Made) -> Any:
    return yaml.safe_load(made.find("ConfigMap", f"istio-{prefix(made.stack)}")["data"]["mesh"])


def istiod(made: Made) -> Manifest:
    return made.find("Deployment", f"istiod-{prefix(made.stack)}")


# --- environments side by side ---------------------------------------------------------------------------------------


def test_environments_share_only_definitions(made: Made) -> None:
    """Even if one's name is a prefix of the other's."""
    first, second = ({identity(each): each for each in of.objects} for of in (made, make("test-2", "small")))
    shared = first.keys() & second.keys()
    assert {kind for _, kind, _ in shared} == {"CustomResourceDefinition.apiextensions.k8s.io"}
    assert all(first[name] == second[name] for name in shared)


def test_cluster_scoped_names_contain_the_environment(made: Made) -> None:
    for each in made.objects:
        if "namespace" not in each["metadata"] and each["kind"] != "CustomResourceDefinition":
            assert "kinora-test" in each["metadata"]["name"]


def test_definitions_are_retained_on_destroy(made: Made) -> None:
    definitions = made.of("CustomResourceDefinition")
    assert {"virtualservices.networking.istio.io", "authorizationpolicies.security.istio.io"} <= {
        each["metadata"]["name"] for each in definitions
    }
    for (kind, name), options in made.options.items():
        assert options.retainOnDelete == (kind == "CustomResourceDefinition"), name


def test_definitions_match_the_istio_version() -> None:
    assert upstream.listed()["istio-crds"].version == mesh.VERSION
    (definitions,) = upstream.files("istio-crds")
    assert definitions.read_bytes() == (CHARTS / "base" / "files" / definitions.name).read_bytes()


def test_istiod_selects_namespaces_of_its_environment(made: Made) -> None:
    (selector,) = mesh_config(made)["discoverySelectors"]
    namespaces = {each["metadata"]["name"]: each["metadata"]["labels"] for each in made.of("Namespace")}
    assert all(selector["matchLabels"].items() <= labels.items() for labels in namespaces.values())
    meshed = {name for name, labels in namespaces.items() if labels.get("istio.io/rev") == mesh.revision("test")}
    assert meshed == {"kinora-test-apps", "kinora-test-gateway"}
    (injector,) = made.of("MutatingWebhookConfiguration")
    for webhook in injector["webhooks"]:
        selectors = [webhook["namespaceSelector"], webhook["objectSelector"]]
        wanted = [term for each in selectors for term in each["matchExpressions"] if term["operator"] == "In"]
        assert wanted == [{"key": "istio.io/rev", "operator": "In", "values": [mesh.revision("test")]}]


def test_webhook_validates_policies_of_its_environment(made: Made) -> None:
    (validator,) = made.of("ValidatingWebhookConfiguration")
    (webhook,) = validator["webhooks"]
    (term,) = webhook["objectSelector"]["matchExpressions"]
    assert term == {"key": "istio.io/rev", "operator": "In", "values": [mesh.revision("test")]}
    assert webhook["failurePolicy"] == "Fail"


def test_fields_written_by_istiod_are_ignored(made: Made) -> None:
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        (configuration,) = made.of(kind)
        options = made.options[kind, configuration["metadata"]["name"]]
        assert list(options.ignoreChanges) == ["webhooks[*].clientConfig.caBundle"]
        assert not any("caBundle" in webhook["clientConfig"] for webhook in configuration["webhooks"])


# --- what runs -------------------------------------------------------------------------------------------------------


def test_istiod_violates_no_policy(made: Made) -> None:
    assert not [sentence for each in made.objects for sentence in policies.violations(each)]


@pytest.mark.parametrize("size", list(SIZES))
def test_istiod_has_the_replicas_and_resources_of_the_size(size: config.Size) -> None:
    sized, sizes = make(size=size), SIZES[size]
    spec = istiod(sized)["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["replicas"] == sizes.replicas
    assert container["resources"]["requests"] == {"cpu": f"{sizes.istiod.cpu}m", "memory": f"{sizes.istiod.memory}Mi"}
    assert container["resources"]["limits"]["memory"] == f"{sizes.istiod.memory}Mi"
    assert not sized.of("HorizontalPodAutoscaler")
    assert [each["spec"]["maxUnavailable"] for each in sized.of("PodDisruptionBudget")] == [1] * (sizes.replicas > 1)


def test_every_image_has_the_version(made: Made) -> None:
    images = [container["image"] for each in made.objects for container in policies.containers(each)]
    assert sorted(images) == [f"docker.io/istio/install-cni:{mesh.VERSION}", f"docker.io/istio/pilot:{mesh.VERSION}"]


def test_istiod_cannot_create_workloads(made: Made) -> None:
    """Gateway deployment is off: permission to create Deployments in every namespace would amount to cluster admin."""
    writes = {
        resource
        for role in made.of("ClusterRole")
        for rule in role["rules"]
        if {"create", "*"} & set(rule["verbs"])
        for resource in rule["resources"]
    }
    assert not writes & {"deployments", "daemonsets", "pods", "serviceaccounts", "services", "secrets", "*"}


def test_node_agent_is_installed_only_if_enabled(made: Made) -> None:
    without = make(cni=False)
    assert [each["metadata"]["name"] for each in made.of("DaemonSet")] == ["istio-cni-node"]
    names = [name for each in without.objects if "cni" in (name := each["metadata"]["name"])]
    assert not names
    # The pods rely on it anyway: another environment installs it.
    pod = inject(without.objects, "test", a_service())["spec"]
    assert [each["name"] for each in pod["initContainers"]] == ["istio-validation", "istio-proxy"]


def test_istiod_network_policies(made: Made) -> None:
    policy = made.find("NetworkPolicy", "istiod")["spec"]
    open_to = {
        port["port"]: sorted(
            each["namespaceSelector"]["matchLabels"]["kinora.io/role"] for each in rule.get("from", [])
        )
        for rule in policy["ingress"]
        for port in rule["ports"]
    }
    assert open_to == {15012: ["apps", "gateway"], 15014: ["monitoring"], 15017: []}
    template = istiod(made)["spec"]["template"]
    assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    assert open_to.keys() <= {port["containerPort"] for port in container["ports"]}


# --- effects on pods ------------------------------------------------------------------------------------------


def test_mesh_defaults_deny_egress_and_disable_retries(made: Made) -> None:
    given = mesh_config(made)
    assert given["outboundTrafficPolicy"] == {"mode": "REGISTRY_ONLY"}
    assert given["defaultHttpRetryPolicy"] == {"attempts": 0}
    assert given["rootNamespace"] == "kinora-test-mesh"


def a_service() -> Manifest:
    """A Deployment of the profile *restricted*, with everything that Istio modifies."""
    container = {
        "name": "main",
        "image": "registry.example.org/service:1",
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}},
    }
    labels = {"app.kubernetes.io/name": "service"}
    template = {
        "metadata": {
            "labels": labels,
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"},
        },
        "spec": {
            "serviceAccountName": "service",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "service", "namespace": "kinora-test-apps"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


@pytest.fixture(scope="module")
def meshed(made: Made) -> Manifest:
    """The service's pod template with its proxy."""
    return inject(made.objects, "test", a_service())


def test_meshed_pod_violates_no_policy(meshed: Manifest) -> None:
    service = a_service()
    service["spec"]["template"] = meshed
    assert not list(policies.violations(service))


def test_proxy_starts_before_and_stops_after_the_service(meshed: Manifest) -> None:
    proxy = next(each for each in meshed["spec"]["initContainers"] if each["name"] == "istio-proxy")
    assert proxy["restartPolicy"] == "Always"
    assert proxy["image"] == f"docker.io/istio/proxyv2:{mesh.VERSION}"
    assert proxy["startupProbe"]


def test_proxy_resources_are_small(meshed: Manifest) -> None:
    for each in meshed["spec"]["initContainers"]:
        assert each["resources"]["requests"] == mesh.SIDECAR["requests"]
        assert each["resources"]["limits"]["memory"] == mesh.SIDECAR["limits"]["memory"]


def test_metrics_and_probes_bypass_mesh_policies(meshed: Manifest) -> None:
    """Prometheus and the kubelet have no identity in the mesh: they use the proxy's own port."""
    annotations = meshed["metadata"]["annotations"]
    assert (annotations["prometheus.io/port"], annotations["prometheus.io/path"]) == ("15020", "/stats/prometheus")
    (main,) = meshed["spec"]["containers"]
    assert main["readinessProbe"]["httpGet"] == {"path": "/app-health/main/readyz", "port": 15020}


# --- helm ------------------------------------------------------------------------------------------------------------


def test_missing_chart_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"The chart istiod is not in .*: `make tools`"):
        helm.template(json.dumps({"chart": "istiod", "release_name": "istiod"}), tmp_path)


def test_missing_program_is_reported() -> None:
    with pytest.raises(Unavailable, match="no-such-program is missing: `make tools`"):
        helm.program("no-such-program")


def test_helm_error_is_reported() -> None:
    with pytest.raises(ValueError, match="helm cannot render istiod: "):
        helm.template(json.dumps({"chart": "istiod", "release_name": "Not a name"}), CHARTS)
