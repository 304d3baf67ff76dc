"""A real API server for a test, and what is done with it. Nothing runs in it: it checks, and says who may do what."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apiserver
import pytest

needs_tools = pytest.mark.skipif(
    not all((apiserver.BIN / program).exists() for program in ("etcd", "kube-apiserver", "kubectl")),
    reason="etcd, kube-apiserver or kubectl is missing: `make tools`",
)


@dataclass(frozen=True)
class Cluster:
    kubeconfig: Path

    def kubectl(self, *words: str, given: list[Any] | None = None) -> str:
        """What kubectl prints; a warning is an error. ``given``: objects for its standard input (`-f -`)."""
        command = [str(apiserver.BIN / "kubectl"), f"--kubeconfig={self.kubeconfig}", "--warnings-as-errors", *words]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": given or []})
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        printed: str = done.stdout
        return printed

    def install(self, objects: list[Any]) -> None:
        definitions = [each for each in objects if each["kind"] == "CustomResourceDefinition"]
        self.kubectl("apply", "--server-side", "-f", "-", given=definitions)
        # `kubectl wait` fails on a definition that has no condition yet.
        deadline = time.monotonic() + 60
        names = [each["metadata"]["name"] for each in definitions]
        while not all(map(_established, json.loads(self.kubectl("get", "crd", *names, "--output=json"))["items"])):
            assert time.monotonic() < deadline, "the definitions are not established"
            time.sleep(0.1)
        others = [each for each in objects if each["kind"] != "CustomResourceDefinition"]
        self.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", given=others)

    def may(self, namespace: str, account: str, asked: list[tuple[str, str, str, str]]) -> list[bool]:
        """Whether a service account may: (verb, group, resource, namespace)."""
        reviews = [
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": f"system:serviceaccount:{namespace}:{account}",
                    "resourceAttributes": {"verb": verb, "group": group, "resource": resource, "namespace": where},
                },
            }
            for verb, group, resource, where in asked
        ]
        answers = self.kubectl("create", "-f", "-", "--output=jsonpath={.status.allowed} ", given=reviews).split()
        assert len(answers) == len(asked)
        return [answer == "true" for answer in answers]


def _established(definition: Any) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    return {"Established": "True"}.items() <= {each["type"]: each["status"] for each in conditions}.items()


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    with apiserver.api_server(folder) as kubeconfig:
        yield Cluster(kubeconfig)
