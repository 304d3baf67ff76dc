"""charts/service: rendering of each kind, validation, and checks of all committed releases."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import yaml
from cluster import Cluster
from references import named

import charts
from kinora_environment import gitops, needs, render
from kinora_environment.gateway import default_middlewares
from kinora_environment.mesh import revision
from kinora_environment.place import namespace_name
from kinora_environment.policies import containers, pod_of, violations
from kinora_environment.render import Rendered, identity
from kinora_environment.sizes import SIZES

Manifest = dict[str, Any]
Values = dict[str, Any]

SMALL: Values = {
    "ports": {"http": 8000},
    "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
}
FACTS: Values = {
    "name": "test",
    "publicUrl": "https://test.example",
    "mesh": False,
    "monitoring": "single",
    "keda": False,
}
GATEWAY: Values = {"from": ["gateway"], "port": "http"}


def chart(workload: Values | None = None, environment: Values | None = None, **values: Any) -> list[Manifest]:
    """A release with one workload, `one`: the given values in addition to the required ones."""
    given = {
        "app": "some",
        "version": "1.2.3",
        "environment": {**FACTS, **(environment or {})},
        "workloads": {"one": {**SMALL, **(workload or {})}},
        **values,
    }
    return charts.template("service", "some", [], given)


def kinds(objects: list[Manifest]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for each in objects:
        found.setdefault(each["kind"], []).append(each)
    return found


def of(objects: list[Manifest], kind: str, name: str = "one") -> Any:
    (found,) = (each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found["spec"]


def container(objects: list[Manifest], kind: str = "Deployment", name: str = "one") -> Any:
    (found,) = of(objects, kind, name)["template"]["spec"]["containers"]
    return found


def variables(objects: list[Manifest]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(objects)["env"]}


# --- each kind -------------------------------------------------------------------------------------------------------


def test_minimal_values_render_a_complete_workload() -> None:
    objects = chart()
    assert kinds(objects).keys() == {
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    }
    for each in objects:
        assert (each["metadata"]["name"], each["metadata"]["namespace"]) == ("one", "kinora-test-apps")
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "some"
        assert not list(violations(each))


def test_pod_has_no_privileges_by_default() -> None:
    pod = of(chart(), "Deployment")["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == "one"
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (only,) = pod["containers"]
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_own_image_gets_common_variables() -> None:
    given = {"image": "other", "ports": {"http": 8000, "grpc": 9000}, "publicUrl": True, "env": {"KINORA_X": "true"}}
    objects = chart(given)
    assert container(objects)["image"] == "ghcr.io/kinora-platform/kinora-other:1.2.3"
    assert container(chart(registry="registry.example:5000/k"))["image"] == "registry.example:5000/k/kinora-one:1.2.3"
    told = variables(objects)
    assert told.pop("KINORA_TRUSTED_PROXIES").startswith("127.0.0.0/8,10.0.0.0/8,")
    behind = chart(given, environment={"trustedAddresses": ["10.1.0.0/16", "fd00::/8"]})
    assert variables(behind)["KINORA_LOAD_BALANCERS"] == "10.1.0.0/16,fd00::/8"
    assert told == {
        "KINORA_HTTP_HOST": "0.0.0.0",  # noqa: S104
        "KINORA_HTTP_PORT": "8000",
        "KINORA_GRPC_PORT": "9000",
        "KINORA_DRAIN_TIMEOUT_SECONDS": "20",
        "KINORA_PUBLIC_URL": "https://test.example",
        "KINORA_X": "true",
    }


def test_foreign_image_gets_only_given_variables() -> None:
    objects = chart(
        {"image": "docker.io/some/thing:v1", "command": ["thing", "-s3=$(KINORA_S3_URL)"], "env": {"A": "b"}}
    )
    assert container(objects)["image"] == "docker.io/some/thing:v1"
    assert container(objects)["command"] == ["thing", "-s3=$(KINORA_S3_URL)"]
    assert variables(objects) == {"A": "b"}


def test_secrets_use_the_identity() -> None:
    given = {"secrets": ["postgres", "keys"]}
    assert container(chart(given))["envFrom"] == [{"secretRef": {"name": f"one-{each}"}} for each in given["secrets"]]
    assert container(chart({**given, "identity": "other"}))["envFrom"][0] == {"secretRef": {"name": "other-postgres"}}
    assert "envFrom" not in container(chart())


def test_readiness_and_liveness_probes() -> None:
    only = container(chart())
    assert only["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert only["livenessProbe"]["httpGet"] == only["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    other = container(chart({"probes": {"ready": "/metrics", "alive": "/alive"}}))
    assert other["readinessProbe"]["httpGet"]["path"] == "/metrics"
    assert other["livenessProbe"]["httpGet"]["path"] == "/alive"


@pytest.mark.parametrize(("delay", "timeout"), [(10, 20), (3, 50)])
def test_termination_grace_covers_drain(delay: int, timeout: int) -> None:
    objects = chart({"drain": {"delaySeconds": delay, "timeoutSeconds": timeout}})
    assert container(objects)["lifecycle"] == {"preStop": {"sleep": {"seconds": delay}}}
    assert variables(objects)["KINORA_DRAIN_TIMEOUT_SECONDS"] == str(timeout)
    assert of(objects, "Deployment")["template"]["spec"]["terminationGracePeriodSeconds"] == delay + timeout + 15


def test_workload_without_callers_has_no_drain_delay() -> None:
    assert "lifecycle" not in container(chart({"drain": {"delaySeconds": 0}}))


def test_enabling_the_mesh_restarts_pods() -> None:
    """A webhook injects proxies only into new pods, and a changed template creates new pods."""
    without, meshed = (of(chart(environment={"mesh": mesh}), "Deployment")["template"] for mesh in (False, True))
    added = meshed["metadata"]["labels"].items() - without["metadata"]["labels"].items()
    # Also selected by istiod (kinora_environment/mesh.py).
    assert added == {("istio.io/rev", revision("test"))}
    assert without["metadata"]["labels"].items() < meshed["metadata"]["labels"].items()


def test_rolling_update_keeps_all_replicas_available() -> None:
    strategy = of(chart(), "Deployment")["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_pods_are_spread_over_nodes_and_zones() -> None:
    spread = of(chart(), "Deployment")["template"]["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for each in spread:
        assert each["labelSelector"] == {"matchLabels": {"app.kubernetes.io/name": "one"}}
        # A single node must suffice, as in the sandbox.
        assert each["whenUnsatisfiable"] == "ScheduleAnyway"


def test_scratch_folders_are_limited_and_requested() -> None:
    objects = chart({"scratch": {"/scratch/parts": 100}})
    pod = of(objects, "Deployment")["template"]["spec"]
    assert {each["name"]: each["emptyDir"]["sizeLimit"] for each in pod["volumes"]} == {
        "scratch-tmp": "16Mi",
        "scratch-scratch-parts": "100Mi",
    }
    assert {each["mountPath"]: each["name"] for each in container(objects)["volumeMounts"]} == {
        "/tmp": "scratch-tmp",  # noqa: S108
        "/scratch/parts": "scratch-scratch-parts",
    }
    resources = container(objects)["resources"]
    assert resources["requests"] == {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "180Mi"}
    assert resources["limits"] == {"memory": "128Mi", "ephemeral-storage": "180Mi"}


def test_service_has_the_ports_of_its_workload() -> None:
    service = of(chart({"ports": {"http": 8000, "grpc": 9000}}), "Service")
    assert {each["name"]: (each["port"], each["targetPort"]) for each in service["ports"]} == {
        "http": (8000, "http"),
        "grpc": (9000, "grpc"),
    }
    assert service["selector"] == {"app.kubernetes.io/name": "one"}
    assert "type" not in service


def test_migration_is_an_independent_presync_hook() -> None:
    objects = chart({"migrations": True, "secrets": ["postgres", "redis"], "identity": "other"})
    (job,) = kinds(objects)["Job"]
    hook = {
        "argocd.argoproj.io/hook": "PreSync",
        "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation",
    }
    assert job["metadata"]["annotations"] == hook
    (account,) = (each for each in kinds(objects)["ServiceAccount"] if each["metadata"]["name"] == "one-migrate")
    assert account["metadata"]["annotations"] == {**hook, "argocd.argoproj.io/sync-wave": "-2"}
    only = container(objects, "Job", "one-migrate")
    assert only["image"] == container(objects)["image"]
    assert only["command"] == ["python", "-m", "kinora_kit.migrate", "kinora_some"]
    assert only["envFrom"] == [{"secretRef": {"name": "other-postgres"}}]
    pod = job["spec"]["template"]
    assert pod["spec"]["serviceAccountName"] == "one-migrate"
    assert pod["spec"]["restartPolicy"] == "Never"
    # Without a proxy, which it would have to wait for; and the Service must not select it.
    assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] != "one"
    assert not list(violations(job))
    assert "Job" not in kinds(chart({"secrets": ["postgres"]}))


def test_migration_image_is_pulled_first_by_a_pod() -> None:
    objects = chart({"migrations": True, "secrets": ["postgres"]})
    (pod,) = kinds(objects)["Pod"]
    assert pod["metadata"]["annotations"] == {
        "argocd.argoproj.io/hook": "PreSync",
        "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation,HookSucceeded,HookFailed",
        "argocd.argoproj.io/sync-wave": "-1",
    }
    # Only for such a pod does Argo CD report a failure if its image cannot be pulled.
    assert pod["spec"]["restartPolicy"] == "Always"
    (only,), job = pod["spec"]["containers"], container(objects, "Job", "one-migrate")
    assert (only["image"], only["envFrom"]) == (job["image"], job["envFrom"])
    assert not list(violations(pod))


def test_cpu_autoscaler_owns_the_replicas() -> None:
    objects = chart({"autoscale": {"min": 2, "max": 5, "cpu": 70}})
    assert "replicas" not in of(objects, "Deployment")
    scaler = of(objects, "HorizontalPodAutoscaler")
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "one"}
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 5)
    (metric,) = scaler["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}


QUEUES: Values = {
    "secrets": ["rabbitmq"],
    "replicas": 3,
    "autoscale": {"min": 1, "max": 8, "queues": ["some.first", "some.bulk"], "messages": 4},
}


def test_queue_length_scales_with_keda() -> None:
    objects = chart(QUEUES, {"keda": True})
    assert "replicas" not in of(objects, "Deployment")
    scaled = of(objects, "ScaledObject")
    assert scaled["scaleTargetRef"] == {"name": "one"}
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (1, 8)
    assert scaled["fallback"]["replicas"] == 3
    assert [each["metadata"]["queueName"] for each in scaled["triggers"]] == ["some.first", "some.bulk"]
    for each in scaled["triggers"]:
        assert each["metadata"]["mode"] == "QueueLength"
        assert each["metadata"]["value"] == "4"
        # KEDA reads it from the workload's variables.
        assert each["metadata"]["hostFromEnv"] in charts.VARIABLES["rabbitmq"]


def test_without_keda_replicas_are_fixed() -> None:
    objects = chart(QUEUES)
    assert of(objects, "Deployment")["replicas"] == 3
    assert "ScaledObject" not in kinds(objects)


@pytest.mark.parametrize(
    ("given", "environment", "protected"),
    [
        ({"replicas": 1}, {}, False),
        ({"replicas": 2}, {}, True),
        ({"replicas": 2, "autoscale": {"min": 1, "max": 5, "cpu": 70}}, {}, False),
        ({"replicas": 1, "autoscale": {"min": 2, "max": 5, "cpu": 70}}, {}, True),
        (QUEUES, {}, True),
        (QUEUES, {"keda": True}, False),
    ],
)
def test_disruption_budget_allows_one_unavailable_replica(given: Values, environment: Values, protected: bool) -> None:
    objects = chart(given, environment)
    assert ("PodDisruptionBudget" in kinds(objects)) == protected
    if protected:
        assert of(objects, "PodDisruptionBudget") == {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {"app.kubernetes.io/name": "one"}},
        }


def role(name: str) -> Values:
    return {"namespaceSelector": {"matchLabels": {"kinora.io/environment": "test", "kinora.io/role": name}}}


def test_network_policy_allows_callers_and_prometheus() -> None:
    allowed = [
        {**GATEWAY, "paths": ["/some"]},
        {"from": ["gateway", "two"], "port": "http"},
        {"from": ["three"], "port": "grpc"},
    ]
    given = {"ports": {"http": 8000, "grpc": 9000}, "allowFrom": allowed}
    gateway = {**role("gateway"), "podSelector": {"matchLabels": {"app.kubernetes.io/name": "traefik"}}}
    pods = {name: {"podSelector": {"matchLabels": {"app.kubernetes.io/name": name}}} for name in ("two", "three")}
    for mesh, metrics in ((False, 8000), (True, 15020)):
        policy = of(chart(given, {"mesh": mesh}), "NetworkPolicy")
        assert policy["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "one"}}
        assert policy["policyTypes"] == ["Ingress"]
        assert policy["ingress"] == [
            {"from": [pods["three"]], "ports": [{"port": 9000, "protocol": "TCP"}]},
            {"from": [gateway, pods["two"]], "ports": [{"port": 8000, "protocol": "TCP"}]},
            {"from": [role("monitoring")], "ports": [{"port": metrics, "protocol": "TCP"}]},
        ]


def test_network_policy_denies_by_default() -> None:
    (only,) = of(chart(), "NetworkPolicy")["ingress"]
    assert only["from"] == [role("monitoring")]
    assert "AuthorizationPolicy" not in kinds(chart(environment={"mesh": True}))


def test_authorization_policy_allows_named_callers_and_paths() -> None:
    allowed = [{**GATEWAY, "notPaths": ["/metrics"]}, {"from": ["two"], "port": "grpc", "methods": ["POST"]}]
    given = {"ports": {"http": 8000, "grpc": 9000}, "allowFrom": allowed}
    assert "AuthorizationPolicy" not in kinds(chart(given))
    objects = chart(given, {"mesh": True})
    policy = of(objects, "AuthorizationPolicy")
    assert kinds(objects)["AuthorizationPolicy"][0]["metadata"]["labels"]["istio.io/rev"] == "kinora-test"
    assert policy["action"] == "ALLOW"
    assert policy["selector"] == {"matchLabels": {"app.kubernetes.io/name": "one"}}
    assert policy["rules"] == [
        {
            "from": [{"source": {"principals": ["cluster.local/ns/kinora-test-gateway/sa/traefik"]}}],
            "to": [{"operation": {"ports": ["8000"], "notPaths": ["/metrics"]}}],
        },
        {
            "from": [{"source": {"principals": ["cluster.local/ns/kinora-test-apps/sa/two"]}}],
            "to": [{"operation": {"ports": ["9000"], "methods": ["POST"]}}],
        },
    ]


@pytest.mark.parametrize(
    ("monitoring", "mesh", "monitored"),
    [("single", False, False), ("single", True, False), ("operator", True, False), ("operator", False, True)],
)
def test_metrics_are_scraped_once(monitoring: str, mesh: bool, monitored: bool) -> None:
    """Either by a ServiceMonitor or by annotations, which Prometheus reads in every mode."""
    objects = chart(environment={"monitoring": monitoring, "mesh": mesh})
    annotations = of(objects, "Deployment")["template"]["metadata"].get("annotations")
    if monitored:
        assert annotations is None
        monitor = of(objects, "ServiceMonitor")
        assert monitor["endpoints"][0]["port"] == "http"
        # As selected by Prometheus (kinora_environment/monitoring.py).
        assert kinds(objects)["ServiceMonitor"][0]["metadata"]["labels"]["kinora.io/environment"] == "test"
        assert kinds(objects)["Service"][0]["metadata"]["labels"].items() >= monitor["selector"]["matchLabels"].items()
    else:
        assert annotations == {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"}
        assert "ServiceMonitor" not in kinds(objects)


def test_route_matches_its_values() -> None:
    given = {
        "allowFrom": [GATEWAY],
        "routes": {
            "all": {"match": "PathPrefix(`/`)", "priority": 2, "middlewares": ["a", "b"]},
            "bytes": {"match": "Path(`/x`)", "service": "streams@file"},
        },
    }
    objects = chart(given)
    assert of(objects, "IngressRoute", "all") == {
        "routes": [
            {
                "kind": "Rule",
                "match": "PathPrefix(`/`)",
                "priority": 2,
                "middlewares": [{"name": "a"}, {"name": "b"}],
                "services": [{"name": "one", "port": "http"}],
            }
        ]
    }
    assert of(objects, "IngressRoute", "all-unavailable") == {
        "routes": [
            {
                "kind": "Rule",
                "match": "PathPrefix(`/`)",
                "priority": 1,
                "middlewares": [{"name": "unavailable-path"}],
                "services": [{"kind": "TraefikService", "name": "fallback@file"}],
            }
        ]
    }
    assert not [each for each in objects if each["metadata"]["name"] == "bytes-unavailable"]
    (bytes_,) = of(objects, "IngressRoute", "bytes")["routes"]
    assert bytes_["services"] == [{"kind": "TraefikService", "name": "streams@file"}]
    assert "middlewares" not in bytes_


@pytest.mark.parametrize(
    ("given", "mesh", "expected"),
    [
        ({}, True, {"passHostHeader": False}),
        ({"transport": "uploads"}, False, {"serversTransport": "uploads"}),
        ({"sticky": True}, False, {"strategy": "hrw"}),
        ({"sticky": True}, True, {"passHostHeader": False}),
    ],
)
def test_gateway_connection_options(given: Values, mesh: bool, expected: Values) -> None:
    objects = chart({**given, "allowFrom": [GATEWAY], "routes": {"r": {"match": "Path(`/`)"}}}, {"mesh": mesh})
    (service,) = of(objects, "IngressRoute", "r")["routes"][0]["services"]
    assert service == {"name": "one", "port": "http", **expected}


# --- validation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        ({"replica": 2}, "at '/workloads/one': additional properties 'replica' not allowed"),
        ({"replicas": 0}, "/workloads/one/replicas"),
        ({"user": 0}, "/workloads/one/user"),
        ({"ports": {"grpc": 9000}}, "at '/workloads/one/ports': missing property 'http'"),
        ({"ports": {"http": 80}}, "/workloads/one/ports/http"),
        ({"ports": {"http": 8000, "amqp": 5672}}, "additional properties 'amqp' not allowed"),
        ({"resources": {}}, "at '/workloads/one/resources': missing properties 'requests', 'limits'"),
        ({"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}, "missing property 'limits'"),
        ({"resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}}, "missing property 'memory'"),
        ({"resources": {**SMALL["resources"], "limits": {"memory": "128M"}}}, "/workloads/one/resources/limits/memory"),
        ({"env": {"A": 1}}, "at '/workloads/one/env/A': got number, want string"),
        ({"env": {"a": "1"}}, "at '/workloads/one/env': additional properties 'a' not allowed"),
        ({"secrets": ["postgress"]}, "/workloads/one/secrets/0"),
        ({"secrets": ["redis", "redis"]}, "/workloads/one/secrets"),
        ({"scratch": {"tmp": 1}}, "at '/workloads/one/scratch': additional properties 'tmp' not allowed"),
        ({"scratch": {"/work": "1Gi"}}, "/workloads/one/scratch/~1work"),
        ({"image": "docker.io/some/thing"}, "workloads.one.image: docker.io/some/thing has no version"),
        ({"image": "registry:5000/thing"}, "workloads.one.image: registry:5000/thing has no version"),
        ({"image": "docker.io/some/thing:latest"}, "/workloads/one/image"),
        ({"migrations": True}, "workloads.one.migrations: they require the database; add postgres to its secrets"),
        (
            {"migrations": True, "image": "docker.io/some/thing:1", "secrets": ["postgres"]},
            "workloads.one.migrations: only our own images have them, not docker.io/some/thing:1",
        ),
        ({"autoscale": {"min": 1, "max": 2}}, "workloads.one.autoscale: write either cpu or queues"),
        (
            {**QUEUES, "autoscale": {**QUEUES["autoscale"], "cpu": 70}},
            "workloads.one.autoscale: write either cpu or queues",
        ),
        (
            {"autoscale": {"min": 1, "max": 2, "queues": ["a"]}},
            "workloads.one.autoscale: messages and queues require each other",
        ),
        (
            {**QUEUES, "secrets": []},
            "workloads.one.autoscale: KEDA reads the queue length with its credentials; add rabbitmq to its secrets",
        ),
        ({"autoscale": {"min": 3, "max": 2, "cpu": 70}}, "workloads.one.autoscale: min is more than max"),
        ({"autoscale": {"max": 2, "cpu": 70}}, "missing property 'min'"),
        ({"allowFrom": []}, "/workloads/one/allowFrom"),
        ({"allowFrom": [{"from": ["gateway"], "port": "amqp"}]}, "/workloads/one/allowFrom/0/port"),
        ({"allowFrom": [{**GATEWAY, "path": ["/"]}]}, "additional properties 'path' not allowed"),
        ({"allowFrom": [{**GATEWAY, "methods": ["get"]}]}, "/workloads/one/allowFrom/0/methods/0"),
        ({"allowFrom": [{"from": ["two"], "port": "grpc"}]}, "workloads.one.allowFrom: it has no port grpc"),
        ({"allowFrom": [{"from": ["one"], "port": "http"}]}, "workloads.one.allowFrom: it names itself"),
        (
            {"routes": {"r": {"match": "Path(`/`)"}}},
            "workloads.one.routes: the gateway may not call it; add {from: [gateway], port: http} to its allowFrom",
        ),
        (
            {"allowFrom": [GATEWAY], "routes": {"r": {"rule": "Path(`/`)"}}},
            "additional properties 'rule' not allowed",
        ),
        (
            {"allowFrom": [GATEWAY], "routes": {"r": {"match": "Path(`/`)", "service": "streams"}}},
            "/workloads/one/routes/r/service",
        ),
        ({"drain": {"delaySeconds": -1}}, "/workloads/one/drain/delaySeconds"),
        ({"probes": {"ready": "readyz"}}, "/workloads/one/probes/ready"),
    ],
)
def test_invalid_workload_is_rejected(workload: Values, said: str) -> None:
    with pytest.raises(charts.Refused, match=re.escape(said)):
        chart(workload)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"app": ""}, "app is missing: write `app: <name of its folder>` into apps/<app>/deploy/values.yaml"),
        (
            {"version": ""},
            "version is missing: write `version: 0.1.0` into apps/some/deploy/envs/<environment>/version.yaml",
        ),
        ({"version": 0.1}, "at '/version': got number, want string"),
        ({"version": "latest"}, "/version"),
        ({"environment": {"name": ""}}, "environment is incomplete: it requires at least {name, publicUrl}"),
        ({"environment": {**FACTS, "publicUrl": "https://x/"}}, "/environment/publicUrl"),
        ({"environment": {**FACTS, "meshed": True}}, "additional properties 'meshed' not allowed"),
        ({"environment": {**FACTS, "monitoring": "none"}}, "/environment/monitoring"),
        ({"replicas": 2}, "additional properties 'replicas' not allowed"),
        ({"workloads": {}}, "/workloads"),
        ({"workloads": {"One": SMALL}}, "at '/workloads': additional properties 'One' not allowed"),
        ({"workloads": {"one": {"ports": {"http": 8000}}}}, "at '/workloads/one': missing property 'resources'"),
        ({"defaults": {"replica": 1}}, "at '/defaults': additional properties 'replica' not allowed"),
    ],
)
def test_invalid_release_is_rejected(values: Values, said: str) -> None:
    with pytest.raises(charts.Refused, match=re.escape(said)):
        chart(**values)


# --- committed releases -----------------------------------------------------------------------------------------------

RELEASES = [(app, environment) for app in charts.apps() for environment in charts.environments(app)]


def services(stack: str) -> list[Manifest]:
    return [each for app, environment in RELEASES if environment == stack for each in charts.service(app, stack)]


def released(stack: str) -> list[Manifest]:
    """All objects of our two charts that Argo CD deploys into the services' namespace."""
    return [*services(stack), *charts.gateway(stack)]


def test_every_app_is_in_every_environment() -> None:
    apps = {file.parents[1].name for file in needs.APPS.glob("*/deploy/needs.yaml")}
    assert set(RELEASES) == {(app, stack) for app in apps for stack in render.stacks()}


@pytest.mark.parametrize("stack", render.stacks())
def test_releases_violate_no_policy(stack: str) -> None:
    assert not [each for manifest in released(stack) for each in violations(manifest)]


@pytest.mark.parametrize("stack", render.stacks())
def test_released_objects_have_unique_names_and_allowed_kinds(stack: str, rendered: Callable[[str], Rendered]) -> None:
    objects = released(stack)
    names = [identity(each) for each in [*objects, *rendered(stack).objects]]
    assert len(set(names)) == len(names)
    assert {each["metadata"]["namespace"] for each in objects} == {namespace_name(stack, "apps")}
    for layer, found in (("services", services(stack)), ("gateway", charts.gateway(stack))):
        kinds = gitops.LAYERS[layer].kinds
        assert not [each for each in found if each["kind"] not in kinds[each["apiVersion"].rpartition("/")[0]]]


@pytest.mark.parametrize("stack", render.stacks())
def test_references_of_releases_resolve(stack: str, rendered: Callable[[str], Rendered]) -> None:
    objects = released(stack)
    there = {
        (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
        for each in [*objects, *rendered(stack).objects]
    }
    assert {reference for each in objects for reference in named(each)} <= there
    middlewares = {name for kind, _, name in there if kind == "Middleware"}
    for each in objects:
        if each["kind"] == "IngressRoute":
            for route in each["spec"]["routes"]:
                assert {middleware["name"] for middleware in route.get("middlewares", [])} <= middlewares
                for service in route["services"]:
                    transport = service.get("serversTransport")
                    namespace = namespace_name(stack, "apps")
                    assert transport is None or ("ServersTransport", namespace, transport) in there


@pytest.mark.parametrize("stack", render.stacks())
def test_secrets_contain_the_expected_variables(stack: str, rendered: Callable[[str], Rendered]) -> None:
    namespace = namespace_name(stack, "apps")
    made = {
        each["metadata"]["name"]: set(each["stringData"])
        for each in rendered(stack).objects
        if each["kind"] == "Secret" and each["metadata"]["namespace"] == namespace
    }
    for name, need in needs.read().items():
        for store in need.stores():
            assert made[f"{name}-{store}"] == set(charts.VARIABLES[store])
        if need.keys:
            assert made[f"{name}-keys"] == {f"KINORA_{key.upper()}" for key in need.keys}


@pytest.mark.parametrize("stack", render.stacks())
def test_keda_can_reach_the_broker(stack: str, rendered: Callable[[str], Rendered]) -> None:
    counted = "ScaledObject" in kinds(services(stack))
    assert counted == charts.facts(stack)["keda"]
    found = [each["spec"] for each in rendered(stack).objects if each["metadata"]["name"] == "rabbitmq-keda"]
    assert len(found) == counted
    for each in found:
        assert each["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "rabbitmq"}}
        assert each["ingress"] == [
            {
                "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}],
                "ports": [{"port": 5672, "protocol": "TCP"}],
            }
        ]


def quantity(text: str) -> Decimal:
    """In cores, or bytes."""
    units = {"m": Decimal("0.001"), "Mi": Decimal(2**20), "Gi": Decimal(2**30)}
    number, unit = re.fullmatch(r"(\d+)(m|Mi|Gi|)", text).groups()  # type: ignore[union-attr]
    return Decimal(number) * units.get(unit, Decimal(1))


SIDECAR = {"cpu": "20m", "memory": "256Mi", "ephemeral-storage": "64Mi"}


@pytest.mark.parametrize("stack", render.stacks())
def test_releases_fit_into_the_quota_during_a_rollout(stack: str) -> None:
    """With autoscalers at their maximum. Memory counts by its limit."""
    objects = released(stack)
    facts = charts.facts(stack)
    most = {
        each["metadata"]["name"]: each["spec"].get("maxReplicas", each["spec"].get("maxReplicaCount"))
        for each in objects
        if each["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    }
    quota = SIZES[render.configuration(stack).size].apps
    allowed = {
        "cpu": Decimal(quota.cpu) / 1000,
        "memory": Decimal(quota.memory * 2**20),
        "ephemeral-storage": Decimal(quota.disk * 2**20),
    }
    for resource, limit in allowed.items():
        used, largest = Decimal(0), Decimal(0)
        for each in objects:
            if each["kind"] != "Deployment":
                continue
            (only,) = containers(each)
            given = only["resources"]["limits" if resource == "memory" else "requests"][resource]
            one = quantity(given) + (quantity(SIDECAR[resource]) if facts["mesh"] else 0)
            used += one * (most.get(each["metadata"]["name"]) or each["spec"]["replicas"])
            largest = max(largest, one)
        assert used + largest <= limit, resource


def test_gateway_chart_omits_default_middlewares() -> None:
    values = yaml.safe_load((charts.ROOT / "charts" / "gateway" / "values.yaml").read_text())
    assert values["everywhere"] == default_middlewares()
    own = {each["metadata"]["name"] for each in charts.gateway("dev") if each["kind"] == "Middleware"}
    assert not own & set(default_middlewares())


@pytest.mark.parametrize(
    ("trusted", "strategy"), [([], {"depth": 0, "ipv6Subnet": 64}), (["10.0.0.0/8"], {"excludedIPs": ["10.0.0.0/8"]})]
)
def test_throttle_counts_clients_and_not_the_load_balancer(trusted: list[str], strategy: dict[str, Any]) -> None:
    given = {"environment": {"name": "test", "trustedAddresses": trusted}}
    objects = charts.template("gateway", "gateway", charts.GATEWAY_FILES, given)
    specs = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "Middleware"}
    limit = specs["throttle"]["rateLimit"]
    assert (limit["average"], limit["burst"], limit["sourceCriterion"]) == (100, 200, {"ipStrategy": strategy})
    uploads = specs["uploads-per-user"]["inFlightReq"]
    assert uploads["sourceCriterion"] == {"requestHeaderName": "X-User-Id"}, "which a user's addresses share"


def test_unknown_service_address_is_rejected() -> None:
    strange = {"strange": {"forwardAuth": {"address": "http://127.0.0.1:9999/x"}}}
    given = {"environment": {"name": "test"}, "http": {"middlewares": strange}}
    with pytest.raises(
        charts.Refused, match=re.escape("no service in services.yml has this address: http://127.0.0.1:9999/x")
    ):
        charts.template("gateway", "gateway", charts.GATEWAY_FILES, given)


# --- a real API server -----------------------------------------------------------------------------------------------


@pytest.mark.sample(2)
@pytest.mark.parametrize("stack", render.stacks())
def test_releases_apply_without_warnings_and_are_idempotent(
    api_server: Cluster, rendered: Callable[[str], Rendered], stack: str
) -> None:
    # The namespaces enforce their Pod Security profiles.
    api_server.apply([each for each in rendered(stack).objects if each["kind"] == "Namespace"])
    objects = released(stack)
    first = api_server.apply(objects)
    assert len(first) == len(objects)
    assert api_server.apply(objects) == first


def test_api_server_accepts_every_kind_of_the_chart(api_server: Cluster, rendered: Callable[[str], Rendered]) -> None:
    """Including kinds that no committed environment uses: Prometheus Operator without a mesh."""
    api_server.apply([each for each in rendered("dev").objects if each["kind"] == "Namespace"])
    objects = chart(
        {**QUEUES, "migrations": True, "secrets": ["postgres", "rabbitmq"], "allowFrom": [GATEWAY], "sticky": True},
        {"name": "dev", "keda": True, "monitoring": "operator"},
    )
    assert {"ScaledObject", "ServiceMonitor", "Job"} <= kinds(objects).keys()
    assert all(pod_of(each) is None or not list(violations(each)) for each in objects)
    assert api_server.apply(objects) == api_server.apply(objects)
