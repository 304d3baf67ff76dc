"""Resources of all parts of an environment, by size (`kinora:environment.size`)."""

from __future__ import annotations

from dataclasses import dataclass

from kinora_environment.config import Size


@dataclass(frozen=True)
class Resources:
    """CPU in millicores, memory and disk in MiB. Memory is requested in full; CPU may go up to the limit."""

    cpu: int
    cpu_limit: int
    memory: int
    disk: int = 0


@dataclass(frozen=True)
class Quota:
    """The total requests and limits of a namespace's pods."""

    cpu: int
    memory: int
    disk: int
    pods: int


@dataclass(frozen=True)
class Sizes:
    replicas: int
    """Replicas in mode `operator`, and of the gateway."""
    postgres: Resources
    mongo: Resources
    redis: Resources
    rabbitmq: Resources
    s3: Resources
    gateway: Resources
    prometheus: Resources
    alertmanager: Resources
    grafana: Resources
    argocd: Resources
    istiod: Resources
    job: Resources
    sidecar: Resources
    """Small helpers of a store: file watchers, sentinels, proxies."""
    apps: Quota
    """For the services, which Argo CD deploys."""


# Small parts are the same in every size.
_JOB = Resources(cpu=50, cpu_limit=1000, memory=256)
_SIDECAR = Resources(cpu=10, cpu_limit=500, memory=64)
_ALERTMANAGER = Resources(cpu=20, cpu_limit=200, memory=64, disk=1024)

SIZES: dict[Size, Sizes] = {
    "small": Sizes(
        replicas=1,
        postgres=Resources(100, 2000, 512, 5 * 1024),
        mongo=Resources(100, 2000, 512, 5 * 1024),
        redis=Resources(50, 500, 320, 1024),
        rabbitmq=Resources(100, 2000, 768, 2 * 1024),
        s3=Resources(100, 2000, 512, 20 * 1024),
        gateway=Resources(100, 1000, 128),
        prometheus=Resources(100, 1000, 768, 5 * 1024),
        alertmanager=_ALERTMANAGER,
        grafana=Resources(50, 500, 256),
        argocd=Resources(50, 1000, 384),
        istiod=Resources(50, 1000, 512),
        job=_JOB,
        sidecar=_SIDECAR,
        apps=Quota(cpu=4_000, memory=10 * 1024, disk=20 * 1024, pods=40),
    ),
    "medium": Sizes(
        replicas=3,
        postgres=Resources(500, 4000, 2 * 1024, 50 * 1024),
        mongo=Resources(500, 4000, 2 * 1024, 50 * 1024),
        redis=Resources(100, 1000, 768, 4 * 1024),
        rabbitmq=Resources(250, 2000, 1536, 10 * 1024),
        s3=Resources(500, 4000, 2 * 1024, 250 * 1024),
        gateway=Resources(250, 2000, 256),
        prometheus=Resources(250, 2000, 2 * 1024, 50 * 1024),
        alertmanager=_ALERTMANAGER,
        grafana=Resources(100, 1000, 384),
        argocd=Resources(100, 2000, 768),
        istiod=Resources(100, 1000, 1024),
        job=_JOB,
        sidecar=_SIDECAR,
        apps=Quota(cpu=16_000, memory=32 * 1024, disk=100 * 1024, pods=120),
    ),
    "large": Sizes(
        replicas=3,
        postgres=Resources(2000, 8000, 8 * 1024, 200 * 1024),
        mongo=Resources(2000, 8000, 8 * 1024, 200 * 1024),
        redis=Resources(250, 2000, 3 * 1024, 16 * 1024),
        rabbitmq=Resources(1000, 4000, 4 * 1024, 40 * 1024),
        s3=Resources(1000, 8000, 8 * 1024, 2048 * 1024),
        gateway=Resources(500, 4000, 512),
        prometheus=Resources(1000, 4000, 8 * 1024, 200 * 1024),
        alertmanager=_ALERTMANAGER,
        grafana=Resources(250, 1000, 512),
        argocd=Resources(250, 2000, 1536),
        istiod=Resources(250, 2000, 2048),
        job=_JOB,
        sidecar=_SIDECAR,
        apps=Quota(cpu=64_000, memory=128 * 1024, disk=400 * 1024, pods=400),
    ),
}
