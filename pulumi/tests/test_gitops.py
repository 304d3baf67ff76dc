"""Argo CD in an environment: its published manifest, adapted, with only the permissions that deploying needs."""

import json
from typing import Any

import pytest
from alone import SMALL, register
from cluster import Cluster

from kinora_environment import config, gitops, images, policies, upstream
from kinora_environment.gitops import CONTROLLER, SERVER, GitOps, GitOpsArgs
from kinora_environment.render import Rendered

URL = "https://git.example.org/kinora.git"
PUBLIC = config.Repository(url=URL, revision="prod")
PRIVATE = config.Repository.model_validate({"url": URL, "username": "reader", "password": "from-the-stack"})


DESTINATIONS = ("apps", "gateway")
FACTS = {"publicUrl": "https://test.example", "mesh": True, "monitoring": "single", "keda": False}
EXTERNAL = {"postgres": {"host": "db.example", "port": 5432, "protocol": "TCP"}}


def made(given: config.Repository = PUBLIC, environment: str = "test", *, mesh: bool = True) -> tuple[Rendered, GitOps]:
    return register(
        lambda places: GitOps(
            "gitops",
            GitOpsArgs(
                place=places("gitops"),
                destinations=[places(role) for role in (DESTINATIONS if mesh else ("apps",))],
                facts={"name": environment, **FACTS, "mesh": mesh},
                external=EXTERNAL,
                after=None,
                config=given,
                sizes=SMALL,
                images={
                    **images.choose({}),
                    "argocd": "registry.example.org/argocd:1",
                    "redis": "registry.example.org/redis:1",
                },
            ),
        ),
        environment=environment,
    )


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return made()[0]


def find(rendered: Rendered, kind: str, name: str, namespace: str = "kinora-test-gitops") -> Any:
    (found,) = (
        each
        for each in rendered.objects
        if (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace")) == (kind, name, namespace)
    )
    return found


def published(kind: str, name: str) -> Any:
    (found,) = (
        each for each in upstream.manifests("argocd") if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def test_published_manifest_is_complete_except_for_exclusions(rendered: Rendered) -> None:
    ours = {(each["kind"], each["metadata"]["name"]) for each in rendered.objects}
    theirs = {(each["kind"], each["metadata"]["name"]) for each in upstream.manifests("argocd")}
    left = {name for _, name in theirs - ours}
    assert {name.removesuffix("-network-policy") for name in left} == {
        "argocd-dex-server",
        "argocd-notifications-cm",
        "argocd-notifications-controller",
        "argocd-notifications-controller-metrics",
        "argocd-notifications-secret",
        "argocd-redis",
    }
    assert {kind for kind, name in theirs - ours if name == "argocd-redis"} == {"Role", "RoleBinding"}


def test_role_bindings_reference_existing_accounts(rendered: Rendered) -> None:
    accounts = {each["metadata"]["name"] for each in rendered.objects if each["kind"] == "ServiceAccount"}
    bindings = [each for each in rendered.objects if each["kind"] == "RoleBinding"]
    assert {subject["name"] for each in bindings for subject in each["subjects"]} <= accounts


def test_argocd_violates_no_policy(rendered: Rendered) -> None:
    assert [sentence for each in rendered.objects for sentence in policies.violations(each)] == []


def test_argocd_uses_pinned_images(rendered: Rendered) -> None:
    used = {each["name"]: each["image"] for manifest in rendered.objects for each in policies.containers(manifest)}
    assert used.pop("redis") == "registry.example.org/redis:1"
    assert set(used.values()) == {"registry.example.org/argocd:1"}
    assert len(used) == 5


def test_only_api_server_clients_have_a_token(rendered: Rendered) -> None:
    pods = {each["metadata"]["name"]: pod for each in rendered.objects if (pod := policies.pod_of(each)) is not None}
    assert {name for name, pod in pods.items() if pod["automountServiceAccountToken"]} == {
        "argocd-application-controller",
        "argocd-applicationset-controller",
        "argocd-server",
    }


def test_settings_extend_the_published_ones(rendered: Rendered) -> None:
    for name, added in gitops.settings("test").items():
        before = published("ConfigMap", name).get("data", {})
        assert find(rendered, "ConfigMap", name)["data"] == {**before, **added}
    # Argo CD finds them by this label.
    assert find(rendered, "ConfigMap", "argocd-cm")["metadata"]["labels"]["app.kubernetes.io/part-of"] == "argocd"


def test_no_push_deletes_an_application(rendered: Rendered) -> None:
    given = find(rendered, "ConfigMap", "argocd-cmd-params-cm")["data"]
    assert given["applicationsetcontroller.policy"] == "create-update"
    # Otherwise the application sets could set it themselves.
    assert "applicationsetcontroller.enable.policy.override" not in given


def test_settings_change_restarts_argocd(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    def sums(of: Rendered) -> set[str]:
        templates = [each["spec"]["template"] for each in of.objects if policies.pod_of(each) is not None]
        return {each["metadata"]["annotations"]["checksum/configuration"] for each in templates}

    before = sums(rendered)
    monkeypatch.setattr(gitops, "settings", lambda *_, **__: {"argocd-cmd-params-cm": {"server.insecure": "true"}})
    assert sums(made()[0]).isdisjoint(before)


def test_default_project_allows_nothing(rendered: Rendered) -> None:
    assert find(rendered, "AppProject", "default")["spec"] == {"sourceRepos": [], "destinations": []}


def test_root_project_allows_only_applications_of_this_repository(rendered: Rendered) -> None:
    project = find(rendered, "AppProject", "root")["spec"]
    destination = {"server": "https://kubernetes.default.svc", "namespace": "kinora-test-gitops"}
    assert project["sourceRepos"] == [URL]
    assert project["destinations"] == [destination]
    assert [each["kind"] for each in project["namespaceResourceWhitelist"]] == ["Application", "ApplicationSet"]
    assert "clusterResourceWhitelist" not in project
    root = find(rendered, "Application", "root")["spec"]
    assert root["project"] == "root"
    assert root["destination"] == destination
    assert root["source"] == {
        "repoURL": URL,
        "targetRevision": "prod",
        "path": "argocd",
        "directory": {"recurse": True},
    }
    assert root["syncPolicy"]["automated"] == {"prune": True, "selfHeal": True}


def test_cluster_secret_is_limited_to_the_environment(rendered: Rendered) -> None:
    cluster = find(rendered, "Secret", "cluster")
    assert cluster["metadata"]["labels"]["argocd.argoproj.io/secret-type"] == "cluster"
    assert cluster["stringData"]["clusterResources"] == "false"
    namespaces = cluster["stringData"]["namespaces"].split(",")
    assert namespaces == [f"kinora-test-{role}" for role in ("gitops", "apps", "gateway")]
    assert not [each for each in rendered.objects if each["kind"].startswith("ClusterRole")]


def test_cluster_secret_has_the_facts_for_application_sets() -> None:
    for mesh in (True, False):
        metadata = find(made(mesh=mesh)[0], "Secret", "cluster")["metadata"]
        assert metadata["labels"]["kinora.io/environment"] == "test"
        assert metadata["labels"]["kinora.io/mesh"] == str(mesh).lower()
        noted = metadata["annotations"]
        assert json.loads(noted["kinora.io/facts"]) == {"name": "test", **FACTS, "mesh": mesh}
        assert json.loads(noted["kinora.io/external"]) == EXTERNAL
        assert (noted["kinora.io/repository"], noted["kinora.io/revision"]) == (URL, "prod")


def test_without_mesh_its_layer_is_absent() -> None:
    rendered, _ = made(mesh=False)
    projects = {each["metadata"]["name"]: each["spec"] for each in rendered.objects if each["kind"] == "AppProject"}
    assert projects.keys() == {"default", "root", "services", "gateway"}
    granted = [each for each in rendered.objects if each["metadata"]["name"] == f"{CONTROLLER}-deployed"]
    assert {each["metadata"]["namespace"] for each in granted} == {"kinora-test-gitops", "kinora-test-apps"}


def test_application_metrics_are_scraped(rendered: Rendered) -> None:
    template = find(rendered, "StatefulSet", CONTROLLER)["spec"]["template"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "8082"
    (container,) = template["spec"]["containers"]
    assert 8082 in [each["containerPort"] for each in container["ports"]]
    policy = find(rendered, "NetworkPolicy", "argocd-application-controller-network-policy")["spec"]
    assert policy["ingress"] == [{"from": [{"namespaceSelector": {}}], "ports": [{"port": 8082}]}]


def test_repository_credentials_are_secret(rendered: Rendered) -> None:
    assert "repository" not in {each["metadata"]["name"] for each in rendered.objects}
    private, _ = made(PRIVATE)
    repository = find(private, "Secret", "repository")
    assert repository["metadata"]["labels"]["argocd.argoproj.io/secret-type"] == "repository"
    expected = {"type": "git", "url": URL, "username": "reader", "password": "from-the-stack"}
    assert repository["stringData"] == expected
    holding = [each for each in private.resources if "from-the-stack" in json.dumps(each.inputs)]
    assert [each.secret for each in holding] == [{"stringData"}]


def test_resources_are_created_in_order(rendered: Rendered) -> None:
    order = [(each.inputs.get("kind"), each.name) for each in rendered.resources]
    last_definition = max(place for place, (kind, _) in enumerate(order) if kind == "CustomResourceDefinition")
    closed = order.index(("AppProject", "argocd-appproject-default"))
    assert last_definition < closed < order.index(("Deployment", SERVER))
    # It is deleted first, while the controllers that clean up after it are running.
    assert order[-1] == ("Application", "argocd-application-root")
    (finalizer,) = find(rendered, "Application", "root")["metadata"]["finalizers"]
    assert finalizer == "resources-finalizer.argocd.argoproj.io/foreground"


def test_outputs_describe_next_steps() -> None:
    _, component = made()
    assert component.next_step.startswith(f"push to {URL}, branch prod:")
    for command in (component.console, component.next_step):
        assert "kubectl --namespace kinora-test-gitops" in command


# --- permissions on a real API server --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(api_server: Cluster, rendered: Rendered) -> Cluster:
    """Two environments side by side."""
    api_server.install(rendered.objects)
    api_server.install(made(environment="other")[0].objects)
    return api_server


def may(installed: Cluster, account: str, asked: list[tuple[str, str, str, str]]) -> list[bool]:
    return installed.may("kinora-test-gitops", account, asked)


ALL = gitops.resources(*(layer.kinds for layer in gitops.LAYERS.values()), gitops.ROOT)


def test_controller_lists_the_same_kinds_in_all_namespaces(installed: Cluster) -> None:
    asked = [
        (verb, group, resource, f"kinora-test-{role}")
        for group, *names in (*ALL, *gitops.WATCHED)
        for resource in names
        for role in ("gitops", *DESTINATIONS)
        for verb in ("list", "watch")
    ]
    assert all(may(installed, CONTROLLER, asked))


def test_controller_may_write_only_the_kinds_of_each_layer(installed: Cluster) -> None:
    for role in (*DESTINATIONS, "gitops", "stores", "mesh", "monitoring"):
        layers = [layer.kinds for layer in gitops.LAYERS.values() if role in layer.roles]
        allowed = gitops.resources(*layers, *([gitops.ROOT] if role == "gitops" else []))
        asked = [(verb, group, resource) for group, *names in ALL for resource in names for verb in gitops.WRITE]
        answers = may(installed, CONTROLLER, [(*each, f"kinora-test-{role}") for each in asked])
        expected = {(group, resource) for group, *names in allowed for resource in names}
        assert {each[1:] for each, yes in zip(asked, answers, strict=True) if yes} == expected, role
        assert all(yes == (each[1:] in expected) for each, yes in zip(asked, answers, strict=True)), role
        assert not any(may(installed, CONTROLLER, [(*each, f"kinora-other-{role}") for each in asked]))


def test_argocd_has_no_permission_in_the_stores_namespace(installed: Cluster) -> None:
    kinds = [
        ("", "persistentvolumeclaims"),
        ("", "pods"),
        ("", "secrets"),
        ("apps", "statefulsets"),
        ("batch", "jobs"),
        ("postgresql.cnpg.io", "clusters"),
    ]
    asked = [(verb, *kind, "kinora-test-stores") for kind in kinds for verb in (*gitops.READ, *gitops.WRITE)]
    for account in (CONTROLLER, SERVER, "argocd-applicationset-controller", "argocd-repo-server"):
        assert not any(may(installed, account, asked)), account


def test_applicationset_controller_may_create_applications(installed: Cluster) -> None:
    asked = [(verb, "argoproj.io", "applications", "kinora-test-gitops") for verb in gitops.WRITE]
    asked += [("list", "argoproj.io", "applicationsets", "kinora-test-gitops")]
    asked += [("list", "", "secrets", "kinora-test-gitops")]  # one of them has the facts
    assert all(may(installed, "argocd-applicationset-controller", asked))


def test_argocd_cannot_read_service_secrets_or_grant_permissions(installed: Cluster) -> None:
    asked = [
        (verb, "", "secrets", f"kinora-test-{role}") for verb in ("get", "list", "create") for role in DESTINATIONS
    ]
    asked += [("create", "rbac.authorization.k8s.io", "rolebindings", "kinora-test-apps")]
    asked += [("list", "", "namespaces", ""), ("list", "", "secrets", "kinora-test-stores")]
    for account in (CONTROLLER, SERVER, "argocd-applicationset-controller", "argocd-repo-server"):
        assert not any(may(installed, account, asked)), account


def test_argocd_server_is_read_only(installed: Cluster) -> None:
    shown = [("get", "", "pods/log", "kinora-test-apps"), ("get", "apps", "deployments", "kinora-test-apps")]
    assert all(may(installed, SERVER, shown))
    changes = [
        (verb, group, resource, "kinora-test-apps")
        for group, *names in ALL
        for resource in names
        for verb in gitops.WRITE
    ]
    assert not any(may(installed, SERVER, changes))
