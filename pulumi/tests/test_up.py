"""A real `pulumi up` of the sandbox against a real API server: create, update, repair drift, destroy."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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

CONTROLLERS = "kube-controller-manager"
NEEDED = ("pulumi", "pulumi-resource-kubernetes", CONTROLLERS)

pytestmark = [
    pytest.mark.skipif(
        not all(shutil.which(program, path=PATH) for program in NEEDED),
        reason=f"a real `pulumi up`: {', '.join(NEEDED)} are not all on PATH (`make pulumi` builds them)",
    ),
    pytest.mark.timeout(900),
]


class Sandbox:
    """The stack `sandbox`, with its program run in this process and its state in temporary files."""

    def __init__(self, server: Cluster, folder: Path) -> None:
        self.server, self.given = server, render.configuration("sandbox").model_copy(update={"await_ready": False})
        plugins, state = folder / "plugins", folder / "state"
        plugins.mkdir()
        state.mkdir()
        # Upstream's random provider is not a Go module that can be built.
        random = plugins / "pulumi-resource-random"
        random.write_text(f"#!/bin/sh\nexec {sys.executable} {Path(__file__).parent / 'random_provider.py'}\n")
        random.chmod(0o755)
        self.stack = automation.create_stack(
            "sandbox",
            "kinora",
            self._program,
            opts=automation.LocalWorkspaceOptions(
                env_vars={
                    "PATH": f"{plugins}:{PATH}",
                    "KUBECONFIG": str(server.kubeconfig),
                    "PULUMI_CONFIG_PASSPHRASE": "of the test",
                    "PULUMI_BACKEND_URL": f"file://{state}",
                    "PULUMI_HOME": str(folder / "home"),
                    "PULUMI_SKIP_UPDATE_CHECK": "true",
                    "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
                },
                project_settings=automation.ProjectSettings("kinora", "python"),
            ),
        )

    def _program(self) -> None:
        for name, value in create("sandbox", self.given, needs.read()).items():
            pulumi.export(name, value)

    def configure(self, **changed: Any) -> None:
        self.given = EnvironmentConfig.model_validate(self.given.model_dump(exclude_unset=True) | changed)

    def preview(self) -> set[tuple[str, str, str]]:
        """The objects that it would create."""
        planned = set()

        def note(event: automation.events.EngineEvent) -> None:
            told = event.resource_pre_event
            if told and told.metadata.new and told.metadata.type.startswith("kubernetes:"):
                inputs = told.metadata.new.inputs
                if "kind" in inputs:
                    planned.add(identity(inputs))

        self.stack.preview(on_event=note)
        return planned

    def up(self) -> dict[tuple[str, str], set[str]]:
        """The changes: (operation, type) -> names."""
        done: dict[tuple[str, str], set[str]] = {}

        def note(event: automation.events.EngineEvent) -> None:
            if event.res_outputs_event:
                metadata = event.res_outputs_event.metadata
                operation = str(getattr(metadata.op, "value", metadata.op))
                if operation != "same":
                    done.setdefault((operation, metadata.type), set()).add(metadata.urn.rpartition("::")[2])

        self.stack.up(on_event=note)
        return done

    def drift(self) -> dict[str, int]:
        summary = self.stack.refresh().summary.resource_changes or {}
        return {str(getattr(kind, "value", kind)): number for kind, number in summary.items()}


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setenv("PATH", PATH)  # the automation API looks for the CLI itself
    with cluster(tmp_path / "apiserver") as started:
        yield Sandbox(started, tmp_path)


def test_pulumi_up_creates_updates_repairs_and_destroys_the_stack(sandbox: Sandbox) -> None:
    server, stores = sandbox.server, "-n=kinora-sandbox-stores"
    expected = render.render("sandbox").objects

    assert sandbox.preview() == {identity(each) for each in expected}
    made = sandbox.up()
    assert {operation for operation, _ in made} == {"create"}
    server.kubectl("get", "--filename=-", "-o=name", given=expected)  # fails if one is missing

    assert sandbox.up() == {}
    assert set(sandbox.drift()) == {"same"}

    _rotates(sandbox)
    _grows(sandbox)

    # A manual change of a managed field is detected and reverted. Other fields are left alone.
    nobody = '--patch={"spec":{"selector":{"app.kubernetes.io/name":"nobody"}}}'
    server.kubectl(stores, "patch", "service", "postgres", "--type=merge", nobody)
    server.kubectl(stores, "delete", "configmap", "postgres")
    assert sandbox.drift().keys() - {"same"}
    sandbox.up()
    selected = json.loads(server.kubectl(stores, "get", "service", "postgres", "-o=jsonpath={.spec.selector}"))
    assert selected == {"app.kubernetes.io/name": "postgres"}
    server.kubectl(stores, "get", "configmap", "postgres")

    with controllers(server):
        sandbox.stack.destroy()
        gone = ["--for=delete", "namespace", "--selector=kinora.io/environment=sandbox", "--timeout=120s"]
        server.kubectl("wait", *gone)
    left = json.loads(server.kubectl("get", "--filename=-", "-o=json", "--ignore-not-found", given=expected))["items"]
    # Definitions outlive every environment.
    assert {identity(each) for each in left} == {
        identity(each) for each in expected if each["kind"] == "CustomResourceDefinition"
    }


@contextmanager
def controllers(server: Cluster) -> Iterator[None]:
    """Kubernetes's controllers, which complete deletions, and a stand-in for Argo CD's finalizer."""
    free = '--patch={"metadata":{"finalizers":null}}'
    server.kubectl("-n=kinora-sandbox-gitops", "patch", "application", "root", "--type=merge", free)
    process = subprocess.Popen(
        [
            BIN / CONTROLLERS,
            f"--kubeconfig={server.kubeconfig}",
            "--controllers=garbage-collector-controller,namespace-controller",
            "--leader-elect=false",
            "--secure-port=0",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _rotates(sandbox: Sandbox) -> None:
    """A rotation changes passwords, their Secrets, and the provisioning Job."""
    namespace = "kinora-sandbox-apps"
    secret = [f"-n={namespace}", "get", "secret", "auth-postgres"]
    url = [*secret, "-o=go-template={{.data.KINORA_POSTGRES_URL | base64decode}}"]
    unique = [*secret, "-o=jsonpath={.metadata.uid}"]
    before, same = sandbox.server.kubectl(*url), sandbox.server.kubectl(*unique)
    sandbox.configure(generations={"auth-postgres": 2})
    changed = sandbox.up()
    after = sandbox.server.kubectl(*url)
    assert (before.partition(":")[2].split(":")[0], after.partition(":")[2].split(":")[0]) == ("//auth_1", "//auth_2")
    assert before.split(":")[2] != after.split(":")[2]
    assert sandbox.server.kubectl(*unique) == same  # never deleted in between
    jobs = "kubernetes:batch/v1:Job"
    assert changed.keys() == {
        ("create", "random:index/randomPassword:RandomPassword"),
        ("update", "kubernetes:core/v1:Secret"),
        ("update", "kubernetes:core/v1:ConfigMap"),
        ("create", jobs),
        ("delete", jobs),
    }
    assert changed["update", "kubernetes:core/v1:Secret"] == {"auth-postgres", "postgres-provision"}
    assert changed["update", "kubernetes:core/v1:ConfigMap"] == {"postgres-provision"}


def _grows(sandbox: Sandbox) -> None:
    """Another size: every StatefulSet is updated in place and keeps its claims."""
    sets = ["get", "statefulsets", "-A", "-o=jsonpath={range .items[*]}{.metadata.name}={.metadata.uid} {end}"]
    before = sandbox.server.kubectl(*sets)
    sandbox.configure(size="medium")
    changed = sandbox.up()
    assert "postgres" in changed["update", "kubernetes:apps/v1:StatefulSet"]
    assert not {operation for operation, _ in changed} & {"replace", "create-replacement", "delete-replaced"}, changed
    assert sandbox.server.kubectl(*sets) == before
    assert sandbox.up() == {}
