"""A real API server for tests. It runs nothing: it validates objects and answers who may do what."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apiserver

from kinora_environment import upstream
from kinora_environment.render import identity


class Refused(Exception):
    pass


@dataclass(frozen=True)
class Cluster:
    kubeconfig: Path

    def kubectl(self, *words: str, given: list[Any] | None = None) -> str:
        """The output of kubectl; warnings are errors. ``given``: objects for its standard input (`-f -`).

        Raises:
            Refused: with kubectl's error message.
        """
        command = [str(apiserver.BIN / "kubectl"), f"--kubeconfig={self.kubeconfig}", "--warnings-as-errors", *words]
        text = json.dumps(
            given if isinstance(given, dict) else {"apiVersion": "v1", "kind": "List", "items": given or []}
        )
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode != 0:
            raise Refused(done.stderr)
        printed: str = done.stdout
        return printed

    def install(self, objects: list[Any]) -> None:
        """Apply objects whose definitions the server has: applying definitions again takes seconds of CPU."""
        self.apply([each for each in objects if each["kind"] != "CustomResourceDefinition"])

    def apply(self, objects: list[Any]) -> dict[tuple[str, str, str], str]:
        """Apply objects; returns the resource version of each."""
        answer = json.loads(
            self.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", "--output=json", given=objects)
        )
        items = answer["items"] if answer["kind"] == "List" else [answer]
        return {identity(each): each["metadata"]["resourceVersion"] for each in items}

    def await_definitions(self) -> None:
        # `kubectl wait` fails on a definition that has no condition yet.
        deadline = time.monotonic() + 60
        while not all(map(_established, json.loads(self.kubectl("get", "crd", "--output=json"))["items"])):
            assert time.monotonic() < deadline, "the definitions are not established"
            time.sleep(0.1)

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


@contextmanager
def cluster_with_definitions(folder: Path) -> Iterator[Cluster]:
    """With all custom resource definitions that an environment may use."""
    with cluster(folder) as started:
        sets = [name for name in upstream.names() if name.endswith("crds")]
        started.kubectl("apply", "--server-side", *(f"-f={file}" for name in sets for file in upstream.files(name)))
        started.await_definitions()
        yield started
