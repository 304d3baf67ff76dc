"""The namespaces of an environment: Pod Security, quotas, and default-deny network policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from kinora_environment.place import PART_OF, ROLES, Place, namespace_name, role_selector
from kinora_environment.sizes import Quota
from kinora_environment.workload import named

DNS = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
API_SERVER = [{"port": 443, "protocol": "TCP"}, {"port": 6443, "protocol": "TCP"}]


@dataclass(frozen=True)
class NamespacesArgs:
    environment: str
    quota: Quota
    """Of the services; Pulumi's own workloads are bounded by the size."""
    mesh: bool
    mesh_privileged: bool
    """Whether Istio's node agent runs in the mesh's namespace: it configures the network of the node's pods."""
    protect: bool


class Namespaces(pulumi.ComponentResource):
    """One namespace for each role, with the Pod Security profile *restricted* and default-deny network policies.

    Within an environment, pods may connect to pods that allow it (``allow``, and the chart's ``allowFrom``); outside of
    it, only to DNS and the API server. Services may connect only to each other and to the stores; Argo CD, which reads
    git, has unrestricted egress.
    """

    def __init__(self, name: str, args: NamespacesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("kinora:environment:Namespaces", name, None, opts)
        self._args = args
        roles = [role for role in ROLES if role != "mesh" or args.mesh]
        self.places: Mapping[str, Place] = {role: self._namespace(role) for role in roles}
        self.register_outputs({role: place.created for role, place in self.places.items()})

    def __getitem__(self, role: str) -> Place:
        return self.places[role]

    def _namespace(self, role: str) -> Place:
        args = self._args
        name = namespace_name(args.environment, role)
        profile = "privileged" if role == "mesh" and args.mesh_privileged else "restricted"
        labels = {
            "app.kubernetes.io/part-of": PART_OF,
            "app.kubernetes.io/managed-by": "pulumi",
            "kinora.io/environment": args.environment,
            "kinora.io/role": role,
            **{f"pod-security.kubernetes.io/{mode}": profile for mode in ("enforce", "audit", "warn")},
        }
        if args.mesh and role in ("apps", "gateway"):
            labels["istio.io/rev"] = f"kinora-{args.environment}"
        child = pulumi.ResourceOptions(parent=self)
        namespace = k8s.core.v1.Namespace(
            role,
            metadata={"name": name, "labels": labels},
            opts=pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(protect=args.protect)),
        )
        place = Place(args.environment, role, named(namespace))
        self._network(place, child)
        if role == "apps":
            self._quota(place, child)
        return place

    def _network(self, place: Place, opts: pulumi.ResourceOptions) -> None:
        environment = {"namespace_selector": {"match_labels": {"kinora.io/environment": place.environment}}}
        egress: list[dict[str, Any]] = [{"ports": DNS}, {"to": [environment]}, {"ports": API_SERVER}]
        if place.role == "apps":
            # Egress of services: each other, the stores, and the mesh's control plane.
            asked = ["apps", "stores", *(["mesh"] if self._args.mesh else [])]
            egress = [
                {"ports": DNS},
                {"to": [{"namespace_selector": role_selector(place.environment, role)} for role in asked]},
            ]
        if place.role == "gitops":
            egress = [{}]
        # Replicas of a store connect to each other; services need the chart's permission.
        ingress: list[dict[str, Any]] = [] if place.role == "apps" else [{"from_": [{"pod_selector": {}}]}]
        # One policy per direction: with a combined one, some network plugins treat allowed egress of one pod as allowed
        # ingress of the next.
        for direction, allowed in (("Ingress", ingress), ("Egress", egress)):
            name = f"default-{direction.lower()}"
            k8s.networking.v1.NetworkPolicy(
                f"{place.role}-{name}",
                metadata={"name": name, "namespace": place.created, "labels": place.labels(name)},
                spec={
                    "pod_selector": {},
                    "policy_types": [direction],
                    **({direction.lower(): allowed} if allowed else {}),
                },
                opts=opts,
            )

    def _quota(self, place: Place, opts: pulumi.ResourceOptions) -> None:
        quota = self._args.quota
        k8s.core.v1.ResourceQuota(
            place.role,
            metadata={"name": "quota", "namespace": place.created, "labels": place.labels("quota")},
            spec={
                "hard": {
                    "requests.cpu": f"{quota.cpu}m",
                    "requests.memory": f"{quota.memory}Mi",
                    "limits.memory": f"{quota.memory}Mi",
                    "requests.storage": f"{quota.disk}Mi",
                    "requests.ephemeral-storage": f"{quota.disk}Mi",
                    "pods": str(quota.pods),
                    "services.loadbalancers": "0",
                    "services.nodeports": "0",
                }
            },
            opts=opts,
        )
        # With a quota, containers without requests are rejected; these defaults are for sidecars and debugging pods.
        k8s.core.v1.LimitRange(
            place.role,
            metadata={"name": "defaults", "namespace": place.created, "labels": place.labels("defaults")},
            spec={
                "limits": [
                    {
                        "type": "Container",
                        "default_request": {"cpu": "20m", "memory": "64Mi", "ephemeral-storage": "64Mi"},
                        "default": {"memory": "256Mi", "ephemeral-storage": "256Mi"},
                    }
                ]
            },
            opts=opts,
        )
