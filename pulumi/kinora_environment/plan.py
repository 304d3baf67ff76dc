"""Show what an environment contains and requires: `python -m kinora_environment.plan STACK`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from kinora_environment import config, needs
from kinora_environment.place import ROLES, namespace_name
from kinora_environment.policies import Manifest, pod_of
from kinora_environment.render import Rendered, configuration, render

PURPOSES: Mapping[str, str] = {
    "apps": "the services, deployed by Argo CD",
    "stores": "databases, broker and object storage",
    "gateway": "Traefik: the only public entry",
    "mesh": "Istio: mutual TLS and authorization",
    "monitoring": "metrics, alerts and dashboards",
    "gitops": "Argo CD: deploys from git",
}


@dataclass(frozen=True)
class Need:
    """Total requests of all replicas: CPU in millicores, memory and storage in MiB."""

    cpu: int = 0
    memory: int = 0
    storage: int = 0

    def __add__(self, other: Need) -> Need:
        return Need(self.cpu + other.cpu, self.memory + other.memory, self.storage + other.storage)

    def __mul__(self, times: int) -> Need:
        return Need(self.cpu * times, self.memory * times, self.storage * times)


@dataclass(frozen=True)
class Part:
    """A workload."""

    namespace: str
    kind: str
    name: str
    replicas: int
    need: Need


_FACTORS = {
    "": 1,
    "m": 1e-3,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
}


def quantity(text: str | int | float) -> float:
    """The value of a Kubernetes quantity: "250m" is 0.25, "1Gi" is 2**30."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if match is None or match[2] not in _FACTORS:
        raise ValueError(f"{text} is not a quantity")
    return float(match[1]) * _FACTORS[match[2]]


def _need(requests: Mapping[str, Any], storage: Any = 0) -> Need:
    mebi = 2**20
    return Need(
        round(quantity(requests.get("cpu", 0)) * 1000),
        round(quantity(requests.get("memory", 0)) / mebi),
        round(quantity(storage) / mebi),
    )


def _pod_need(manifest: Manifest) -> Need:
    """Init containers run before the others, so a pod needs the maximum of both."""
    pod = pod_of(manifest)
    assert pod is not None  # noqa: S101
    running, starting = Need(), Need()
    for container in pod["containers"]:
        running += _need(container.get("resources", {}).get("requests", {}))
    for container in pod.get("initContainers", []):
        one = _need(container.get("resources", {}).get("requests", {}))
        starting = Need(max(starting.cpu, one.cpu), max(starting.memory, one.memory))
    return Need(max(running.cpu, starting.cpu), max(running.memory, starting.memory))


def parts(rendered: Rendered) -> Iterator[Part]:
    """Long-running workloads. Not Jobs, and not node agents, whose total depends on the number of nodes."""
    for manifest in rendered.objects:
        spec = manifest.get("spec", {})
        match manifest["kind"]:
            case "Deployment":
                replicas, one = spec.get("replicas", 1), _pod_need(manifest)
            case "StatefulSet":
                claims = [
                    each["spec"]["resources"]["requests"]["storage"] for each in spec.get("volumeClaimTemplates", [])
                ]
                replicas, one = spec.get("replicas", 1), _pod_need(manifest)
                for claim in claims:
                    one += _need({}, claim)
            case "PersistentVolumeClaim":
                replicas, one = 1, _need({}, spec["resources"]["requests"]["storage"])
            case "Cluster":  # CloudNativePG
                replicas, one = spec["instances"], _need(spec["resources"]["requests"], spec["storage"]["size"])
            case "RabbitmqCluster":
                replicas = spec["replicas"]
                one = _need(spec["resources"]["requests"], spec["persistence"]["storage"])
            case "MongoDBCommunity":
                replicas, one = spec["members"], _mongo(spec["statefulSet"]["spec"])
            case "Prometheus" | "Alertmanager":
                claim = spec["storage"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"]
                replicas, one = spec["replicas"], _need(spec["resources"]["requests"], claim)
            case _:
                continue
        metadata = manifest["metadata"]
        yield Part(metadata["namespace"], manifest["kind"], metadata["name"], replicas, one * replicas)


def _mongo(spec: Mapping[str, Any]) -> Need:
    total = Need()
    for container in spec["template"]["spec"]["containers"]:
        total += _need(container.get("resources", {}).get("requests", {}))
    for claim in spec.get("volumeClaimTemplates", []):
        total += _need({}, claim["spec"]["resources"]["requests"]["storage"])
    return total


def prerequisites(stack: str, given: config.EnvironmentConfig) -> list[str]:
    """What `pulumi up` does not create: one sentence each, with the command that creates it."""
    stores = namespace_name(stack, "stores")
    kubectl = f"kubectl{f' --context {given.context}' if given.context else ''}"
    sentences = []
    if given.gateway.certificate:
        sentences.append(
            f"Secret {given.gateway.certificate} in {namespace_name(stack, 'gateway')}: the gateway's certificate."
            f" Once the namespace exists:\n  {kubectl} -n {namespace_name(stack, 'gateway')}"
            f" create secret tls {given.gateway.certificate} --cert=CERTIFICATE --key=KEY"
        )
    if given.postgres.backups and given.postgres.backups.storage:
        sentences.append(
            f"Secret {given.postgres.backups.storage.secret} (access_key, secret_key) in {stores}: for backups."
            f" Once the namespace exists, from files with one value each:\n  {kubectl} -n {stores} create secret"
            f" generic {given.postgres.backups.storage.secret} --from-file=access_key --from-file=secret_key"
        )
    for name, operator in OPERATORS.items():
        mode = given.monitoring.mode if name == "monitoring" else given.store(name).mode
        if mode == "operator" and operator:
            sentences.append(f"{operator} in the cluster")
    if given.keda:
        sentences.append("KEDA 2.20 in the cluster")
    if _scales_by_cpu(stack):
        sentences.append("metrics-server in the cluster, for scaling services by CPU usage")
    return sentences


def _scales_by_cpu(stack: str) -> bool:
    """Whether a service has a HorizontalPodAutoscaler (charts/service, `autoscale`)."""
    files = [*needs.APPS.glob("*/deploy/values.yaml"), *needs.APPS.glob(f"*/deploy/envs/{stack}/values.yaml")]
    workloads = [yaml.safe_load(file.read_text()).get("workloads", {}).values() for file in files]
    return any("cpu" in workload.get("autoscale", {}) for each in workloads for workload in each)


OPERATORS: Mapping[str, str] = {
    "postgres": "CloudNativePG 1.30",
    "mongo": "MongoDB Community Operator 0.9",
    "rabbitmq": "RabbitMQ Cluster Operator 2.22 and Messaging Topology Operator 1.20",
    "monitoring": "Prometheus Operator 0.85",
}
"""The operators for mode `operator`. One of each serves all environments of a cluster."""


def picture(stack: str, given: config.EnvironmentConfig, rendered: Rendered) -> Tree:
    tree = Tree(f"[bold]{stack}[/]  {given.public_url}  ({given.size})")
    running = list(parts(rendered))
    objects = rendered.objects
    for role in ROLES:
        namespace = namespace_name(stack, role)
        own = [each for each in objects if each["metadata"].get("namespace") == namespace]
        if not own:
            continue
        branch = tree.add(f"[bold]{namespace}[/]  {PURPOSES[role]}")
        for part in running:
            if part.namespace == namespace:
                times = f" x {part.replicas}" if part.replicas > 1 else ""
                branch.add(f"{part.name}{times}  [dim]{part.kind}[/]")
        if role == "apps":
            for identity, need in needs.read().items():
                secrets = [*need.stores(), *(["keys"] if need.keys else [])]
                branch.add(f"{identity}  [dim]gets[/] {', '.join(f'{identity}-{each}' for each in secrets)}")
        if role == "monitoring" and not given.monitoring.grafana:
            branch.add("no grafana  [dim]monitoring.grafana is false: there are no dashboards[/]")
    return tree


def table(rendered: Rendered) -> Table:
    shown = Table("part", "namespace", "replicas", "CPU", "memory", "storage", box=None)
    for column in shown.columns[2:]:
        column.justify = "right"
    total = Need()
    for part in parts(rendered):
        shown.add_row(part.name, part.namespace, str(part.replicas), *_words(part.need))
        total += part.need
    shown.add_section()
    shown.add_row("[bold]total[/]", "", "", *(f"[bold]{word}[/]" for word in _words(total)))
    return shown


def _words(need: Need) -> tuple[str, str, str]:
    return (
        f"{need.cpu / 1000:.2f}",
        f"{need.memory / 1024:.2f} GiB",
        f"{need.storage / 1024:.0f} GiB" if need.storage else "",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="plan", description=__doc__)
    parser.add_argument("stack")
    stack = parser.parse_args().stack
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    try:
        given = configuration(stack)
        rendered = render(stack, given)
    except config.ConfigError as error:
        sys.exit(str(error))
    console.print(picture(stack, given, rendered))
    console.print()
    console.print(table(rendered))
    console.print(f"\nIn addition, services may request up to {_quota(rendered)}.")
    if sentences := prerequisites(stack, given):
        console.print("\nYou provide:")
        for sentence in sentences:
            console.print(f"- {sentence}", soft_wrap=True)  # so that commands can be copied


def _quota(rendered: Rendered) -> str:
    (quota,) = (each for each in rendered.objects if each["kind"] == "ResourceQuota")
    hard = quota["spec"]["hard"]
    cpu, memory, _ = _words(_need({"cpu": hard["requests.cpu"], "memory": hard["requests.memory"]}))
    return f"{cpu} CPUs and {memory}"


if __name__ == "__main__":
    main()
