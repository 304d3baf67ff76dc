"""Istio, from its own charts: a control plane for this environment alone, and the agent that a cluster's nodes need.

Whom it lets call whom, and for how long, comes with the services (Argo CD): istio/.
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
    # The proxy ends after the service, so that what is in flight ends well, and Jobs end at all.
    "ENABLE_NATIVE_SIDECARS": "true",
    # Proxies fetch auth's key set themselves: istiod is not in the mesh, so auth would refuse it. It fetches nothing.
    "PILOT_JWT_ENABLE_REMOTE_JWKS": "envoy",
    "BLOCKED_CIDRS_IN_JWKS_URIS": "0.0.0.0/0,::/0",
    # It would take every message to a store apart, to count what nobody looks at.
    "PILOT_ENABLE_MONGO_FILTER": "false",
    # The gateway is Traefik. With these off, istiod has no right to make Deployments in every namespace.
    "PILOT_ENABLE_GATEWAY_API": "false",
    "PILOT_ENABLE_GATEWAY_API_STATUS": "false",
    "PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER": "false",
}

SIDECAR = {
    "requests": {"cpu": "20m", "memory": "64Mi"},
    "limits": {"cpu": "1000m", "memory": "256Mi"},
}

# istiod writes its certificate into them when it runs.
CERTIFICATES = "webhooks[*].clientConfig.caBundle"


@dataclass(frozen=True)
class MeshArgs:
    place: Place
    config: config.Mesh
    sizes: Sizes


def revision(environment: str) -> str:
    """The value of the label istio.io/rev by which namespaces and policies belong to an environment's mesh."""
    return prefix(environment)


def mesh_config(environment: str) -> dict[str, Any]:
    """https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/"""
    return {
        # Of other namespaces it knows nothing, and nobody in the mesh can call what is there.
        "discoverySelectors": [{"matchLabels": {"kinora.io/environment": environment}}],
        "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
        "enableAutoMtls": True,
        # Istio repeats every failed request twice unless told not to, whatever it does. Where it may, istio/ says so.
        "defaultHttpRetryPolicy": {"attempts": 0},
        # The gateway and the services write one already.
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
        # Also where another environment brings the agent: without it, each pod would have to change its own network,
        # which Pod Security forbids.
        "cni": {"enabled": True},
        "meshConfig": mesh_config(environment),
        # From the first moment, so that istiod need not change it.
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
        # All that the chart `base` would bring, as other definitions are registered.
        upstream.custom_resource_definitions("istio-crds", self._child)
        istiod = self._chart("istiod", istiod_values(args))
        # What they are is known before they are there.
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
        """The place, for pods that need the mesh: they would start without a sidecar if istiod were not there."""
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
                transformations=[self._fit],
            ),
            self._child,
        )

    def _fit(self, manifest: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        """What the charts have no value for."""
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
        """A name that no other environment has: what a cluster has only once carries the environment's."""
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
                    # The API server asks from where no policy can name it; what it asks is no secret.
                    {"ports": ports(WEBHOOKS)},
                ],
            },
            opts=self._child,
        )
