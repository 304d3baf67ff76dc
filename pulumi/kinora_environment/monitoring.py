"""Prometheus, Alertmanager and Grafana of an environment. They monitor only its own namespaces.

Rules and dashboards are read from observability/. Nothing outside of the monitoring namespace may connect to any of the
three, and the gateway has no route to them: people use `kubectl port-forward`.

A pod is scraped if it has the annotations prometheus.io/scrape ("true"), prometheus.io/port and, unless it is /metrics,
prometheus.io/path; or a port named `metrics`. Istio rewrites these annotations to a port of its sidecar that forwards
the metrics, so they also work in the mesh.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import yaml

from kinora_environment import config, rabbitmq
from kinora_environment.place import Place, selector
from kinora_environment.sizes import Resources, Sizes
from kinora_environment.workload import (
    Container,
    Secret,
    Volume,
    Workload,
    WorkloadArgs,
    budget,
    config_map,
    named,
    quantities,
    scraped,
    secret,
)

OBSERVABILITY = Path(__file__).resolve().parents[2] / "observability"

PROMETHEUS, ALERTMANAGER, GRAFANA = "prometheus", "alertmanager", "grafana"
PROMETHEUS_PORT, ALERTMANAGER_PORT, GRAFANA_PORT = 9090, 9093, 3000
USER = 65534
"""The user `nobody` in the images of Prometheus and Alertmanager."""
GRAFANA_USER = 472
OPERATED_REPLICAS = 2
"""Replicas of Prometheus, each of which scrapes everything, and of Alertmanager, which deduplicate notifications."""

INTERVAL = "15s"
WEBHOOK = "alertmanager-webhook"

_POD = "__meta_kubernetes_pod"
_SCRAPE, _PORT, _PATH = (f"{_POD}_annotation_prometheus_io_{name}" for name in ("scrape", "port", "path"))

Relabeling = Mapping[str, Any]

RUNNING: Relabeling = {"source_labels": [f"{_POD}_phase"], "regex": "Succeeded|Failed", "action": "drop"}
LABELS: Sequence[Relabeling] = (
    {"source_labels": [f"{_POD}_label_app_kubernetes_io_name"], "regex": "(.+)", "target_label": "job"},
    {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
    {"source_labels": [f"{_POD}_name"], "target_label": "pod"},
)


@dataclass(frozen=True)
class Job:
    """A scrape job: which pods, and where their metrics are."""

    name: str
    relabelings: Sequence[Relabeling]
    roles: Sequence[str] | None = None
    """Roles of the pods' namespaces; default: all."""
    path: str | None = None
    params: Mapping[str, list[str]] | None = None


JOBS = (
    Job(
        "pods",
        [
            RUNNING,
            # Prometheus discovers a pod once per port: without the annotation, only one port matches; with it, all
            # become the same target and are deduplicated.
            {
                "source_labels": [_SCRAPE, _PORT, f"{_POD}_container_port_name"],
                "regex": r"true;\d+;.*|(true)?;;metrics",
                "action": "keep",
            },
            {
                "source_labels": ["__address__", _PORT],
                "regex": r"(\[.+\]|[^:]+)(:\d+)?;(\d+)",
                "replacement": "$1:$3",
                "target_label": "__address__",
            },
            {"source_labels": [_PATH], "regex": "(.+)", "target_label": "__metrics_path__"},
            *LABELS,
        ],
    ),
    # By default RabbitMQ reports the sum of all queues; lengths per queue must be requested.
    Job(
        "rabbitmq-queues",
        [
            RUNNING,
            {
                "source_labels": [f"{_POD}_label_app_kubernetes_io_name", f"{_POD}_container_port_number"],
                "regex": f"rabbitmq;{rabbitmq.METRICS_PORT}",
                "action": "keep",
            },
            *LABELS[1:],
        ],
        roles=["stores"],
        path="/metrics/detailed",
        params={"family": ["queue_coarse_metrics"], "vhost": [rabbitmq.VHOST]},
    ),
)

# Grafana only uses Prometheus: no telemetry or update checks.
GRAFANA_SETTINGS = {
    "GF_PATHS_DATA": "/var/lib/grafana",
    "GF_PATHS_PLUGINS": "/var/lib/grafana/plugins",
    "GF_PATHS_PROVISIONING": "/provisioning",
    "GF_LOG_MODE": "console",
    "GF_AUTH_ANONYMOUS_ENABLED": "false",
    "GF_USERS_ALLOW_SIGN_UP": "false",
    "GF_SECURITY_ADMIN_USER": "admin",
    "GF_SECURITY_DISABLE_GRAVATAR": "true",
    "GF_ANALYTICS_REPORTING_ENABLED": "false",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "GF_ANALYTICS_FEEDBACK_LINKS_ENABLED": "false",
    "GF_NEWS_NEWS_FEED_ENABLED": "false",
    "GF_PLUGINS_PLUGIN_ADMIN_ENABLED": "false",
    "GF_PLUGINS_PREINSTALL_DISABLED": "true",
    "GF_SNAPSHOTS_EXTERNAL_ENABLED": "false",
}


@dataclass(frozen=True)
class MonitoringArgs:
    place: Place
    config: config.Monitoring
    sizes: Sizes
    images: Mapping[str, str]
    watched: list[Place]
    """The namespaces whose pods are scraped."""
    admin_password: pulumi.Output[str] | None
    """Grafana's password, if Grafana is enabled."""
    storage_class: str | None
    retain: bool
    """Whether the data outlives Prometheus."""
    protect: bool
    """Whether Pulumi refuses to delete the data."""


def rule_files() -> Mapping[str, str]:
    """The rule files of every environment: name -> text."""
    return {file.name: file.read_text() for file in sorted((OBSERVABILITY / "rules").glob("*.yml"))}


def dashboards() -> Mapping[str, str]:
    """Name -> JSON."""
    return {file.stem: file.read_text() for file in sorted((OBSERVABILITY / "dashboards").glob("*.json"))}


def prometheus_configuration(args: MonitoringArgs) -> dict[str, Any]:
    """prometheus.yml for mode single."""
    return {
        "global": {
            "scrape_interval": INTERVAL,
            "evaluation_interval": INTERVAL,
            "external_labels": {"environment": args.place.environment},
        },
        "rule_files": ["/rules/*.yml"],
        "alerting": {
            "alertmanagers": [
                {"static_configs": [{"targets": [f"{args.place.host(ALERTMANAGER)}:{ALERTMANAGER_PORT}"]}]}
            ]
        },
        "scrape_configs": [
            {
                "job_name": job.name,
                **({"metrics_path": job.path} if job.path else {}),
                **({"params": job.params} if job.params else {}),
                "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": namespaces(job, args)}}],
                "relabel_configs": list(job.relabelings),
            }
            for job in JOBS
        ],
    }


def namespaces(job: Job, args: MonitoringArgs) -> list[str]:
    return [place.namespace for place in args.watched if job.roles is None or place.role in job.roles]


def alertmanager_configuration(webhook: str | None) -> dict[str, Any]:
    """alertmanager.yml. ``webhook``: the file with the webhook's URL; if None, alerts are only displayed.

    Alertmanager reads the file for each notification.
    """
    receiver: dict[str, Any] = {"name": "nobody"}
    if webhook:
        receiver = {"name": "webhook", "webhook_configs": [{"url_file": webhook, "send_resolved": True}]}
    return {
        "route": {
            "receiver": receiver["name"],
            "group_by": ["alertname", "namespace"],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": "12h",
        },
        "receivers": [receiver],
    }


class Monitoring(pulumi.ComponentResource):
    """Attributes ``grafana`` and ``prometheus``: how to open each."""

    def __init__(self, name: str, args: MonitoringArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("kinora:environment:Monitoring", name, None, opts)
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        if args.config.alert_webhook is not None:
            secret(WEBHOOK, args.place, {"url": args.config.alert_webhook.get_secret_value()}, self._child)
        match args.config.mode:
            case "single":
                service = PROMETHEUS
                self._single()
            case "operator":
                service = "prometheus-operated"
                self._operator()
        for place in args.watched:
            self._rbac(place)
        namespace = args.place.namespace
        forward = f"kubectl --namespace {namespace} port-forward service"
        self.prometheus = f"http://localhost:{PROMETHEUS_PORT}, while this runs: {forward}/{service} {PROMETHEUS_PORT}"
        if args.admin_password is not None:
            self._grafana(f"http://{args.place.host(service)}:{PROMETHEUS_PORT}", args.admin_password)
            self.grafana = (
                f"http://localhost:{GRAFANA_PORT} (as admin), while this runs: {forward}/{GRAFANA} {GRAFANA_PORT}."
                f" The password: kubectl --namespace {namespace} get secret grafana-admin"
                f" --output jsonpath='{{.data.password}}' | base64 --decode"
            )
        else:
            self.grafana = "not installed: `monitoring.grafana` is false"
        self.register_outputs({"grafana": self.grafana, "prometheus": self.prometheus})

    def _metadata(self, name: str, part: str) -> dict[str, Any]:
        place = self._args.place
        return {"name": name, "namespace": place.created, "labels": place.labels(part)}

    def _rbac(self, place: Place) -> None:
        """Permissions for Prometheus to discover its targets; ServiceMonitors need services and endpoints."""
        found = [{"api_groups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
        if self._args.config.mode == "operator":
            found[0]["resources"] += ["services", "endpoints"]
            found.append(
                {
                    "api_groups": ["discovery.k8s.io"],
                    "resources": ["endpointslices"],
                    "verbs": ["get", "list", "watch"],
                }
            )
        metadata = {"name": PROMETHEUS, "namespace": place.created, "labels": place.labels(PROMETHEUS)}
        role = k8s.rbac.v1.Role(f"{PROMETHEUS}-{place.role}", metadata=metadata, rules=found, opts=self._child)
        k8s.rbac.v1.RoleBinding(
            f"{PROMETHEUS}-{place.role}",
            metadata=metadata,
            role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "Role", "name": named(role)},
            subjects=[{"kind": "ServiceAccount", "name": PROMETHEUS, "namespace": self._args.place.created}],
            opts=self._child,
        )

    # --- single ------------------------------------------------------------------------------------------------------

    def _single(self) -> None:
        args = self._args
        text = _yaml(prometheus_configuration(args))
        volumes = {
            "data": Volume("/data", persistent=True),
            "config": Volume(
                "/config", config=config_map(PROMETHEUS, args.place, {"prometheus.yml": text}, self._child)
            ),
            "rules": Volume("/rules", config=config_map("prometheus-rules", args.place, rule_files(), self._child)),
        }
        flags = {
            "config.file": "/config/prometheus.yml",
            # Reloads configuration and rules at run time: a restart would leave a gap in the data.
            "enable-feature": "auto-reload-config",
            "storage.tsdb.path": "/data/prometheus",
            "storage.tsdb.retention.time": f"{args.config.retention_days}d",
            "storage.tsdb.retention.size": retention_size(args.sizes.prometheus),
            # The address that people use, for links in alerts.
            "web.external-url": f"http://localhost:{PROMETHEUS_PORT}/",
        }
        self._server(PROMETHEUS, flags, PROMETHEUS_PORT, args.sizes.prometheus, volumes, token=True)
        self._alertmanager()

    def _alertmanager(self) -> None:
        args = self._args
        webhook = "/webhook/url" if args.config.alert_webhook else None
        text = _yaml(alertmanager_configuration(webhook))
        file = config_map(ALERTMANAGER, args.place, {"alertmanager.yml": text}, self._child)
        volumes = {"data": Volume("/data", persistent=True), "config": Volume("/config", config=file)}
        if webhook:
            volumes["webhook"] = Volume("/webhook", secret=WEBHOOK)
        flags = {
            "config.file": "/config/alertmanager.yml",
            "storage.path": "/data",
            "cluster.listen-address": "",  # no cluster of Alertmanagers
            "web.external-url": f"http://localhost:{ALERTMANAGER_PORT}/",
        }
        # Restarted when its configuration changes. Nothing is lost: notifications and silences are on its volume, and
        # Prometheus resends firing alerts.
        self._server(ALERTMANAGER, flags, ALERTMANAGER_PORT, args.sizes.alertmanager, volumes, configuration=text)

    def _server(
        self,
        name: str,
        flags: Mapping[str, str],
        port: int,
        resources: Resources,
        volumes: Mapping[str, Volume],
        *,
        token: bool = False,
        configuration: str = "",
    ) -> None:
        args = self._args
        Workload(
            name,
            WorkloadArgs(
                place=args.place,
                user=USER,
                containers=[
                    Container(
                        name,
                        args.images[name],
                        resources,
                        command=[name, *(f"--{flag}={value}" for flag, value in flags.items())],
                        ports={"http": port},
                        ready={"http_get": {"path": "/-/ready", "port": "http"}},
                        alive={"http_get": {"path": "/-/healthy", "port": "http"}},
                    )
                ],
                volumes=volumes,
                disk_mib=resources.disk,
                storage_class=args.storage_class,
                retain=args.retain,
                protect=args.protect,
                token=token,
                annotations=scraped(port),
                configuration=configuration,
                grace_seconds=120,  # Prometheus flushes its memory to disk
            ),
            self._child,
        )

    # --- operator ----------------------------------------------------------------------------------------------------

    def _operator(self) -> None:
        """Resources of the Prometheus Operator. Also selects monitors and rules with this environment's label."""
        args = self._args
        ours = {"matchLabels": {"kinora.io/environment": args.place.environment}}
        account = k8s.core.v1.ServiceAccount(
            PROMETHEUS,
            metadata=self._metadata(PROMETHEUS, PROMETHEUS),
            automount_service_account_token=False,  # the operator mounts it where needed
            opts=self._child,
        )
        self._operated(
            "Prometheus",
            args.sizes.prometheus,
            PROMETHEUS_PORT,
            {
                "serviceAccountName": named(account),
                "retention": f"{args.config.retention_days}d",
                "retentionSize": retention_size(args.sizes.prometheus),
                "scrapeInterval": INTERVAL,
                "evaluationInterval": INTERVAL,
                "externalLabels": {"environment": args.place.environment},
                "externalUrl": f"http://localhost:{PROMETHEUS_PORT}/",
                "serviceDiscoveryRole": "EndpointSlice",
                **{
                    key: ours
                    for kind in ("serviceMonitor", "podMonitor", "rule")
                    for key in (f"{kind}Selector", f"{kind}NamespaceSelector")
                },
                # A service's monitor must not make Prometheus read files such as its own token.
                "arbitraryFSAccessThroughSMs": {"deny": True},
                "alerting": {
                    "alertmanagers": [{"namespace": args.place.created, "name": "alertmanager-operated", "port": "web"}]
                },
            },
        )
        self._operated(
            "Alertmanager",
            args.sizes.alertmanager,
            ALERTMANAGER_PORT,
            {
                "automountServiceAccountToken": False,
                "configSecret": self._operated_configuration(),
                "externalUrl": f"http://localhost:{ALERTMANAGER_PORT}/",
                **({"secrets": [WEBHOOK]} if args.config.alert_webhook else {}),
            },
        )
        for job in JOBS:
            self._monitor(job)
        for file, text in rule_files().items():
            name = file.removesuffix(".yml")
            self._resource("monitoring.coreos.com/v1", "PrometheusRule", name, PROMETHEUS, yaml.safe_load(text))

    def _operated(self, kind: str, resources: Resources, port: int, spec: Mapping[str, Any]) -> None:
        args, name = self._args, kind.lower()
        sidecar = quantities(args.sizes.sidecar)
        keep = "Retain" if args.retain else "Delete"
        self._resource(
            "monitoring.coreos.com/v1",
            kind,
            name,
            name,
            {
                "image": args.images[name],
                "replicas": OPERATED_REPLICAS,
                "podMetadata": {
                    "labels": {"kinora.io/environment": args.place.environment},
                    "annotations": scraped(port),
                },
                "resources": quantities(resources),
                "containers": [{"name": "config-reloader", "resources": sidecar}],
                "initContainers": [{"name": "init-config-reloader", "resources": sidecar}],
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": USER,
                    "runAsGroup": USER,
                    "fsGroup": USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": selector(name)},
                    }
                ],
                "storage": {
                    "volumeClaimTemplate": {
                        "spec": {
                            "resources": {"requests": {"storage": f"{resources.disk}Mi"}},
                            **({"storageClassName": args.storage_class} if args.storage_class else {}),
                        }
                    }
                },
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": keep, "whenScaled": "Retain"},
                **spec,
            },
            protect=args.protect,
        )
        budget(name, args.place, selector(name), self._child)

    def _operated_configuration(self) -> pulumi.Output[str]:
        """The operator requires a Secret, although nothing in it is secret."""
        webhook = f"/etc/alertmanager/secrets/{WEBHOOK}/url" if self._args.config.alert_webhook else None
        text = _yaml(alertmanager_configuration(webhook))
        return secret("alertmanager-configuration", self._args.place, {"alertmanager.yaml": text}, self._child)

    def _monitor(self, job: Job) -> None:
        relabelings = [
            {"replacement": job.name, "target_label": "job"},
            *job.relabelings,
            # The operator adds the container's name, which would create duplicate targets.
            {"regex": "container|endpoint", "action": "labeldrop"},
        ]
        endpoint: dict[str, Any] = {"relabelings": [_camel_case(each) for each in relabelings]}
        if job.path:
            endpoint["path"] = job.path
        if job.params:
            endpoint["params"] = job.params
        self._resource(
            "monitoring.coreos.com/v1",
            "PodMonitor",
            job.name,
            PROMETHEUS,
            {
                "selector": {},
                "namespaceSelector": {"matchNames": namespaces(job, self._args)},
                "podMetricsEndpoints": [endpoint],
            },
        )

    def _resource(
        self, version: str, kind: str, name: str, part: str, spec: Mapping[str, Any], *, protect: bool = False
    ) -> None:
        k8s.apiextensions.CustomResource(
            f"{kind.lower()}-{name}",
            api_version=version,
            kind=kind,
            metadata=self._metadata(name, part),
            spec=spec,
            # The operator would recreate the StatefulSet for larger claims: see workload.CLAIMS.
            opts=pulumi.ResourceOptions(
                parent=self, protect=protect, ignore_changes=["spec.storage"] if "storage" in spec else None
            ),
        )

    # --- both --------------------------------------------------------------------------------------------------------

    def _grafana(self, prometheus: str, admin_password: pulumi.Output[str]) -> None:
        """Grafana is stateless: everything is provisioned."""
        args, place = self._args, self._args.place
        admin = secret("grafana-admin", place, {"password": admin_password}, self._child)
        provisioned = {
            kind: (OBSERVABILITY / "grafana" / f"{kind}.yaml").read_text() for kind in ("datasources", "dashboards")
        }
        volumes = {
            "data": Volume("/var/lib/grafana", memory_mib=256),
            "tmp": Volume("/tmp"),  # noqa: S108 - a volume of this pod
            "dashboards": Volume("/dashboards"),
        }
        for kind, text in provisioned.items():
            file = config_map(f"grafana-{kind}", place, {f"{kind}.yaml": text}, self._child)
            volumes[f"provisioned-{kind}"] = Volume(f"/provisioning/{kind}", config=file)
        for title, text in dashboards().items():
            file = config_map(f"grafana-dashboard-{title}", place, {f"{title}.json": text}, self._child)
            volumes[f"dashboard-{title}"] = Volume(f"/dashboards/{title}", config=file)
        Workload(
            GRAFANA,
            WorkloadArgs(
                place=place,
                user=GRAFANA_USER,
                stateful=False,
                containers=[
                    Container(
                        GRAFANA,
                        args.images[GRAFANA],
                        args.sizes.grafana,
                        environment={
                            **GRAFANA_SETTINGS,
                            "GF_SECURITY_ADMIN_PASSWORD": Secret(admin, "password"),
                            "PROMETHEUS_URL": prometheus,
                        },
                        ports={"http": GRAFANA_PORT},
                        ready={"http_get": {"path": "/api/health", "port": "http"}},
                        alive={"http_get": {"path": "/api/health", "port": "http"}},
                    )
                ],
                volumes=volumes,
                annotations=scraped(GRAFANA_PORT),
                # Grafana reloads dashboards at run time.
                configuration=json.dumps([GRAFANA_SETTINGS, provisioned]),
            ),
            self._child,
        )


def retention_size(resources: Resources) -> str:
    """Four fifths of the volume: the head block and compactions are not counted, and need space as well."""
    return f"{resources.disk * 4 // 5}MB"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True  # write out repeated values instead of using anchors


def _yaml(configuration: Mapping[str, Any]) -> str:
    return yaml.dump(configuration, Dumper=_Dumper, sort_keys=False, width=120)


def _camel_case(rule: Relabeling) -> dict[str, Any]:
    """In the operator's notation: source_labels is sourceLabels."""
    return {re.sub("_(.)", lambda match: match[1].upper(), key): value for key, value in rule.items()}
