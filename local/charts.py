"""Render our charts with Helm for a committed environment, with the values that Argo CD passes.

For tests and for tools in either virtual environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
HELM = ROOT / ".kinora" / "bin" / "helm"

Manifest = dict[str, Any]

GATEWAY_FILES = [ROOT / "traefik" / "dynamic" / f"{name}.yml" for name in ("middlewares", "services", "routes")]


VARIABLES = {
    "postgres": ["KINORA_POSTGRES_URL"],
    "mongo": ["KINORA_MONGO_URL"],
    "redis": ["KINORA_REDIS_URL"],
    "rabbitmq": ["KINORA_RABBITMQ_URL"],
    "s3": ["KINORA_S3_URL", "KINORA_S3_ACCESS_KEY", "KINORA_S3_SECRET_KEY"],
}
"""The keys of each store's Secret <identity>-<store>, which Pulumi creates: the service's variables."""

PORTS = {
    "postgres": (5432, 5432),
    "mongo": (27017, 27017),
    "redis": (6379, 6379),
    "rabbitmq": (5671, 5672),
    "s3": (443, 80),
}
"""Default ports of external stores: with TLS, and without."""


class Refused(Exception):
    """Helm's error message."""


def apps() -> list[str]:
    return sorted(file.parents[1].name for file in ROOT.glob("apps/*/deploy/values.yaml"))


def environments(app: str) -> list[str]:
    return sorted(file.parent.name for file in (ROOT / "apps" / app / "deploy" / "envs").glob("*/version.yaml"))


def configuration(environment: str) -> dict[str, Any]:
    """The configuration of a committed stack."""
    file = ROOT / "pulumi" / f"Pulumi.{environment}.yaml"
    given: dict[str, Any] = yaml.safe_load(file.read_text())["config"]["kinora:environment"]
    return given


def facts(environment: str) -> dict[str, Any]:
    """The facts about a committed stack that Pulumi passes to Argo CD."""
    given = configuration(environment)
    return {
        "name": environment,
        "publicUrl": given["public_url"],
        "mesh": given.get("mesh", {}).get("enabled", True),
        "monitoring": given.get("monitoring", {}).get("mode", "single"),
        "keda": given.get("keda", False),
        "trustedAddresses": given.get("gateway", {}).get("trusted_addresses", []),
    }


def external(environment: str) -> dict[str, dict[str, Any]]:
    """The addresses of external stores, as Pulumi passes them to Argo CD (istio/values.yaml)."""
    found = {}
    for store, ports in PORTS.items():
        given = configuration(environment).get(store, {}).get("external")
        if given is not None:
            tls = given.get("tls", True)
            host, _, port = given["address"].partition(":")
            protocol = "TLS" if tls and store != "postgres" else "TCP"
            found[store] = {"host": host, "port": int(port or ports[0 if tls else 1]), "protocol": protocol}
    return found


def values(app: str, environment: str) -> list[Path]:
    """The value files of a release; each overrides the ones before it."""
    folder = ROOT / "apps" / app / "deploy"
    own = folder / "envs" / environment
    files = [folder / "values.yaml", own / "values.yaml", own / "version.yaml"]
    return [file for file in files if file.exists()]


def service(app: str, environment: str) -> list[Manifest]:
    """The objects of an app in an environment."""
    return template("service", app, values(app, environment), {"environment": facts(environment)})


def gateway(environment: str) -> list[Manifest]:
    """The objects that the routes of all apps share."""
    return template("gateway", "gateway", GATEWAY_FILES, {"environment": facts(environment)})


def mesh(environment: str) -> list[Manifest]:
    """The mesh's policies; empty without a mesh."""
    known = facts(environment)
    given = {"environment": known["name"], "publicUrl": known["publicUrl"], "external": external(environment)}
    return template("../istio", "mesh", [], given) if known["mesh"] else []


def root() -> list[Manifest]:
    """The manifests in argocd/, from which Argo CD finds all of these; the same in every environment."""
    files = sorted((ROOT / "argocd").rglob("*.yaml"))
    return [each for file in files for each in yaml.safe_load_all(file.read_text()) if each]


def deployed(environment: str) -> dict[str, list[Manifest]]:
    """Everything that Argo CD deploys in an environment, by application."""
    render: dict[str, Callable[[], list[Manifest]]] = {
        **{app: partial(service, app, environment) for app in apps() if environment in environments(app)},
        "gateway": partial(gateway, environment),
        "mesh": partial(mesh, environment),
        "root": root,
    }
    with ThreadPoolExecutor(4) as threads:  # most of Helm's time is start-up
        return dict(zip(render, threads.map(lambda each: each(), render.values()), strict=True))


def template(chart: str, release: str, files: list[Path], given: Mapping[str, Any]) -> list[Manifest]:
    """The objects that a chart renders from value files, overridden by ``given``.

    Raises:
        Refused: when the chart rejects the values, or Helm is missing.
    """
    if not HELM.exists():
        raise Refused("helm is missing: `make tools`")
    command = [str(HELM), "template", release, str(ROOT / "charts" / chart), *(f"--values={file}" for file in files)]
    done = subprocess.run(
        [*command, "--values=-"], input=json.dumps(given), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(done.stderr.strip())
    return [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]


if __name__ == "__main__":  # for `make diff`, which runs the version of each side
    try:
        json.dump(deployed(sys.argv[1]), sys.stdout)
    except Refused as refused:
        sys.exit(str(refused))
