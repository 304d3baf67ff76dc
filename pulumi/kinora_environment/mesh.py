"""Istio, from its own charts: a control plane for this environment alone, and the cluster's node agent.

Its policies and timeouts are deployed with the services (Argo CD): istio/.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.helm.v3 import Chart, ChartOpts, FetchOpts

from kinora_environment import config, upstream
from kinora_environment.place import Place, prefix, role_selector, selector
from kinora_environment.sizes import Sizes
from kinora_environment.workload import allow, quantities

VERSION = "1.31.0"
REPOSITORY = "https://istio-release.storage.googleapis.com/charts"
IMAGES = {"hub": "docker.io/istio", "tag": VERSION, "imagePullPolicy": "IfNotPresent", "logAsJson": True}
SECCOMP = {"type": "RuntimeDefault"}

XDS, MONITORING, WEBHOOKS = 15012, 15014, 15017

ENVIRONMENT = {
    # The proxy stops after the service, so that requests in flight complete and Jobs can finish.
    "ENABLE_NATIVE_SIDECARS": "true",
    # Proxies fetch auth's key set themselves: istiod is not in the mesh, so auth would reject it.
    "PILOT_JWT_ENABLE_REMOTE_JWKS": "envoy",
    "BLOCKED_CIDRS_IN_JWKS_URIS": "0.0.0.0/0,::/0",
    # The filter would parse all MongoDB traffic for metrics that nobody uses.
    "PILOT_ENABLE_MONGO_FILTER": "false",
    # The gateway is Traefik. With these off, istiod needs no permission to create Deployments in every namespace.
    "PILOT_ENABLE_GATEWAY_API": "false",
    "PILOT_ENABLE_GATEWAY_API_STATUS": "false",
    "PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER": "false",
}

SIDECAR = {
    "requests": {"cpu": "20m", "memory": "64Mi"},
    "limits": {"cpu": "1000m", "memory": "256Mi"},
}

# istiod writes its certificate into them at run time.
CERTIFICATES = "webhooks[*].clientConfig.caBundle"


@dataclass(frozen=True)
class MeshArgs:
    place: Place
    config: config.Mesh
    sizes: Sizes


def revision(environment: str) -> str:
    """The value of the label istio.io/rev that assigns namespaces and policies to an environment's mesh."""
    return prefix(environment)


def mesh_config(environment: str) -> dict[str, Any]:
    """https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/"""
    return {
        # Other namespaces are unknown to it, and unreachable from the mesh.
        "discoverySelectors": [{"matchLabels": {"kinora.io/environment": environment}}],
        "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
        "enableAutoMtls": True,
        # By default Istio retries every failed request twice, idempotent or not. istio/ enables retries explicitly.
        "defaultHttpRetryPolicy": {"attempts": 0},
        # The gateway and the services already write access logs.
        "accessLogFile": "",
        "defaultConfig": {"holdApplicationUntilProxyStarts": True},
    }


def istiod_values(args: MeshArgs) -> dict[str, Any]:
    environment, several = args.place.environment, args.sizes.replicas > 1
    return {
        "revision": revision(environment),
        "autoscaleEnabled": False,
        "replicaCount": args.sizes.replicas,
        "rollingMaxSurge": 1,
        "rollingMaxUnavailable": 0,
        "pdb": {"maxUnavailable": 1},
        "topologySpreadConstraints": [_spread()] if several else [],
        "resources": quantities(args.sizes.istiod),
        "seccompProfile": SECCOMP,
        "env": ENVIRONMENT,
        # Even if another environment installs the agent: without it, each pod would have to change its own network,
        # which Pod Security forbids.
        "cni": {"enabled": True},
        "meshConfig": mesh_config(environment),
        # Set from the start, so that istiod does not change it.
        "base": {"validationFailurePolicy": "Fail"},
        "global": {
            **IMAGES,
            "istioNamespace": args.place.namespace,
            "enableReaderRBAC": False,
            "proxy": {"resources": SIDECAR, "seccompProfile": SECCOMP},
        },
    }


def cni_values() -> dict[str, Any]:
    return {
        "resources": {"requests": {"cpu": "10m", "memory": "100Mi"}},
        "useAppArmorAnnotation": False,  # for Kubernetes before 1.30
        "global": IMAGES,
    }


def _spread() -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector("istiod")},
    }


class Mesh(pulumi.ComponentResource):
    def __init__(self, name: str, args: MeshArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("kinora:environment:Mesh", name, None, opts)
        self._place = args.place
        self._child = pulumi.ResourceOptions(parent=self)
        # Everything in the chart `base`, registered like other definitions.
        upstream.custom_resource_definitions("istio-crds", self._child)
        istiod = self._chart("istiod", istiod_values(args))
        # They can be read without installing them.
        self.parts = istiod.resources.apply(lambda made: list(made.values()))
        self._ready = istiod.resources.apply(
            lambda made: pulumi.Output.all(*(each.metadata for each in made.values())).apply(lambda _: True)
        )
        self._network()
        if args.config.cni:
            self._chart("cni", cni_values())
            allow("istio-cni", args.place, clients=["monitoring"], ports=[MONITORING], opts=self._child)
        self.register_outputs({})

    def before(self, place: Place) -> Place:
        """The place, for pods that need the mesh: without istiod they would start without a sidecar."""
        created = pulumi.Output.all(place.created, self._ready).apply(lambda both: str(both[0]))
        return replace(place, created=created)

    def _chart(self, chart: str, values: dict[str, Any]) -> Chart:
        return Chart(
            chart,
            ChartOpts(
                chart=chart,
                version=VERSION,
                fetch_opts=FetchOpts(repo=REPOSITORY),
                namespace=self._place.namespace,
                values=values,
                transformations=[self._customise],
            ),
            self._child,
        )

    def _customise(self, manifest: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        """Changes that the charts have no values for."""
        metadata = manifest["metadata"]
        metadata["labels"] |= {
            "app.kubernetes.io/managed-by": "pulumi",
            "kinora.io/environment": self._place.environment,
        }
        if "namespace" in metadata:
            metadata["namespace"] = self._place.created
        else:
            metadata["name"] = self._own(metadata["name"])
        if manifest.get("roleRef", {}).get("kind") == "ClusterRole":
            manifest["roleRef"]["name"] = self._own(manifest["roleRef"]["name"])
        if manifest["kind"] == "ServiceAccount":
            manifest["automountServiceAccountToken"] = True
        if manifest["kind"].endswith("WebhookConfiguration"):
            opts.ignore_changes = [CERTIFICATES]

    def _own(self, name: str) -> str:
        """A name that is unique among environments, for cluster-scoped objects."""
        own = prefix(self._place.environment)
        return name if own in name else f"{own}-{name}"

    def _network(self) -> None:
        def peers(*roles: str) -> list[dict[str, Any]]:
            return [{"namespace_selector": role_selector(self._place.environment, role)} for role in roles]

        def ports(port: int) -> list[dict[str, Any]]:
            return [{"port": port, "protocol": "TCP"}]

        name = "istiod"
        k8s.networking.v1.NetworkPolicy(
            name,
            metadata={"name": name, "namespace": self._place.created, "labels": self._place.labels(name)},
            spec={
                "pod_selector": {"match_labels": selector(name)},
                "policy_types": ["Ingress"],
                "ingress": [
                    {"from_": peers("apps", "gateway"), "ports": ports(XDS)},
                    {"from_": peers("monitoring"), "ports": ports(MONITORING)},
                    # No policy can select the API server; its requests to the webhook are not sensitive.
                    {"ports": ports(WEBHOOKS)},
                ],
            },
            opts=self._child,
        )
