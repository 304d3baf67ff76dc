"""A real `pulumi up` of the sandbox against a real API server: made, changed, refreshed, and gone."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest
from cluster import Cluster, cluster
from pulumi import automation

from kinora_environment import needs, render
from kinora_environment.config import EnvironmentConfig
from kinora_environment.environment import create
from kinora_environment.render import PROJECT, identity

BIN = PROJECT.parent / ".kinora" / "bin"
PATH = f"{BIN}:{os.environ['PATH']}"

pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("pulumi", path=PATH) and shutil.which("pulumi-resource-kubernetes", path=PATH)),
        reason="a real `pulumi up`: the Pulumi CLI and its Kubernetes provider are not on PATH"
        " (`make --file=local/tools.mk cli` builds both)",
    ),
    pytest.mark.timeout(900),
]
Sandbox = Callable[[EnvironmentConfig], automation.Stack]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "apiserver") as started:
        yield started


@pytest.fixture
def sandbox(server: Cluster, tmp_path: Path) -> Sandbox:
    """The stack `sandbox` with a configuration; its state is in files of the test."""
    plugins, state = tmp_path / "plugins", tmp_path / "state"
    plugins.mkdir()
    state.mkdir()
    path = PATH
    if shutil.which("pulumi-resource-random", path=PATH) is None:
        stand_in = plugins / "pulumi-resource-random"
        stand_in.write_text(f"#!/bin/sh\nexec {sys.executable} {Path(__file__).parent / 'random_provider.py'}\n")
        stand_in.chmod(0o755)
        path = f"{plugins}:{PATH}"

    def select(given: EnvironmentConfig) -> automation.Stack:
        def program() -> None:
            for name, value in create("sandbox", given, needs.read()).items():
                pulumi.export(name, value)

        # Asked for a stack that is not there yet, the CLI speaks of a login instead of saying so; so no create_or_select.
        choose = automation.select_stack if any(state.rglob("sandbox.json")) else automation.create_stack
        return choose(
            "sandbox",
            "kinora",
            program,
            automation.LocalWorkspaceOptions(
                env_vars={
                    "PATH": path,
                    "KUBECONFIG": str(server.kubeconfig),
                    "PULUMI_CONFIG_PASSPHRASE": "of the test",
                    "PULUMI_BACKEND_URL": f"file://{state}",
                    "PULUMI_HOME": str(tmp_path / "home"),
                    "PULUMI_SKIP_UPDATE_CHECK": "true",
                    "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
                },
                project_settings=automation.ProjectSettings("kinora", "python"),
            ),
        )

    return select


def counts(summary: automation.UpdateSummary) -> dict[str, int]:
    return {str(getattr(kind, "value", kind)): number for kind, number in (summary.resource_changes or {}).items()}


def test_an_environment_is_made_changed_refreshed_and_gone(server: Cluster, sandbox: Sandbox, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", PATH)
    given = render.configuration("sandbox").model_copy(update={"await_ready": False})
    stack = sandbox(given)
    stack.preview()
    made = stack.up()
    assert counts(made.summary)["create"] > 100
    assert "kinora-sandbox-apps" in made.outputs["namespaces"].value
    expected = {identity(each) for each in render.render("sandbox", given).objects}
    for namespace, kind, name in expected:
        words = ["-n", namespace] if namespace else []
        server.kubectl(*words, "get", kind, name, "-o=name")
    url = [
        "get",
        "secret",
        "auth-postgres",
        "-n=kinora-sandbox-apps",
        "-o=go-template={{.data.KINORA_POSTGRES_URL | base64decode}}",
    ]
    before = server.kubectl(*url)
    assert before.startswith("postgresql://auth_1:")

    assert set(counts(stack.up().summary)) == {"same"}

    rotated = sandbox(given.model_copy(update={"generations": {"auth-postgres": 2}}))
    changed = counts(rotated.up().summary)
    assert changed.get("create", 0) <= 3
    after = server.kubectl(*url)
    assert after.startswith("postgresql://auth_2:")
    assert after.split(":")[2] != before.split(":")[2]

    assert set(counts(rotated.refresh().summary)) == {"same"}
    rotated.destroy()
    left = server.kubectl(
        "get", "deployments,statefulsets,secrets,configmaps", "-A", "-o=name", "-l=kinora.io/environment=sandbox"
    )
    assert left == ""
