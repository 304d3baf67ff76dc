"""Properties of every object of every committed environment."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pulumi
import pytest
from references import Key, hosts, named, services

from kinora_environment import config, needs, plan, render
from kinora_environment.place import namespace_name, prefix
from kinora_environment.policies import containers, pod_of
from kinora_environment.render import Rendered, identity

NOON = "2026-05-01T12:00:00+00:00"
RANDOM = re.compile(r"\$\{([a-z0-9-]+)\}")


def key(manifest: Mapping[str, Any]) -> Key:
    return manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]


def test_object_names_are_unique(environment: Rendered) -> None:
    names = [identity(each) for each in environment.objects]
    assert len(names) == len(set(names))


def test_objects_belong_to_the_environment(environment: Rendered) -> None:
    ours = {each["metadata"]["name"] for each in environment.objects if each["kind"] == "Namespace"}
    for each in environment.objects:
        namespace = each["metadata"].get("namespace")
        if namespace is None and each["kind"] != "CustomResourceDefinition":
            assert prefix(environment.stack) in each["metadata"]["name"], identity(each)
        elif namespace is not None:
            assert namespace in ours, identity(each)


def test_stacks_share_no_names(rendered: Callable[[str], Rendered]) -> None:
    """Except custom resource definitions: they belong to the cluster, are the same for all, and outlive every stack."""
    for one, other in itertools.combinations(render.stacks(), 2):
        first, second = ({identity(each): each for each in rendered(stack).objects} for stack in (one, other))
        shared = first.keys() & second.keys()
        assert {kind for _, kind, _ in shared} <= {"CustomResourceDefinition.apiextensions.k8s.io"}
        assert all(first[name] == second[name] for name in shared)


def test_every_reference_resolves(environment: Rendered) -> None:
    there: set[Key] = set()
    for each in environment.objects:
        there.add(key(each))
        for data in ("data", "stringData"):
            there |= {(f"{each['kind']} key {name}", *key(each)[1:]) for name in each.get(data) or {}}
    there |= {("Service", namespace, name) for namespace, name in services(environment.objects)}
    there |= prerequisites(environment)
    missing = {
        (identity(each), wanted) for each in environment.objects for wanted in named(each) if wanted not in there
    }
    assert not missing


def prerequisites(environment: Rendered) -> set[Key]:
    """The Secrets that `make plan` asks people to provide, and objects that the cluster's controllers create."""
    given = render.configuration(environment.stack)
    found: set[Key] = set()
    for sentence in plan.prerequisites(environment.stack, given):
        if match := re.match(r"Secret (\S+) \(.*\) in (\S+):", sentence):
            found.add(("Secret", match[2], match[1]))
    return found


def test_every_host_is_a_service_with_that_port(environment: Rendered) -> None:
    there = services(environment.objects)
    apps = namespace_name(environment.stack, "apps")
    for each in environment.objects:
        for namespace, service, port in hosts(each):
            if namespace == apps or not namespace.startswith(prefix(environment.stack) + "-"):
                continue  # deployed later, or outside of the environment
            assert (namespace, service) in there, (identity(each), namespace, service)
            assert port is None or port in there[namespace, service], (identity(each), service, port)


def test_every_service_finds_pods_that_listen(environment: Rendered) -> None:
    for each in environment.objects:
        if each["kind"] != "Service" or "selector" not in each["spec"]:
            continue
        pods = list(pods_of(environment, each["metadata"]["namespace"], each["spec"]["selector"]))
        assert pods, f"{identity(each)} selects nothing"
        for port in each["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            for pod in pods:
                listening = [p for container in containers(pod) for p in container.get("ports", [])]
                assert target in {p.get("name") for p in listening} | {p["containerPort"] for p in listening}, identity(
                    each
                )


def test_every_network_policy_selects_pods(environment: Rendered) -> None:
    custom = {"cnpg.io/cluster", "app.kubernetes.io/component", "app", "app.kubernetes.io/instance"}
    for each in environment.objects:
        if each["kind"] != "NetworkPolicy":
            continue
        labels = each["spec"]["podSelector"].get("matchLabels", {})
        if labels and not set(labels) & custom:
            found = list(pods_of(environment, each["metadata"]["namespace"], labels))
            assert found or labels["app.kubernetes.io/name"] in operated(environment), (
                f"{identity(each)} selects nothing"
            )


def operated(environment: Rendered) -> set[str]:
    """The names of the workloads that operators run pods for."""
    kinds = ("Cluster", "RabbitmqCluster", "MongoDBCommunity", "Prometheus", "Alertmanager")
    named = {each["metadata"]["name"] for each in environment.objects if each["kind"] in kinds}
    return named | {kind.lower() for kind in kinds}


def pods_of(environment: Rendered, namespace: str, labels: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for each in environment.objects:
        if pod_of(each) is None or each["metadata"].get("namespace") != namespace:
            continue
        template = (
            each["spec"]["jobTemplate"]["spec"]["template"] if each["kind"] == "CronJob" else each["spec"]["template"]
        )
        if labels.items() <= template["metadata"].get("labels", {}).items():
            yield each


def test_only_the_gateway_is_public(environment: Rendered) -> None:
    public = [
        each["metadata"]["namespace"]
        for each in environment.objects
        if each["kind"] == "Service" and each["spec"].get("type", "ClusterIP") != "ClusterIP"
    ]
    assert public == [namespace_name(environment.stack, "gateway")]


def test_namespaces_deny_traffic_by_default(environment: Rendered) -> None:
    namespaces = {each["metadata"]["name"] for each in environment.objects if each["kind"] == "Namespace"}
    for direction in ("Ingress", "Egress"):
        closed = {
            each["metadata"]["namespace"]
            for each in environment.objects
            if each["kind"] == "NetworkPolicy"
            and each["spec"]["podSelector"] == {}
            and each["spec"]["policyTypes"] == [direction]
        }
        assert closed == namespaces


def test_network_policies_have_one_direction(environment: Rendered) -> None:
    """One network plugin treats egress that such a policy allows for one pod as ingress to the next."""
    for each in environment.objects:
        if each["kind"] == "NetworkPolicy" and each["metadata"]["labels"].get("app.kubernetes.io/part-of") == "kinora":
            assert len(each["spec"]["policyTypes"]) == 1, each["metadata"]["name"]


def test_services_may_connect_only_to_services_and_stores(environment: Rendered) -> None:
    (policy,) = (
        each
        for each in environment.objects
        if each["kind"] == "NetworkPolicy"
        and each["metadata"]["name"] == "default-egress"
        and each["metadata"]["namespace"].endswith("-apps")
    )
    names, asked = policy["spec"]["egress"]
    assert {each["port"] for each in names["ports"]} == {53}
    roles = {each["namespaceSelector"]["matchLabels"]["kinora.io/role"] for each in asked["to"]}
    assert roles - {"mesh"} == {"apps", "stores"}


def test_namespaces_enforce_the_restricted_profile(environment: Rendered) -> None:
    for each in environment.objects:
        if each["kind"] == "Namespace":
            labels = each["metadata"]["labels"]
            agent = each["metadata"]["name"].endswith("-mesh") and render.configuration(environment.stack).mesh.cni
            expected = "privileged" if agent else "restricted"
            assert labels["pod-security.kubernetes.io/enforce"] == expected


def test_random_values_appear_only_in_secrets(environment: Rendered) -> None:
    """Random values, and values derived from them, appear only in encrypted inputs of Secrets."""
    for resource in environment.resources:
        for name, value in resource.inputs.items():
            if RANDOM.search(json.dumps(value)):
                assert resource.type == "kubernetes:core/v1:Secret", resource.name
                assert name in resource.secret, f"{resource.name}.{name} is stored in plain text"


def test_every_random_value_is_used(environment: Rendered) -> None:
    made = {each.name for each in environment.resources if each.type.startswith("random:")}
    used = {name for each in environment.objects for name in RANDOM.findall(json.dumps(each))}
    assert used == made


def test_identities_get_exactly_their_needs(environment: Rendered) -> None:
    apps = namespace_name(environment.stack, "apps")
    given = {
        each["metadata"]["name"]
        for each in environment.objects
        if each["kind"] == "Secret" and each["metadata"]["namespace"] == apps
    }
    wanted = {f"{name}-{store}" for name, need in needs.read().items() for store in need.stores()}
    wanted |= {f"{name}-keys" for name, need in needs.read().items() if need.keys}
    assert given == wanted


def test_identities_share_no_password(environment: Rendered) -> None:
    apps = namespace_name(environment.stack, "apps")
    seen: dict[str, str] = {}
    for each in environment.objects:
        if each["kind"] == "Secret" and each["metadata"]["namespace"] == apps:
            for name in RANDOM.findall(json.dumps(each["stringData"])):
                owner = each["metadata"]["name"]
                assert seen.setdefault(name, owner) == owner


def test_prod_retains_volumes_and_protects_data(rendered: Callable[[str], Rendered]) -> None:
    for each in rendered("prod").objects:
        if each["kind"] == "StatefulSet" and each["spec"].get("volumeClaimTemplates"):
            policy = each["spec"]["persistentVolumeClaimRetentionPolicy"]
            assert policy == {"whenDeleted": "Retain", "whenScaled": "Retain"}, identity(each)
        if each["kind"] == "Database":
            assert each["spec"]["databaseReclaimPolicy"] == "retain"


def test_volumes_are_deleted_only_in_disposable_environments(environment: Rendered) -> None:
    deleted = "Delete" if render.configuration(environment.stack).disposable else "Retain"
    for each in environment.objects:
        if each["kind"] == "StatefulSet" and each["spec"].get("volumeClaimTemplates"):
            policy = each["spec"]["persistentVolumeClaimRetentionPolicy"]
            assert policy == {"whenDeleted": deleted, "whenScaled": "Retain"}, identity(each)


def test_store_provisioning_is_repeated(environment: Rendered) -> None:
    jobs = {each["metadata"]["name"]: each for each in environment.objects if each["kind"] == "Job"}
    repeated = {each["metadata"]["name"]: each for each in environment.objects if each["kind"] == "CronJob"}
    for name, once in jobs.items():
        task = repeated[name.rpartition("-")[0]]["spec"]["jobTemplate"]["spec"]
        assert task["template"] == once["spec"]["template"]


def test_prod_is_larger_and_more_available_than_dev(rendered: Callable[[str], Rendered]) -> None:
    dev, prod = ({part.name: part for part in plan.parts(rendered(stack))} for stack in ("dev", "prod"))
    for name in ("postgres", "mongo", "redis", "rabbitmq", "traefik"):
        assert prod[name].replicas > dev[name].replicas, name
        assert prod[name].need.memory > dev[name].need.memory, name
    assert {"ScheduledBackup"} <= {each["kind"] for each in rendered("prod").objects}


def test_replicas_have_a_disruption_budget_and_are_spread(environment: Rendered) -> None:
    budgets = {
        (each["metadata"]["namespace"], json.dumps(each["spec"]["selector"]["matchLabels"], sort_keys=True))
        for each in environment.objects
        if each["kind"] == "PodDisruptionBudget"
    }
    for each in environment.objects:
        if each["kind"] in ("Deployment", "StatefulSet") and each["spec"].get("replicas", 1) > 1:
            labels = json.dumps(each["spec"]["selector"]["matchLabels"], sort_keys=True)
            assert (each["metadata"]["namespace"], labels) in budgets, identity(each)


def test_every_volume_is_in_the_plan(environment: Rendered) -> None:
    storage = sum(part.need.storage for part in plan.parts(environment))
    assert storage > 0
    assert sum(part.need.memory for part in plan.parts(environment)) > 0


def test_outputs_describe_next_steps(environment: Rendered) -> None:
    assert environment.outputs.keys() >= {"public_url", "gateway", "grafana", "prometheus", "argocd", "next"}
    assert all(isinstance(value, str) and value for value in environment.outputs.values()), environment.outputs


def test_rendering_is_deterministic(environment: Rendered) -> None:
    again = render.render(environment.stack)
    assert again.objects == environment.objects


def test_no_output_is_a_secret(environment: Rendered) -> None:
    assert not RANDOM.search(json.dumps(environment.outputs))
    assert not any(isinstance(value, pulumi.Output) for value in environment.outputs.values())


@pytest.mark.parametrize("generation", [1, 2, 5])
def test_store_has_two_generations_and_service_the_newer(generation: int) -> None:
    given = render.configuration("dev").model_copy(update={"generations": {"auth-postgres": generation}})
    rendered = render.render("test", given)
    secrets = {
        each["metadata"]["name"]: each["stringData"]
        for each in rendered.objects
        if each["kind"] == "Secret" and "stringData" in each
    }
    assert f"auth_{generation}:${{auth-postgres-{generation}}}@" in secrets["auth-postgres"]["KINORA_POSTGRES_URL"]
    known = {name for name in secrets["postgres-provision"] if name.startswith("PASSWORD_AUTH_")}
    assert known == {f"PASSWORD_AUTH_{each}" for each in (generation - 1, generation) if each}


@pytest.mark.parametrize(
    ("store", "tls", "address", "port", "begins"),
    [
        ("postgres", True, "db.example", 5432, "postgresql://him:p%40ss@db.example:5432/"),
        ("mongo", True, "mongo.example:27018", 27018, "mongodb://him:p%40ss@mongo.example:27018/"),
        ("redis", False, "cache.example", 6379, "redis://him:p%40ss@cache.example:6379/"),
        ("rabbitmq", True, "broker.example", 5671, "amqps://him:p%40ss@broker.example:5671/"),
        ("s3", True, "s3.example", 443, "https://s3.example"),
    ],
)
def test_external_store_has_variables_and_egress(store: str, tls: bool, address: str, port: int, begins: str) -> None:
    users = [name for name, need in needs.read().items() if store in need.stores()]
    credentials = {name: {"username": "him", "password": "p@ss"} for name in users}
    external = {"address": address, "tls": tls, "credentials": credentials}
    given = render.configuration("dev").model_copy(update={"postgres": config.Postgres()})
    changed = type(getattr(given, store)).model_validate({"mode": "external", "external": external})
    rendered = render.render("test", given.model_copy(update={store: changed}))
    objects = {key(each)[::2]: each for each in rendered.objects}
    urls = [value for name in users for value in objects["Secret", f"{name}-{store}"]["stringData"].values()]
    assert any(url.startswith(begins) for url in urls), urls
    egress = objects["NetworkPolicy", f"external-{store}"]["spec"]["egress"]
    assert egress == [{"ports": [{"port": port, "protocol": "TCP"}]}]
    allow_egress = {
        each["metadata"]["namespace"]
        for each in rendered.objects
        if key(each)[::2] == ("NetworkPolicy", f"external-{store}")
    }
    # The gateway fetches segments directly.
    assert allow_egress == {"kinora-test-apps", *(["kinora-test-gateway"] if store == "s3" else [])}
    stores = {each["metadata"]["name"] for each in rendered.objects if each["kind"] == "StatefulSet"}
    assert store not in stores


def test_operator_postgres_drops_retired_login() -> None:
    given = render.configuration("staging").model_copy(update={"generations": {"auth-postgres": 4}})
    (cluster,) = (each for each in render.render("test", given).objects if each["kind"] == "Cluster")
    roles = {each["name"]: each["ensure"] for each in cluster["spec"]["managed"]["roles"]}
    expected = {"auth_1": "absent", "auth_2": "absent", "auth_3": "present", "auth_4": "present"}
    assert {name: ensure for name, ensure in roles.items() if name.startswith("auth_")} == expected


@pytest.mark.parametrize("keep", [True, False])
def test_restore_creates_a_second_cluster_for_services(keep: bool) -> None:
    given = render.configuration("prod")
    restore = config.Restore.model_validate({"cluster": "postgres-2", "until": NOON, "keep_source": keep})
    postgres = given.postgres.model_copy(update={"restore": restore})
    rendered = render.render("test", given.model_copy(update={"postgres": postgres}))
    clusters = {each["metadata"]["name"]: each["spec"] for each in rendered.objects if each["kind"] == "Cluster"}
    assert clusters.keys() == ({"postgres", "postgres-2"} if keep else {"postgres-2"})
    recovery = clusters["postgres-2"]["bootstrap"]["recovery"]
    assert recovery == {"source": "postgres", "recoveryTarget": {"targetTime": NOON}}
    (source,) = clusters["postgres-2"]["externalClusters"]
    # The backup location and name of the old cluster.
    place = source["barmanObjectStore"]["destinationPath"]
    assert (source["name"], place) == ("postgres", "s3://kinora-prod-backups/postgres")
    secrets = {each["metadata"]["name"]: each for each in rendered.objects if each["kind"] == "Secret"}
    url = secrets["auth-postgres"]["stringData"]["KINORA_POSTGRES_URL"]
    assert "@postgres-2-rw.kinora-test-stores." in url
    opened = {
        each["spec"]["podSelector"]["matchLabels"].get("cnpg.io/cluster")
        for each in rendered.objects
        if each["kind"] == "NetworkPolicy" and "matchLabels" in each["spec"]["podSelector"]
    }
    assert opened - {None} == clusters.keys()


@pytest.mark.parametrize(
    ("stack", "pods", "port"),
    [
        ("prod", {"cnpg.io/cluster": "postgres"}, 9187),
        ("prod", {"app.kubernetes.io/name": "s3"}, 9000),
        ("dev", {"app.kubernetes.io/name": "s3"}, 9000),
        ("dev", {"app.kubernetes.io/name": "traefik"}, 15020),
        ("sandbox", {"app.kubernetes.io/name": "traefik"}, 8081),
    ],
)
def test_prometheus_can_reach_metrics(
    rendered: Callable[[str], Rendered], stack: str, pods: Mapping[str, str], port: int
) -> None:
    ports = [
        each["port"]
        for policy in rendered(stack).objects
        if policy["kind"] == "NetworkPolicy" and policy["spec"]["podSelector"].get("matchLabels") == pods
        for rule in policy["spec"]["ingress"]
        for source in rule.get("from", [])
        if source.get("namespaceSelector", {}).get("matchLabels", {}).get("kinora.io/role") == "monitoring"
        for each in rule["ports"]
    ]
    assert port in ports


def test_object_store_has_scrape_annotations(environment: Rendered) -> None:
    (s3,) = (each for each in environment.objects if key(each)[::2] == ("StatefulSet", "s3"))
    annotations = s3["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == "/minio/v2/metrics/cluster"
    assert annotations["prometheus.io/port"] == "9000"


def test_operator_mode_replicas_have_a_disruption_budget(rendered: Callable[[str], Rendered]) -> None:
    """CloudNativePG creates its own; the operators of MongoDB and RabbitMQ create none."""
    budgets = {
        each["metadata"]["name"]: each["spec"]["selector"]["matchLabels"]
        for each in rendered("prod").objects
        if each["kind"] == "PodDisruptionBudget"
    }
    assert budgets["mongo"] == {"app": "mongo-svc"}
    assert budgets["rabbitmq"] == {"app.kubernetes.io/name": "rabbitmq"}


def test_published_exchanges_follow_from_needs() -> None:
    found = {
        "radio": needs.Needs.model_validate({"rabbitmq": {"exchanges": ["radio", "radio.live"]}}),
        "player": needs.Needs.model_validate({"rabbitmq": {}}),
    }
    given = render.configuration("staging")
    objects = render.render("test", given, needed=found).objects
    reads = {
        each["spec"]["userReference"]["name"]: each["spec"]["permissions"]["read"]
        for each in objects
        if each["kind"] == "Permission"
    }
    own = r"^player$|^player\."
    assert reads["rabbitmq-player-1"] == rf"{own}|^(radio|radio\.live)$"
