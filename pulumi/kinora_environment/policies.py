"""Rules for every object of every environment: plain functions over manifests, each with its reason.

A policy takes the manifest of one object and yields one sentence per violation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Manifest = Mapping[str, Any]
Policy = Callable[[Manifest], Iterator[str]]

EXEMPT: Mapping[tuple[str, str], str] = {
    (
        "pods_are_restricted",
        "DaemonSet/istio-cni-node",
    ): "it configures the network of the node's pods, so that they do not have to",
    ("containers_are_restricted", "DaemonSet/istio-cni-node"): "the same",
    ("no_host_access", "DaemonSet/istio-cni-node"): "it writes the network configuration of the node",
    (
        "resources_are_bounded",
        "DaemonSet/istio-cni-node",
    ): "its chart leaves it unbounded on purpose: a node depends on it",
}
"""(policy, object) -> the reason for the exemption. There are no others."""


def pod_of(manifest: Manifest) -> Manifest | None:
    """The pod spec of an object that creates our pods, or None."""
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "Pod":
            return dict(spec)
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicaSet":
            return dict(spec["template"]["spec"])
        case "CronJob":
            return dict(spec["jobTemplate"]["spec"]["template"]["spec"])
    return None


def containers(manifest: Manifest) -> Iterator[Mapping[str, Any]]:
    pod = pod_of(manifest)
    if pod is not None:
        yield from pod.get("initContainers", [])
        yield from pod["containers"]


def pods_are_restricted(manifest: Manifest) -> Iterator[str]:
    """No pod runs as root or without a seccomp profile: a container escape must not yield root."""
    pod = pod_of(manifest)
    if pod is None:
        return
    security = pod.get("securityContext", {})
    every = [each.get("securityContext", {}) for each in containers(manifest)]
    if not security.get("runAsNonRoot") and not all(each.get("runAsNonRoot") for each in every):
        yield "runs as root: set securityContext.runAsNonRoot to true"
    if security.get("runAsUser") == 0 or any(each.get("runAsUser") == 0 for each in every):
        yield "runs as user 0: set another securityContext.runAsUser"
    profiles = [each.get("seccompProfile", security.get("seccompProfile", {})).get("type") for each in every]
    if any(profile not in ("RuntimeDefault", "Localhost") for profile in profiles):
        yield "has no seccomp profile: set securityContext.seccompProfile.type to RuntimeDefault"


def containers_are_restricted(manifest: Manifest) -> Iterator[str]:
    """No container may gain privileges, keep capabilities or write to its image."""
    for each in containers(manifest):
        name, security = each["name"], each.get("securityContext", {})
        if security.get("privileged"):
            yield f"{name} is privileged"
        if security.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may gain privileges: set allowPrivilegeEscalation to false"
        if "ALL" not in security.get("capabilities", {}).get("drop", []):
            yield f"{name} keeps capabilities: drop ALL"
        if added := security.get("capabilities", {}).get("add"):
            yield f"{name} adds the capabilities {', '.join(added)}"
        if security.get("readOnlyRootFilesystem") is not True:
            yield f"{name} may write to its image: set readOnlyRootFilesystem, and mount what it has to write to"


def no_host_access(manifest: Manifest) -> Iterator[str]:
    """No pod has access to its node."""
    pod = pod_of(manifest)
    if pod is None:
        return
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"uses the node's {field.removeprefix('host').lower()}"
    for volume in pod.get("volumes", []):
        if "hostPath" in volume:
            yield f"mounts {volume['hostPath']['path']} of the node"
    for each in containers(manifest):
        if any("hostPort" in port for port in each.get("ports", [])):
            yield f"{each['name']} uses a port of the node: remove hostPort"


def resources_are_bounded(manifest: Manifest) -> Iterator[str]:
    """Every container has requests and a memory limit: none may starve its neighbours."""
    for each in containers(manifest):
        resources = each.get("resources", {})
        for kind, resource in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if resource not in resources.get(kind, {}):
                yield f"{each['name']} has no {kind}.{resource}"


def images_are_pinned(manifest: Manifest) -> Iterator[str]:
    """An image has a version, so that the same commit always runs the same code."""
    for each in containers(manifest):
        image = each["image"]
        _, _, tag = image.rpartition("/")[2].partition(":")
        if "@sha256:" not in image and tag in ("", "latest"):
            yield f"{each['name']} runs {image}: name a version"


def only_the_gateway_is_public(manifest: Manifest) -> Iterator[str]:
    """Only the gateway is reachable from outside of the cluster."""
    if manifest["kind"] == "Ingress":
        yield "is an Ingress: routes are IngressRoutes of the gateway"
    if manifest["kind"] != "Service" or manifest["spec"].get("type", "ClusterIP") == "ClusterIP":
        return
    if not manifest["metadata"].get("namespace", "").endswith("-gateway"):
        yield f"is a Service of type {manifest['spec']['type']} outside of the gateway's namespace"


def tokens_are_asked_for(manifest: Manifest) -> Iterator[str]:
    """A pod gets an API server token only if that is explicit."""
    pod = pod_of(manifest)
    if pod is not None and pod.get("serviceAccountName", "default") == "default":
        yield "runs as the default service account: create one for it"
    if manifest["kind"] == "ServiceAccount" and "automountServiceAccountToken" not in manifest:
        yield "does not set automountServiceAccountToken: set it explicitly"


def rights_are_named(manifest: Manifest) -> Iterator[str]:
    """No role of ours allows everything."""
    if manifest["kind"] not in ("Role", "ClusterRole"):
        return
    for rule in manifest.get("rules") or []:
        if "*" in rule.get("verbs", []) and "*" in rule.get("resources", []):
            yield "allows all verbs on all resources: list the resources and the verbs"


def secrets_are_not_configuration(manifest: Manifest) -> Iterator[str]:
    """Passwords are in Secrets, never in a pod's variables or in a ConfigMap."""
    words = ("password", "secret_key", "token", "passwd")
    for each in containers(manifest):
        for variable in each.get("env", []):
            if variable.get("value") and any(word in variable["name"].lower() for word in words):
                yield f"{each['name']} has {variable['name']} in plain text: take it from a Secret"
    if manifest["kind"] == "ConfigMap":
        for key in manifest.get("data") or {}:
            if key.lower() in words:
                yield f"holds {key}: use a Secret"


POLICIES: Mapping[str, Policy] = {
    policy.__name__: policy
    for policy in (
        pods_are_restricted,
        containers_are_restricted,
        no_host_access,
        resources_are_bounded,
        images_are_pinned,
        only_the_gateway_is_public,
        tokens_are_asked_for,
        rights_are_named,
        secrets_are_not_configuration,
    )
}


def violations(manifest: Manifest) -> Iterator[str]:
    """All policy violations of an object: `policy: kind/name sentence`."""
    shown = f"{manifest['kind']}/{manifest['metadata'].get('name', '?')}"
    for name, policy in POLICIES.items():
        if (name, shown) not in EXEMPT:
            yield from (f"{name}: {shown} {sentence}" for sentence in policy(manifest))
