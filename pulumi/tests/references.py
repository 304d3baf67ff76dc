"""The references by name between an environment's objects, and which of them resolve."""

import json
import re
from collections.abc import Iterator
from typing import Any

from kinora_environment.policies import containers, pod_of

Manifest = dict[str, Any]
Key = tuple[str, str, str]
"""Kind, namespace, name."""

HOST = re.compile(r"\b(?:[a-z0-9-]+-\d+\.)?([a-z][a-z0-9-]*)\.(kinora-[a-z0-9-]+)\.svc(?:\.cluster\.local)?(?::(\d+))?")


def made_by_operators(manifest: Manifest) -> Iterator[tuple[str, set[int]]]:
    """The Services that an operator creates for a custom resource: name, ports."""
    name = manifest["metadata"]["name"]
    match manifest["kind"]:
        case "Cluster":
            yield from ((f"{name}-{role}", {5432}) for role in ("rw", "ro", "r"))
        case "RabbitmqCluster":
            yield name, {5672, 15672, 15692}
            yield f"{name}-nodes", {4369, 25672}
        case "MongoDBCommunity":
            yield f"{name}-svc", {27017}
        case "Prometheus":
            yield "prometheus-operated", {9090}
        case "Alertmanager":
            yield "alertmanager-operated", {9093}


def services(objects: list[Manifest]) -> dict[tuple[str, str], set[int]]:
    """(namespace, name) -> ports."""
    found: dict[tuple[str, str], set[int]] = {}
    for each in objects:
        namespace = each["metadata"].get("namespace", "")
        if each["kind"] == "Service":
            found[namespace, each["metadata"]["name"]] = {port["port"] for port in each["spec"]["ports"]}
        for name, ports in made_by_operators(each):
            found[namespace, name] = ports
    return found


def named(manifest: Manifest) -> Iterator[Key]:  # noqa: PLR0912 - a case for each kind
    """The Secrets, ConfigMaps, ServiceAccounts, claims and roles that an object references."""
    namespace = manifest["metadata"].get("namespace", "")
    spec = manifest.get("spec", {})
    pod = pod_of(manifest)
    if pod is not None:
        yield "ServiceAccount", namespace, pod["serviceAccountName"]
        for volume in pod.get("volumes", []):
            yield from _volume(namespace, volume)
        for container in containers(manifest):
            yield from _variables(namespace, container)
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
        for container in containers(manifest):
            missing = {mount["name"] for mount in container.get("volumeMounts", [])} - volumes
            assert not missing, (
                f"{manifest['metadata']['name']}: {container['name']} mounts {missing}, which is no volume"
            )
    match manifest["kind"]:
        case "StatefulSet":
            yield "Service", namespace, spec["serviceName"]
        case "RoleBinding" | "ClusterRoleBinding":
            where = namespace if manifest["roleRef"]["kind"] == "Role" else ""
            yield manifest["roleRef"]["kind"], where, manifest["roleRef"]["name"]
            for subject in manifest["subjects"]:
                if subject["kind"] == "ServiceAccount":
                    yield "ServiceAccount", subject.get("namespace", namespace), subject["name"]
        case "Cluster":
            for role in spec["managed"]["roles"]:
                if "passwordSecret" in role:
                    yield "Secret", namespace, role["passwordSecret"]["name"]
            if "backup" in spec:
                for reference in spec["backup"]["barmanObjectStore"]["s3Credentials"].values():
                    yield "Secret", namespace, reference["name"]
        case "Database" | "ScheduledBackup":
            yield "Cluster", namespace, spec["cluster"]["name"]
        case "MongoDBCommunity":
            for user in spec["users"]:
                yield "Secret", namespace, user["passwordSecretRef"]["name"]
        case "User" | "Permission" | "Vhost" | "Policy":
            yield "RabbitmqCluster", namespace, spec["rabbitmqClusterReference"]["name"]
            if "importCredentialsSecret" in spec:
                yield "Secret", namespace, spec["importCredentialsSecret"]["name"]
            if "userReference" in spec:
                yield "User", namespace, spec["userReference"]["name"]


def _volume(namespace: str, volume: Manifest) -> Iterator[Key]:
    if "secret" in volume and not volume["secret"].get("optional"):
        yield "Secret", namespace, volume["secret"]["secretName"]
    if "configMap" in volume and not volume["configMap"].get("optional"):
        yield "ConfigMap", namespace, volume["configMap"]["name"]
    if "persistentVolumeClaim" in volume:
        yield "PersistentVolumeClaim", namespace, volume["persistentVolumeClaim"]["claimName"]
    for source in volume.get("projected", {}).get("sources", []):
        yield from _volume(
            namespace, {key: {**value, "secretName": value.get("name")} for key, value in source.items()}
        )


def _variables(namespace: str, container: Manifest) -> Iterator[Key]:
    for source in container.get("envFrom", []):
        if "secretRef" in source:
            yield "Secret", namespace, source["secretRef"]["name"]
        if "configMapRef" in source:
            yield "ConfigMap", namespace, source["configMapRef"]["name"]
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {})
        for kind, key in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
            if key in source and not source[key].get("optional"):
                yield kind, namespace, source[key]["name"]
                yield f"{kind} key {source[key]['key']}", namespace, source[key]["name"]


def hosts(manifest: Manifest) -> Iterator[tuple[str, str, int | None]]:
    """The services that an object references by host name: namespace, service, port."""
    for service, namespace, port in HOST.findall(json.dumps(manifest)):
        yield namespace, service, int(port) if port else None
