"""Composes an environment. The order is for readers; dependencies follow from references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import pulumi
import pulumi_kubernetes as k8s

from kinora_environment import images
from kinora_environment.config import EnvironmentConfig
from kinora_environment.credentials import Credentials, CredentialsArgs
from kinora_environment.gateway import Gateway, GatewayArgs
from kinora_environment.gitops import GitOps, GitOpsArgs
from kinora_environment.mesh import Mesh, MeshArgs
from kinora_environment.mongo import MongoCluster
from kinora_environment.monitoring import Monitoring, MonitoringArgs
from kinora_environment.namespaces import Namespaces, NamespacesArgs
from kinora_environment.needs import Needs
from kinora_environment.place import Place
from kinora_environment.postgres import PostgresCluster, PostgresClusterArgs
from kinora_environment.rabbitmq import MessageBroker
from kinora_environment.redis import RedisCache
from kinora_environment.s3 import ObjectStore
from kinora_environment.sizes import SIZES, Sizes
from kinora_environment.stores import StoreArgs, StoreComponent
from kinora_environment.workload import secret

KEDA = "keda"
"""The namespace of KEDA's own chart."""


def create(environment: str, config: EnvironmentConfig, needs: Mapping[str, Needs]) -> dict[str, pulumi.Input[str]]:
    """Register all resources of an environment; returns the stack's outputs.

    Raises:
        ConfigError: for contradictions between configuration and needs.
    """
    sizes, chosen = SIZES[config.size], images.choose(config.images)
    # Always use the configured cluster, not kubectl's current context.
    cluster = pulumi.ResourceOptions(
        providers={
            "kubernetes": k8s.Provider(
                "cluster",
                context=config.context,
                enable_server_side_apply=True,
                # Update in place. Otherwise the provider deletes them first, and pods that start meanwhile have none.
                enable_config_map_mutable=True,
                enable_secret_mutable=True,
            )
        }
    )
    if not config.await_ready:
        pulumi.runtime.register_resource_transform(_do_not_wait)

    credentials = Credentials("credentials", CredentialsArgs(needs, config.generations), cluster)
    namespaces = Namespaces(
        "namespaces",
        NamespacesArgs(
            environment=environment,
            quota=sizes.apps,
            mesh=config.mesh.enabled,
            mesh_privileged=config.mesh.cni,
            protect=config.deletion_protection,
        ),
        cluster,
    )
    stores = _stores(config, chosen, credentials, namespaces["stores"], cluster)
    for store in stores.values():
        store.allow_egress(namespaces["apps"])
    for identity, need in needs.items():
        _write_secrets(identity, need, stores, credentials, namespaces["apps"])
    gateway_place, meshed = namespaces["gateway"], None
    if config.mesh.enabled:
        mesh = Mesh("mesh", MeshArgs(place=namespaces["mesh"], config=config.mesh, sizes=sizes), cluster)
        gateway_place, meshed = mesh.before(gateway_place), mesh.parts
    object_store, broker = stores["s3"], stores["rabbitmq"]
    assert isinstance(object_store, ObjectStore)  # noqa: S101 - for the type
    assert isinstance(broker, MessageBroker)  # noqa: S101 - for the type
    if config.keda:
        broker.allow_scaler(KEDA)
    object_store.allow_egress(namespaces["gateway"])
    gateway = Gateway(
        "gateway",
        GatewayArgs(
            place=gateway_place,
            apps=namespaces["apps"],
            config=config.gateway,
            sizes=sizes,
            images=chosen,
            mesh=config.mesh.enabled,
            streams=object_store.url,
        ),
        cluster,
    )
    monitoring = Monitoring(
        "monitoring",
        MonitoringArgs(
            place=namespaces["monitoring"],
            config=config.monitoring,
            sizes=sizes,
            images=chosen,
            watched=list(namespaces.places.values()),
            admin_password=credentials.random("grafana-admin") if config.monitoring.grafana else None,
            storage_class=config.storage_class,
            retain=not config.disposable,
            protect=config.deletion_protection,
        ),
        cluster,
    )
    gitops = GitOps(
        "gitops",
        GitOpsArgs(
            place=namespaces["gitops"],
            destinations=[namespaces[role] for role in (("apps", "gateway") if config.mesh.enabled else ("apps",))],
            facts={
                "name": environment,
                "publicUrl": config.public_url,
                "mesh": config.mesh.enabled,
                "monitoring": config.monitoring.mode,
                "keda": config.keda,
                "trustedAddresses": config.gateway.trusted_addresses,
            },
            external={name: outside for name, store in stores.items() if (outside := store.outside()) is not None},
            after=meshed,
            config=config.repository,
            sizes=sizes,
            images=chosen,
        ),
        cluster,
    )
    return {
        "public_url": config.public_url,
        "namespaces": ", ".join(place.namespace for place in namespaces.places.values()),
        "gateway": gateway.address,
        "grafana": monitoring.grafana,
        "prometheus": monitoring.prometheus,
        "argocd": gitops.console,
        "next": gitops.next_step,
    }


def _stores(
    config: EnvironmentConfig,
    chosen: Mapping[str, str],
    credentials: Credentials,
    place: Place,
    opts: pulumi.ResourceOptions,
) -> Mapping[str, StoreComponent]:
    class Common(TypedDict):
        place: Place
        sizes: Sizes
        images: Mapping[str, str]
        credentials: Credentials
        storage_class: str | None
        retain: bool
        protect: bool

    common = Common(
        place=place,
        sizes=SIZES[config.size],
        images=chosen,
        credentials=credentials,
        storage_class=config.storage_class,
        retain=not config.disposable,
        protect=config.deletion_protection,
    )
    return {
        "postgres": PostgresCluster("postgres", PostgresClusterArgs(config=config.postgres, **common), opts),
        "mongo": MongoCluster("mongo", StoreArgs(config=config.mongo, **common), opts),
        "redis": RedisCache("redis", StoreArgs(config=config.redis, **common), opts),
        "rabbitmq": MessageBroker("rabbitmq", StoreArgs(config=config.rabbitmq, **common), opts),
        "s3": ObjectStore("s3", StoreArgs(config=config.s3, **common), opts),
    }


def _write_secrets(
    identity: str, need: Needs, stores: Mapping[str, StoreComponent], credentials: Credentials, apps: Place
) -> None:
    """Write the Secrets of an identity's pods: one for each store, and its own keys."""
    for store in need.stores():
        component = stores[store]
        secret(f"{identity}-{store}", apps, component.variables(identity), component.child)
    if need.keys:
        keys = {f"KINORA_{key.upper()}": value for key, value in credentials.keys[identity].items()}
        secret(f"{identity}-keys", apps, keys, pulumi.ResourceOptions(parent=credentials))


def _do_not_wait(args: pulumi.ResourceTransformArgs) -> pulumi.ResourceTransformResult | None:
    if not args.type_.startswith("kubernetes:") or "metadata" not in args.props:
        return None
    metadata: Any = args.props["metadata"]
    annotations = {**metadata.get("annotations", {}), "pulumi.com/skipAwait": "true"}
    props = {**args.props, "metadata": {**metadata, "annotations": annotations}}
    return pulumi.ResourceTransformResult(props, args.opts)
