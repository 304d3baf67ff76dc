"""The output of `make plan`, `make render` and `make diff`."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apiserver
import pytest
import yaml

from kinora_environment import diff, plan, render
from kinora_environment.render import PROJECT, Rendered, identity


def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"kinora_environment.{module}", *words]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("text", "number"), [("250m", 0.25), ("2", 2), ("1Gi", 2**30), ("5120Mi", 5 * 2**30), (3, 3), ("1.5G", 1.5e9)]
)
def test_quantity_is_parsed(text: str, number: float) -> None:
    assert plan.quantity(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "12 Gi", "-1", "1Qi"])
def test_invalid_quantity_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        plan.quantity(text)


def test_plan_counts_every_replica(rendered: Callable[[str], Rendered]) -> None:
    parts = {part.name: part for part in plan.parts(rendered("prod"))}
    assert parts["postgres"].replicas == 3
    assert parts["postgres"].need == plan.Need(cpu=6000, memory=3 * 8 * 1024, storage=3 * 200 * 1024)


def test_plan_lists_workloads_and_prerequisites() -> None:
    shown = run("plan", "prod")
    assert shown.returncode == 0, shown.stderr
    for words in (
        "kinora-prod-stores",
        "postgres x 3",
        "total",
        "CloudNativePG 1.30 in the cluster",
        "KEDA 2.20 in",
        "metrics-server in the cluster",
        "kinora-tls",
    ):
        assert words in shown.stdout
    assert "You provide" not in run("plan", "dev").stdout


def test_plan_commands_create_the_secrets(tmp_path: Path) -> None:
    """Each creates exactly the Secret that the environment references."""
    (tmp_path / "access_key").write_text("key")
    (tmp_path / "secret_key").write_text("secret")
    certificate = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj=/CN=test", "-keyout=KEY"]
    subprocess.run([*certificate, "-out=CERTIFICATE"], cwd=tmp_path, check=True, capture_output=True)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("contexts: [{name: kinora-prod, context: {cluster: c, user: u}}]\nkind: Config\n")
    commands = [line for line in run("plan", "prod").stdout.splitlines() if line.startswith("  kubectl ")]
    made = set()
    for command in commands:
        words = [str(apiserver.BIN / "kubectl"), *command.split()[1:], f"--kubeconfig={kubeconfig}"]
        done = subprocess.run(
            [*words, "--dry-run=client", "-o=json"], cwd=tmp_path, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        secret = json.loads(done.stdout)
        made.add((secret["metadata"]["namespace"], secret["metadata"]["name"], *sorted(secret["data"])))
    assert made == {
        ("kinora-prod-gateway", "kinora-tls", "tls.crt", "tls.key"),
        ("kinora-prod-stores", "backup-storage", "access_key", "secret_key"),
    }


def test_unknown_stack_is_rejected_with_the_known_ones() -> None:
    shown = run("plan", "production")
    assert shown.returncode == 1
    assert "Unknown stack production. Known: dev, prod, sandbox, staging." in shown.stderr


def test_render_writes_each_object_and_removes_stale_files(tmp_path: Path, rendered: Callable[[str], Rendered]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.yaml").write_text("kind: Gone\n")
    shown = run("render", "dev", str(tmp_path / "out"))
    assert shown.returncode == 0, shown.stderr
    written = [yaml.load(file.read_text(), yaml.CSafeLoader) for file in (tmp_path / "out").rglob("*.yaml")]
    assert {identity(each) for each in written} == {identity(each) for each in rendered("dev").objects}
    assert len(written) == len(rendered("dev").objects)


def test_render_refuses_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not delete")
    shown = run("render", "dev", str(tmp_path))
    assert shown.returncode == 1
    assert "contains files other than YAML" in shown.stderr
    assert (tmp_path / "thesis.txt").exists()


BEFORE = {
    "apiVersion": "v1",
    "kind": "Thing",
    "metadata": {"name": "one", "namespace": "here"},
    "spec": {"list": [{"name": "a", "value": 1}, {"name": "b", "value": 2}], "size": "small"},
}


def test_diff_reports_changes_by_path() -> None:
    after = {**BEFORE, "spec": {"list": [{"name": "new", "value": 0}, *BEFORE["spec"]["list"]], "size": "large"}}
    assert list(diff.changes(BEFORE, after)) == [
        ("spec.list.new", None, {"name": "new", "value": 0}),
        ("spec.size", "small", "large"),
    ]


def test_diff_of_two_sizes(rendered: Callable[[str], Rendered]) -> None:
    given = render.configuration("dev")
    bigger = render.render("dev", given.model_copy(update={"size": "medium"}))
    one, other = ({identity(each): each for each in side.objects} for side in (rendered("dev"), bigger))
    lines = list(diff.report(one, other))
    assert any(line.startswith("[yellow]~ ResourceQuota quota in kinora-dev-apps") for line in lines)
    assert any("requests.memory: 10240Mi -> 32768Mi" in line for line in lines)
    assert not list(diff.report(one, one))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A separate repository with a copy of this checkout, whose history can be changed."""
    here = tmp_path / "repository"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "pulumi", "apps/*/deploy/*", "traefik",
         "observability", "charts", "istio", "argocd", "local/charts.py"],
        cwd=PROJECT.parent, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, files):
        if (PROJECT.parent / name).exists():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_bytes((PROJECT.parent / name).read_bytes())
    (here / ".gitignore").write_text("/.kinora\n__pycache__/\n")
    (here / ".kinora").symlink_to(PROJECT.parent / ".kinora")
    git(here, "init", "--quiet", "--initial-branch=main")
    git(here, "add", "--all")
    git(here, "commit", "--quiet", "--message=before")
    return here


def git(here: Path, *words: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *words], cwd=here, check=True, capture_output=True, timeout=60)


def test_diff_compares_commits_and_working_tree(repository: Path) -> None:
    def compare(*words: str) -> str:
        command = [sys.executable, "-m", "kinora_environment.diff", "dev", *words]
        shown = subprocess.run(
            command, cwd=repository / "pulumi", capture_output=True, text=True, check=False, timeout=240
        )
        assert shown.returncode == 0, shown.stderr
        return shown.stdout

    assert compare() == "dev: nothing changes\n"
    stack = repository / "pulumi" / "Pulumi.dev.yaml"
    stack.write_text(stack.read_text() + "    images: {redis: registry.example/redis:9}\n")
    assert "registry.example/redis:9" in compare()
    git(repository, "commit", "--quiet", "--all", "--message=image")
    # Unlike the stack's file, which takes 25 s of CPU to render on both sides.
    (repository / "apps" / "auth" / "deploy" / "envs" / "dev" / "version.yaml").write_text("version: 9.9.9\n")
    git(repository, "commit", "--quiet", "--all", "--message=version")
    assert compare("--from", "HEAD~1", "--to", "HEAD").startswith("dev: auth 0.1.0 -> 9.9.9\n")


def test_diff_summarizes_deploys_per_environment(repository: Path) -> None:
    deploy = repository / "apps" / "video" / "deploy"
    (deploy / "envs" / "staging" / "version.yaml").write_text("version: 9.9.9\n")
    values = deploy / "values.yaml"
    values.write_text(values.read_text().replace("limits: {memory: 3072Mi}", "limits: {memory: 2Gi}"))
    (repository / "apps" / "media" / "deploy" / "envs" / "dev" / "version.yaml").unlink()
    shown = subprocess.run(
        [sys.executable, "-m", "kinora_environment.diff"],
        cwd=repository / "pulumi", capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    summary = dict(line.split(": ", 1) for line in shown.stdout.partition("\n\n")[0].splitlines())
    assert summary == {
        "dev": "media is removed, with all its objects; video-worker memory limit 3072Mi -> 2Gi",
        "prod": "nothing changes",
        "sandbox": "video-worker memory limit 3072Mi -> 2Gi",
        "staging": "video 0.1.0 -> 9.9.9; video-worker memory limit 3072Mi -> 2Gi",
    }
    assert "- Deployment media in kinora-dev-apps" in shown.stdout


def test_diff_includes_application_sets(repository: Path) -> None:
    file = repository / "argocd" / "gateway.yaml"
    file.write_text(file.read_text().replace("prune: true", "prune: false"))
    shown = subprocess.run(
        [sys.executable, "-m", "kinora_environment.diff", "dev"],
        cwd=repository / "pulumi", capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert shown.stdout.startswith("dev: gateway: other changes to its ApplicationSet\n"), shown.stderr
    assert "syncPolicy.automated.prune: True -> False" in shown.stdout


def test_diff_reports_chart_errors(repository: Path) -> None:
    file = repository / "apps" / "auth" / "deploy" / "envs" / "dev" / "values.yaml"
    file.write_text("workloads: {auth: {replica: 1}}\n")
    shown = subprocess.run(
        [sys.executable, "-m", "kinora_environment.diff", "dev"],
        cwd=repository / "pulumi", capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert shown.returncode == 1
    assert shown.stderr.startswith("dev: ")
    assert "replica" in shown.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["nowhere"], "Stack nowhere exists on neither side. Known: dev,"), (["--from", "v0"], "no commit v0")],
)
def test_diff_rejects_unknown_stack_or_commit(repository: Path, words: list[str], sentence: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "kinora_environment.diff", *words],
        cwd=repository / "pulumi", capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert shown.returncode == 1
    assert sentence in shown.stderr
