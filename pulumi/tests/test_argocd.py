"""argocd/: the applications that it creates in each committed environment, and the limits of their projects.

The application sets are evaluated by Helm, which uses the same Go templates and functions as Argo CD; tests/cluster
shows that Argo CD itself agrees.
"""

import functools
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import Cluster
from pydantic import SecretStr

import charts
from kinora_environment import config, gitops, needs, render
from kinora_environment.helm import program
from kinora_environment.place import namespace_name
from kinora_environment.render import Rendered

ROOT = charts.ROOT
Values = dict[str, Any]
SETS: dict[str, Values] = {
    file.stem: yaml.safe_load(file.read_text()) for file in sorted((ROOT / "argocd").glob("*.yaml"))
}
ADDRESSES = {
    "postgres": ("db.example", True),
    "mongo": ("mongo.example:27018", True),
    "redis": ("cache.example", False),
    "rabbitmq": ("broker.example", True),
    "s3": ("s3.example", True),
}
STORES = {
    store: (config.Postgres if store == "postgres" else config.Store)(
        mode="external",
        external=config.External(
            address=address,
            tls=tls,
            credentials={
                identity: config.Credential(username="him", password=SecretStr("his"))
                for identity, need in needs.read().items()
                if store in need.stores()
            },
        ),
    )
    for store, (address, tls) in ADDRESSES.items()
}
"""All of them external."""
FILL = "{{ $filled := list }}{{ range .Values.texts }}{{ $filled = append $filled (tpl . $.Values.given) }}{{ end }}"


@pytest.fixture(scope="session")
def fill(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any, Values], Any]:
    """``fill(template, parameters)``: the template with all its strings evaluated."""
    chart = tmp_path_factory.mktemp("fill")
    (chart / "templates").mkdir()
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: fill, version: 0.0.0}")
    (chart / "templates" / "filled.yaml").write_text(FILL + "{{ dict `texts` $filled | toJson }}")

    def filled(template: Any, given: Values) -> Any:
        texts: list[str] = []
        strings(template, lambda text: texts.append(text) or text)
        done = subprocess.run(
            [program("helm"), "template", "fill", chart, "--values=-"],
            input=json.dumps({"texts": texts, "given": given}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers = iter(yaml.safe_load(done.stdout)["texts"])
        return strings(template, lambda _: next(answers))

    return filled


def strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: strings(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [strings(each, change) for each in value]
    return change(value) if isinstance(value, str) else value


def named(rendered: Rendered, kind: str) -> dict[str, Any]:
    return {each["metadata"]["name"]: each for each in rendered.objects if each["kind"] == kind}


def chosen(selector: Values, labels: Mapping[str, str]) -> bool:
    """https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#resources-that-support-set-based-requirements"""
    assert all(each["operator"] == "Exists" for each in selector.get("matchExpressions", []))
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        each["key"] in labels for each in selector.get("matchExpressions", [])
    )


def parameters(given: Values, fill: Callable[[Any, Values], Any], rendered: Rendered) -> Iterator[Values]:
    """The template parameters of each application."""
    (generator,) = given["spec"]["generators"]
    parts = generator["matrix"]["generators"] if "matrix" in generator else [generator]
    secret = named(rendered, "Secret")["cluster"]
    if not chosen(parts[0]["clusters"]["selector"], secret["metadata"]["labels"]):
        return
    facts = {key: secret["metadata"][key] for key in ("labels", "annotations")}
    one = {**{key: secret["stringData"][key] for key in ("name", "server")}, "metadata": facts}
    if len(parts) == 1:
        yield one
        return
    git = fill(parts[1]["git"], one)
    assert {"url": git["repoURL"], "revision": git["revision"]}.items() <= repository(rendered).items()
    (directories,) = git["directories"]
    for found in sorted(ROOT.glob(directories["path"])):
        folder = found.relative_to(ROOT)
        path = {"path": str(folder), "basename": folder.name, "segments": list(folder.parts)}
        yield {**one, "path": path}


def repository(rendered: Rendered) -> dict[str, str]:
    source = named(rendered, "Application")["root"]["spec"]["source"]
    return {"url": source["repoURL"], "revision": source["targetRevision"]}


@pytest.fixture(scope="session")
def applications(
    fill: Callable[[Any, Values], Any], rendered: Callable[[str], Rendered]
) -> Callable[[str], dict[str, Values]]:
    """``applications("dev")``: by name, all applications that argocd/ creates in a committed environment."""

    @functools.cache
    def of(stack: str) -> dict[str, Values]:
        made = [
            fill(each["spec"]["template"], given)
            for each in SETS.values()
            for given in parameters(each, fill, rendered(stack))
        ]
        assert len({each["metadata"]["name"] for each in made}) == len(made)
        return {each["metadata"]["name"]: each for each in made}

    return of


def objects(application: Values) -> list[Any]:
    """The objects that Helm renders from an application's source."""
    source = application["spec"]["source"]
    helm = source["helm"]
    files = [ROOT / file.removeprefix("/") for file in helm.get("valueFiles", [])]
    missing = [file for file in files if not file.exists()]
    assert not missing or helm.get("ignoreMissingValueFiles"), missing
    chart = str(Path("..") / source["path"])
    files = [file for file in files if file.exists()]
    return charts.template(chart, helm["releaseName"], files, yaml.safe_load(helm["values"]))


@pytest.mark.parametrize("stack", render.stacks())
def test_environment_has_an_application_per_app_and_shared_ones(
    applications: Callable[[str], dict[str, Values]], stack: str
) -> None:
    apps = {app for app in charts.apps() if stack in charts.environments(app)}
    assert apps
    shared = {"gateway", "mesh"} if charts.facts(stack)["mesh"] else {"gateway"}
    assert applications(stack).keys() == apps | shared
    for app in apps:
        assert applications(stack)[app]["spec"]["project"] == "services"
    for name in shared:
        assert applications(stack)[name]["spec"]["project"] == name


@pytest.mark.parametrize("stack", render.stacks())
def test_applications_pass_the_same_values_as_local_rendering(
    applications: Callable[[str], dict[str, Values]], stack: str
) -> None:
    for name, application in applications(stack).items():
        shared = {"gateway": charts.gateway, "mesh": charts.mesh}
        expected = shared[name](stack) if name in shared else charts.service(name, stack)
        assert objects(application) == expected, name


@pytest.fixture(scope="module")
def borrowed(fill: Callable[[Any, Values], Any]) -> Values:
    """The mesh's application in dev, with all stores external."""
    rendered = render.render("dev", render.configuration("dev").model_copy(update=STORES))
    (mesh,) = (fill(SETS["mesh"]["spec"]["template"], each) for each in parameters(SETS["mesh"], fill, rendered))
    return dict(mesh)


def test_mesh_allows_egress_to_external_stores(borrowed: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {each["metadata"]["name"]: each["spec"] for each in objects(borrowed) if each["kind"] == "ServiceEntry"}
    reached = {
        name: (*each["hosts"], *((port["number"], port["protocol"]) for port in each["ports"]))
        for name, each in entries.items()
    }
    assert reached == {
        # Its connections start in plain text even if encrypted.
        "external-postgres": ("db.example", (5432, "TCP")),
        "external-mongo": ("mongo.example", (27018, "TLS")),
        "external-redis": ("cache.example", (6379, "TCP")),
        "external-rabbitmq": ("broker.example", (5671, "TLS")),
        "external-s3": ("s3.example", (443, "TLS")),
    }
    written = {name: store.model_dump(mode="json") for name, store in STORES.items()}
    stack = charts.configuration("dev")
    monkeypatch.setattr(charts, "configuration", lambda _: {**stack, **written})
    assert charts.mesh("dev") == objects(borrowed)


@pytest.mark.parametrize("stack", render.stacks())
def test_applications_stay_within_their_project(
    applications: Callable[[str], dict[str, Values]], rendered: Callable[[str], Rendered], stack: str
) -> None:
    projects = {name: each["spec"] for name, each in named(rendered(stack), "AppProject").items()}
    for name, application in applications(stack).items():
        spec = application["spec"]
        project = projects[spec["project"]]
        assert project["sourceRepos"] == [spec["source"]["repoURL"]] == [repository(rendered(stack))["url"]]
        assert spec["source"]["targetRevision"] == repository(rendered(stack))["revision"]
        allowed = {(each["group"], each["kind"]) for each in project["namespaceResourceWhitelist"]}
        places = {(each["server"], each["namespace"]) for each in project["destinations"]}
        assert tuple(spec["destination"].values()) in places
        for each in objects(application):
            assert (each["apiVersion"].rpartition("/")[0], each["kind"]) in allowed, name
            assert (spec["destination"]["server"], each["metadata"]["namespace"]) in places, name


def test_projects_allow_only_rendered_kinds(applications: Callable[[str], dict[str, Values]], borrowed: Values) -> None:
    used: dict[str, set[tuple[str, str]]] = {name: set() for name in gitops.LAYERS}
    for application in [borrowed, *(each for stack in render.stacks() for each in applications(stack).values())]:
        kinds = {(each["apiVersion"].rpartition("/")[0], each["kind"]) for each in objects(application)}
        used[application["spec"]["project"]] |= kinds
    # With Prometheus Operator and without a mesh.
    used["services"].add(("monitoring.coreos.com", "ServiceMonitor"))
    for name, layer in gitops.LAYERS.items():
        assert used[name] == {(group, kind) for group, kinds in layer.kinds.items() for kind in kinds}, name


@pytest.mark.parametrize("stack", render.stacks())
def test_applications_and_projects_have_no_access_to_stores(
    applications: Callable[[str], dict[str, Values]], rendered: Callable[[str], Rendered], stack: str
) -> None:
    stores = namespace_name(stack, "stores")
    assert stores not in json.dumps([each["spec"]["destination"] for each in applications(stack).values()])
    for project in named(rendered(stack), "AppProject").values():
        assert stores not in [each["namespace"] for each in project["spec"]["destinations"]]
    assert stores not in named(rendered(stack), "Secret")["cluster"]["stringData"]["namespaces"].split(",")


@pytest.mark.parametrize("name", SETS)
def test_application_sets_self_heal_and_survive_removal_of_their_file(name: str) -> None:
    given = SETS[name]
    assert given["kind"] in gitops.ROOT[given["apiVersion"].partition("/")[0]]
    assert given["metadata"]["name"] == name
    assert given["metadata"]["annotations"]["argocd.argoproj.io/sync-options"] == "Prune=false"
    spec = given["spec"]
    assert (spec["goTemplate"], spec["goTemplateOptions"]) == (True, ["missingkey=error"])
    template = spec["template"]
    assert template["metadata"]["finalizers"] == [gitops.CASCADE]
    policy = template["spec"]["syncPolicy"]
    assert policy["automated"] == {"prune": True, "selfHeal": True}
    assert policy["syncOptions"] == ["ServerSideApply=true", "CreateNamespace=false", "FailOnSharedResource=true"]
    assert policy["retry"] == SETS["services"]["spec"]["template"]["spec"]["syncPolicy"]["retry"]


def test_retry_settings_match_the_root_application(rendered: Callable[[str], Rendered]) -> None:
    root = named(rendered("dev"), "Application")["root"]["spec"]["syncPolicy"]["retry"]
    assert SETS["services"]["spec"]["template"]["spec"]["syncPolicy"]["retry"] == root


def test_missing_facts_fail_rendering(fill: Callable[[Any, Values], Any]) -> None:
    given = {"metadata": {"labels": {"kinora.io/environment": "dev"}, "annotations": {}}, "server": "s"}
    with pytest.raises(AssertionError, match="mustFromJson"):
        fill(SETS["gateway"]["spec"]["template"], given)


def test_sync_waves_match_the_documentation() -> None:
    told = dict(
        re.findall(r"^\| (-?\d+) \| `argocd/(\w+)\.yaml`", (ROOT / "docs/deploys.md").read_text(), re.MULTILINE)
    )
    wave = "argocd.argoproj.io/sync-wave"
    assert told == {each["metadata"]["annotations"][wave]: name for name, each in SETS.items()}


def test_api_server_accepts_applications_idempotently(
    api_server: Cluster, applications: Callable[[str], dict[str, Values]]
) -> None:
    kind = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Application"}
    api_server.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gitops"}}])
    made = [{**kind, **each} for stack in ("prod", "sandbox") for each in applications(stack).values()]
    for given in (list(SETS.values()), made[: len(applications("prod"))], made[len(applications("prod")) :]):
        placed = [{**each, "metadata": {**each["metadata"], "namespace": "gitops"}} for each in given]
        assert api_server.apply(placed) == api_server.apply(placed)
