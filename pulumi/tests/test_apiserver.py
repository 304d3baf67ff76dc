"""A real API server takes the objects of all stacks, side by side: without a warning, then without a change."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from apiserver import api_server

from kinora_environment import render, upstream
from kinora_environment.render import PROJECT, identity

KUBECTL = PROJECT.parent / ".kinora" / "bin" / "kubectl"


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    with api_server(tmp_path_factory.mktemp("apiserver")) as kubeconfig:

        def run(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
            command = [str(KUBECTL), f"--kubeconfig={kubeconfig}", "--warnings-as-errors", *words]
            return subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=120)

        files = [
            f"--filename={file}" for name in upstream.names() if name.endswith("crds") for file in upstream.files(name)
        ]
        taken = run("apply", "--server-side", *files)
        assert taken.returncode == 0, taken.stderr
        established = run("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        assert established.returncode == 0, established.stderr
        yield run


def as_list(objects: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def apply(kubectl: Callable[..., subprocess.CompletedProcess[str]], objects: list[dict[str, Any]]) -> dict[Any, str]:
    """Applies the objects, and returns the version that each has then."""
    taken = kubectl("apply", "--server-side", "--validate=strict", "-f", "-", "-o", "json", given=as_list(objects))
    assert taken.returncode == 0, taken.stderr
    answer = json.loads(taken.stdout)
    items = answer["items"] if answer["kind"] == "List" else [answer]
    return {identity(each): each["metadata"]["resourceVersion"] for each in items}


@pytest.mark.parametrize("stack", render.stacks())
def test_a_stack_is_taken_without_a_warning_and_then_without_a_change(
    kubectl: Callable[..., subprocess.CompletedProcess[str]], rendered: Callable[[str], render.Rendered], stack: str
) -> None:
    objects = rendered(stack).objects
    first = apply(kubectl, objects)
    assert len(first) == len(objects)
    assert apply(kubectl, objects) == first


def test_what_is_wrong_is_not_taken(kubectl: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """The test above can fail: for an unknown field, and for a warning."""
    metadata = {"name": "wrong", "namespace": "kinora-dev-apps"}
    unknown = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "dota": {}}
    taken = kubectl("apply", "--server-side", "--validate=strict", "-f", "-", given=json.dumps(unknown))
    assert taken.returncode != 0
    assert "dota" in taken.stderr
    pod = {"containers": [{"name": "main", "image": "x:1"}]}
    template = {"metadata": {"labels": {"app": "wrong"}}, "spec": pod}
    spec = {"selector": {"matchLabels": {"app": "wrong"}}, "template": template}
    root = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
    taken = kubectl("apply", "--server-side", "-f", "-", given=json.dumps(root))
    assert taken.returncode != 0
    assert "would violate PodSecurity" in taken.stderr
