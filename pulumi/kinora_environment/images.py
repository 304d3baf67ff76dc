"""The images that an environment runs, pinned. A stack may replace any of them (`images:`)."""

from __future__ import annotations

from collections.abc import Mapping

from kinora_environment.config import ConfigError

IMAGES: Mapping[str, str] = {
    "postgres": "pgvector/pgvector:0.8.5-pg17",
    "postgres-operator": "ghcr.io/cloudnative-pg/postgresql:17.7-standard-bookworm",
    "mongo": "docker.io/library/mongo:8.0.29",
    "redis": "docker.io/library/redis:8.4.0",
    "haproxy": "docker.io/library/haproxy:3.2.9",
    "rabbitmq": "docker.io/library/rabbitmq:4.2.1-management",
    # Ours, of the version that local/go/minio/go.mod pins: the server and its client.
    "minio": "ghcr.io/kinora-platform/kinora-minio:0.0.0-20260212201848-7aac2a2c5b7c",
    "traefik": "docker.io/library/traefik:v3.7.13",
    "prometheus": "quay.io/prometheus/prometheus:v3.8.0",
    "alertmanager": "quay.io/prometheus/alertmanager:v0.29.0",
    "grafana": "docker.io/grafana/grafana:12.3.0",
    "argocd": "quay.io/argoproj/argocd:v3.5.7",
}


def choose(others: Mapping[str, str]) -> Mapping[str, str]:
    """All images, some of them replaced.

    Raises:
        ConfigError: for unknown names.
    """
    if unknown := sorted(others.keys() - IMAGES.keys()):
        raise ConfigError(f"images: {', '.join(unknown)} is unknown. Known: {', '.join(sorted(IMAGES))}.")
    return {**IMAGES, **others}
