"""istioctl for tests: injects proxies like Istio's webhook, and analyses a cluster."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from cluster import Cluster

from kinora_environment import helm
from kinora_environment.place import namespace_name, prefix

ROOT = Path(__file__).resolve().parents[2]
Manifest = dict[str, Any]


def policies(environment: str = "test", **values: Any) -> list[Manifest]:
    """The objects that Argo CD deploys from istio/."""
    given = {"environment": environment, "publicUrl": f"https://{environment}.example", **values}
    return helm.template(json.dumps({"chart": "istio", "release_name": "istio", "values": given}), ROOT)


def inject(objects: Iterable[Manifest], environment: str, deployment: Manifest) -> Manifest:
    """A Deployment's pod template after injection by the environment's istiod.

    ``objects``: the environment's objects, including istiod's configuration.
    """
    own = prefix(environment)
    maps = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
    (istiod,) = (
        each for each in objects if (each["kind"], each["metadata"]["name"]) == ("Deployment", f"istiod-{own}")
    )
    variables = istiod["spec"]["template"]["spec"]["containers"][0]["env"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {
            "injectConfigFile": maps[f"istio-sidecar-injector-{own}"]["config"],
            "valuesFile": maps[f"istio-sidecar-injector-{own}"]["values"],
            "meshConfigFile": maps[f"istio-{own}"]["mesh"],
            "filename": json.dumps(deployment),
        }
        for option, text in files.items():
            (folder / option).write_text(text)
        printed = istioctl(
            "kube-inject",
            f"--revision={own}",
            "--kubeconfig=/dev/null",
            *(f"--{option}={folder / option}" for option in files),
            variables={each["name"]: each["value"] for each in variables if "value" in each},
        )
    template: Manifest = next(yaml.safe_load_all(printed))["spec"]["template"]
    return template


def analyse(cluster: Cluster, environment: str) -> list[str]:
    """The warnings of `istioctl analyze` for a cluster, one sentence each.

    It analyses a cluster, because with files it skips checks of references to services, pods or namespaces.
    """
    printed = istioctl(
        "analyze",
        "--all-namespaces",
        f"--kubeconfig={cluster.kubeconfig}",
        f"--istioNamespace={namespace_name(environment, 'mesh')}",
        f"--revision={prefix(environment)}",
        "--output-threshold=Warning",
        "--output=json",
    )
    return sorted(f"{each['level']} {each['code']} {each['origin']}: {each['message']}" for each in json.loads(printed))


def istioctl(*words: str, variables: Mapping[str, str] | None = None) -> str:
    command = [helm.program("istioctl"), *words]
    environment = {**os.environ, **(variables or {})}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
