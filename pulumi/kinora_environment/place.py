"""A namespace of an environment, with names and labels for the objects in it."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

PART_OF = "kinora"

ROLES = ("apps", "stores", "gateway", "mesh", "monitoring", "gitops")
"""The roles of an environment's namespaces, one each."""


def prefix(environment: str) -> str:
    """The prefix of cluster-scoped names, so that environments share nothing."""
    return f"kinora-{environment}"


def namespace_name(environment: str, role: str) -> str:
    return f"{prefix(environment)}-{role}"


@dataclass(frozen=True)
class Place:
    environment: str
    role: str
    created: pulumi.Output[str]
    """The namespace's name, as an output: objects that use it wait for the namespace."""

    @property
    def namespace(self) -> str:
        return namespace_name(self.environment, self.role)

    def host(self, service: str) -> str:
        return f"{service}.{self.namespace}.svc.cluster.local"

    def labels(self, name: str) -> dict[str, str]:
        return {
            "app.kubernetes.io/name": name,
            "app.kubernetes.io/part-of": PART_OF,
            "app.kubernetes.io/managed-by": "pulumi",
            "kinora.io/environment": self.environment,
        }


def selector(name: str) -> dict[str, str]:
    """The selector labels of a workload's pods; they are immutable, so there are few."""
    return {"app.kubernetes.io/name": name}


def role_selector(environment: str, role: str) -> dict[str, dict[str, str]]:
    """Selects the namespace of a role in a NetworkPolicy."""
    return {"match_labels": {"kinora.io/environment": environment, "kinora.io/role": role}}
