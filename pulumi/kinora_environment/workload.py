"""Containers and pods with every restriction on, and the component for StatefulSets and Deployments."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from kinora_environment.place import Place, role_selector, selector
from kinora_environment.sizes import Resources

Input = pulumi.Input[str]

CLAIMS = "spec.volumeClaimTemplates"
"""Ignored on updates: Kubernetes forbids changing it, so Pulumi would recreate the StatefulSet, and lose its data.
Existing claims are expanded one by one; see docs/environments.md."""


@dataclass(frozen=True)
class Secret:
    """A key of a Secret."""

    name: Input
    key: str


@dataclass(frozen=True)
class Volume:
    """A volume and its mount path. Its source is one of the next four, or it is empty."""

    path: str
    secret: Input | None = None
    config: Input | None = None
    claim: Input | None = None
    persistent: bool = False
    """A claim per replica, of the size ``resources.disk``."""
    memory_mib: int = 64
    """The size limit of an empty volume."""
    mode: int | None = None


@dataclass(frozen=True)
class Container:
    name: str
    image: str
    resources: Resources
    command: Sequence[str] = ()
    args: Sequence[str] = ()
    environment: Mapping[str, Input | Secret] = field(default_factory=dict)
    environment_from: Sequence[Input] = ()
    """Secrets whose keys all become variables."""
    ports: Mapping[str, int] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    """A volume of the pod -> path, or path:subpath; default: all volumes at their own paths."""
    ready: Mapping[str, Any] | None = None
    """The readiness probe's handler."""
    alive: Mapping[str, Any] | None = None


def quantities(resources: Resources) -> dict[str, Any]:
    # The memory request equals the limit: evicting a store because of overcommitment costs more than the memory.
    return {
        "requests": {"cpu": f"{resources.cpu}m", "memory": f"{resources.memory}Mi"},
        "limits": {"cpu": f"{resources.cpu_limit}m", "memory": f"{resources.memory}Mi"},
    }


def container(spec: Container, volumes: Mapping[str, Volume]) -> dict[str, Any]:
    mounts = spec.volumes or {name: volume.path for name, volume in volumes.items()}
    made: dict[str, Any] = {
        "name": spec.name,
        "image": spec.image,
        "image_pull_policy": "IfNotPresent",
        "resources": quantities(spec.resources),
        "security_context": {
            "allow_privilege_escalation": False,
            "read_only_root_filesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volume_mounts": [_mount(name, path, volumes[name]) for name, path in mounts.items()],
    }
    if spec.command:
        made["command"] = list(spec.command)
    if spec.args:
        made["args"] = list(spec.args)
    if spec.environment:
        made["env"] = [_variable(name, value) for name, value in spec.environment.items()]
    if spec.environment_from:
        made["env_from"] = [{"secret_ref": {"name": name}} for name in spec.environment_from]
    if spec.ports:
        made["ports"] = [{"name": name, "container_port": port} for name, port in spec.ports.items()]
    if spec.ready is not None:
        made["readiness_probe"] = {**spec.ready, "period_seconds": 5, "timeout_seconds": 5, "failure_threshold": 3}
        # The same probe until its first success: a slow start is not a failure.
        made["startup_probe"] = {**spec.ready, "period_seconds": 2, "timeout_seconds": 5, "failure_threshold": 150}
    if spec.alive is not None:
        made["liveness_probe"] = {**spec.alive, "period_seconds": 20, "timeout_seconds": 10, "failure_threshold": 6}
    return made


def _variable(name: str, value: Input | Secret) -> dict[str, Any]:
    if isinstance(value, Secret):
        return {"name": name, "value_from": {"secret_key_ref": {"name": value.name, "key": value.key}}}
    return {"name": name, "value": value}


def _mount(name: str, path: str, volume: Volume) -> dict[str, Any]:
    path, _, sub_path = path.partition(":")
    mount: dict[str, Any] = {"name": name, "mount_path": path}
    if sub_path:
        mount["sub_path"] = sub_path
    if volume.secret is not None or volume.config is not None:
        mount["read_only"] = True
    return mount


def _volume(name: str, volume: Volume) -> dict[str, Any]:
    mode = {} if volume.mode is None else {"default_mode": volume.mode}
    if volume.secret is not None:
        return {"name": name, "secret": {"secret_name": volume.secret, **mode}}
    if volume.config is not None:
        return {"name": name, "config_map": {"name": volume.config, **mode}}
    if volume.claim is not None:
        return {"name": name, "persistent_volume_claim": {"claim_name": volume.claim}}
    return {"name": name, "empty_dir": {"size_limit": f"{volume.memory_mib}Mi"}}


def pod(
    *,
    place: Place,
    name: str,
    user: int,
    containers: Sequence[Container],
    before: Sequence[Container] = (),
    volumes: Mapping[str, Volume] | None = None,
    service_account: pulumi.Input[str],
    token: bool = False,
    annotations: Mapping[str, Input] | None = None,
    restart: str | None = None,
    grace_seconds: int = 30,
    spread: bool = False,
) -> dict[str, Any]:
    """A pod template with the Pod Security profile *restricted* and a read-only root file system.

    ``before``: init containers. ``token``: whether the pod uses the API server.
    """
    volumes = volumes or {}
    spec: dict[str, Any] = {
        "service_account_name": service_account,
        "automount_service_account_token": token,
        "enable_service_links": False,
        "termination_grace_period_seconds": grace_seconds,
        "security_context": {
            "run_as_non_root": True,
            "run_as_user": user,
            "run_as_group": user,
            "fs_group": user,
            "fs_group_change_policy": "OnRootMismatch",
            "seccomp_profile": {"type": "RuntimeDefault"},
        },
        "containers": [container(each, volumes) for each in containers],
        "volumes": [_volume(key, volume) for key, volume in volumes.items() if not volume.persistent],
    }
    if before:
        spec["init_containers"] = [container(each, volumes) for each in before]
    if restart:
        spec["restart_policy"] = restart
    if spread:
        spec["topology_spread_constraints"] = [
            {
                "max_skew": 1,
                "topology_key": "kubernetes.io/hostname",
                "when_unsatisfiable": "ScheduleAnyway",
                "label_selector": {"match_labels": selector(name)},
            }
        ]
    return {"metadata": {"labels": place.labels(name), "annotations": dict(annotations or {})}, "spec": spec}


def checksum(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class WorkloadArgs:
    place: Place
    user: int
    containers: Sequence[Container]
    """The ports of the first one are the service's."""
    before: Sequence[Container] = ()
    volumes: Mapping[str, Volume] = field(default_factory=dict)
    replicas: int = 1
    stateful: bool = True
    clients: Sequence[str] = ()
    """Roles of the namespaces whose pods may connect."""
    disk_mib: int = 0
    storage_class: str | None = None
    retain: bool = True
    """Whether the volumes outlive the workload. Scaling down to zero never deletes them."""
    protect: bool = False
    """Whether Pulumi refuses to delete the StatefulSet."""
    service_account: str | None = None
    """An existing one; default: a new one without permissions."""
    token: bool = False
    annotations: Mapping[str, Input] = field(default_factory=dict)
    configuration: str = ""
    """A change restarts the pods."""
    service: Mapping[str, Any] | None = None
    """Additional fields of the Service's spec."""
    grace_seconds: int = 30
    parallel: bool = False
    """Whether the replicas start in parallel instead of one by one."""

    def __post_init__(self) -> None:
        if self.disk_mib and not any(volume.persistent for volume in self.volumes.values()):
            raise ValueError("disk_mib without a persistent volume")


class Workload(pulumi.ComponentResource):
    """A StatefulSet or Deployment with its Service, service account, disruption budget and network policies."""

    def __init__(self, name: str, args: WorkloadArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("kinora:environment:Workload", name, None, opts)
        self.name, self.place = name, args.place
        child = pulumi.ResourceOptions(parent=self)
        account = args.service_account or self._account(child)
        template = pod(
            place=args.place,
            name=name,
            user=args.user,
            containers=args.containers,
            before=args.before,
            volumes=args.volumes,
            service_account=account,
            token=args.token,
            annotations={
                **({"checksum/configuration": checksum(args.configuration)} if args.configuration else {}),
                **args.annotations,
            },
            grace_seconds=args.grace_seconds,
            spread=args.replicas > 1,
        )
        self.ports = dict(args.containers[0].ports)
        self._service(args, child)
        if args.stateful:
            self._stateful_set(args, template, child)
        else:
            k8s.apps.v1.Deployment(
                name,
                metadata=self._metadata(name),
                spec={
                    "replicas": args.replicas,
                    "revision_history_limit": 3,
                    "selector": {"match_labels": selector(name)},
                    "strategy": {"type": "RollingUpdate", "rolling_update": {"max_unavailable": 0, "max_surge": 1}},
                    "template": template,
                },
                opts=child,
            )
        if args.replicas > 1:
            budget(name, args.place, selector(name), child)
        if args.clients:
            allow(name, args.place, clients=args.clients, ports=self._all_ports(args), opts=child)
        self.host = pulumi.Output.from_input(args.place.host(name))
        self.register_outputs({"host": self.host})

    def _all_ports(self, args: WorkloadArgs) -> list[int]:
        return sorted({port for each in args.containers for port in each.ports.values()})

    def _metadata(self, name: str) -> dict[str, Any]:
        return {"name": name, "namespace": self.place.created, "labels": self.place.labels(self.name)}

    def _account(self, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
        account = k8s.core.v1.ServiceAccount(
            self.name, metadata=self._metadata(self.name), automount_service_account_token=False, opts=opts
        )
        return named(account)

    def _service(self, args: WorkloadArgs, opts: pulumi.ResourceOptions) -> None:
        ports = [{"name": name, "port": port, "target_port": name} for name, port in self.ports.items()]
        self.service = k8s.core.v1.Service(
            self.name,
            metadata=self._metadata(self.name),
            spec={"selector": selector(self.name), "ports": ports, **(args.service or {})},
            opts=opts,
        )
        if args.stateful:
            # A DNS name for each replica, even before it is ready: replicas find each other by these names.
            k8s.core.v1.Service(
                f"{self.name}-replicas",
                metadata=self._metadata(f"{self.name}-replicas"),
                spec={
                    "cluster_ip": "None",
                    "publish_not_ready_addresses": True,
                    "selector": selector(self.name),
                    "ports": ports,
                },
                opts=opts,
            )

    def _stateful_set(self, args: WorkloadArgs, template: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        keep = "Retain" if args.retain else "Delete"
        claims = [
            {
                "metadata": {"name": key, "labels": self.place.labels(self.name)},
                "spec": {
                    "access_modes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": f"{args.disk_mib}Mi"}},
                    **({"storage_class_name": args.storage_class} if args.storage_class else {}),
                },
            }
            for key, volume in args.volumes.items()
            if volume.persistent
        ]
        k8s.apps.v1.StatefulSet(
            self.name,
            metadata=self._metadata(self.name),
            spec={
                "replicas": args.replicas,
                "service_name": f"{self.name}-replicas",
                "selector": {"match_labels": selector(self.name)},
                "pod_management_policy": "Parallel" if args.parallel else "OrderedReady",
                "revision_history_limit": 3,
                "persistent_volume_claim_retention_policy": {"when_deleted": keep, "when_scaled": "Retain"},
                "template": template,
                "volume_claim_templates": claims,
            },
            opts=pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(protect=args.protect, ignore_changes=[CLAIMS])
            ),
        )


def scraped(port: int, path: str = "/metrics") -> dict[str, str]:
    """The scrape annotations for a pod's metrics, read by monitoring.py."""
    elsewhere = {} if path == "/metrics" else {"prometheus.io/path": path}
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), **elsewhere}


def named(resource: Any) -> pulumi.Output[str]:
    """A resource's name, as an output: users of it wait for the resource."""
    name: pulumi.Output[str] = resource.metadata.apply(lambda metadata: metadata["name"])
    return name


def allow(
    name: str,
    place: Place,
    *,
    ports: Sequence[int],
    opts: pulumi.ResourceOptions,
    clients: Sequence[str] = (),
    operators: Sequence[str] = (),
    pods: Mapping[str, str] | None = None,
) -> None:
    """Allow ingress to the pods of the workload ``name``; everything else is denied.

    ``clients``: roles of namespaces of the environment. ``operators``: names of other namespaces of the cluster.
    ``pods``: the labels of the workload's pods, if they differ from ours.
    """
    sources = [{"namespace_selector": role_selector(place.environment, role)} for role in clients]
    sources += [{"namespace_selector": {"match_labels": {"kubernetes.io/metadata.name": each}}} for each in operators]
    k8s.networking.v1.NetworkPolicy(
        name,
        metadata={"name": name, "namespace": place.created, "labels": place.labels(name)},
        spec={
            "pod_selector": {"match_labels": dict(pods or selector(name))},
            "policy_types": ["Ingress"],
            "ingress": [
                {
                    "from_": sources,
                    "ports": [{"port": port, "protocol": "TCP"} for port in ports],
                }
            ],
        },
        opts=opts,
    )


def budget(name: str, place: Place, pods: Mapping[str, str], opts: pulumi.ResourceOptions) -> None:
    """Allow evicting one replica at a time when nodes are drained. ``pods``: their labels."""
    k8s.policy.v1.PodDisruptionBudget(
        name,
        metadata={"name": name, "namespace": place.created, "labels": place.labels(name)},
        spec={"max_unavailable": 1, "selector": {"match_labels": dict(pods)}},
        opts=opts,
    )


# Both return the name as an output, so that users of it are created after the object.


def config_map(name: str, place: Place, data: Mapping[str, Input], opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    made = k8s.core.v1.ConfigMap(
        name,
        metadata={"name": name, "namespace": place.created, "labels": place.labels(name)},
        data=dict(data),
        opts=opts,
    )
    return named(made)


def secret(name: str, place: Place, data: Mapping[str, Input], opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    made = k8s.core.v1.Secret(
        name,
        metadata={"name": name, "namespace": place.created, "labels": place.labels(name)},
        string_data=pulumi.Output.secret(dict(data)),
        opts=opts,
    )
    return named(made)


def job(
    name: str,
    place: Place,
    *,
    user: int,
    container: Container,
    volumes: Mapping[str, Volume],
    fingerprint: str,
    opts: pulumi.ResourceOptions,
) -> None:
    """An idempotent provisioning task for a store. It runs once, again (as another Job) when its fingerprint changes,
    and every few minutes, so that a store that comes back empty is provisioned automatically.
    """
    unique = f"{name}-{fingerprint[:8]}"
    account = k8s.core.v1.ServiceAccount(
        name,
        metadata={"name": name, "namespace": place.created, "labels": place.labels(name)},
        automount_service_account_token=False,
        opts=opts,
    )
    template = pod(
        place=place,
        name=name,
        user=user,
        containers=[container],
        volumes=volumes,
        service_account=named(account),
        restart="OnFailure",
    )
    # It waits for its store by failing; six retries with backoff take about ten minutes.
    task = {"backoff_limit": 6, "active_deadline_seconds": 900, "template": template}
    k8s.batch.v1.Job(
        unique,
        metadata={"name": unique, "namespace": place.created, "labels": place.labels(name)},
        spec=task,
        opts=opts,
    )
    k8s.batch.v1.CronJob(
        name,
        metadata={"name": name, "namespace": place.created, "labels": place.labels(name)},
        spec={
            "schedule": "*/5 * * * *",
            "concurrency_policy": "Forbid",
            "successful_jobs_history_limit": 1,
            "failed_jobs_history_limit": 1,
            "job_template": {"spec": task},
        },
        opts=opts,
    )
