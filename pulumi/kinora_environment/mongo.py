"""MongoDB: a database for each identity, and logins with read and write access to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from kinora_environment import grants
from kinora_environment.stores import StoreArgs, StoreComponent
from kinora_environment.workload import (
    CLAIMS,
    Container,
    Secret,
    Volume,
    Workload,
    WorkloadArgs,
    allow,
    budget,
    checksum,
    config_map,
    job,
    quantities,
    secret,
)

PORT = 27017
USER = 999
"""The user `mongodb` of the image."""
ROOT = "root"
VERSION = "8.0.29"
"""The version that the operator runs, as ``<its repository>:<version>-ubi8``."""
OPERATOR_NAMESPACE = "mongodb"
OPERATOR_USER = 2000

PROVISION = [
    "mongosh",
    "--norc",
    "--quiet",
    "--file",
    "/provision/provision.js",
    f"mongodb://mongo:{PORT}/admin?serverSelectionTimeoutMS=60000",
]


class MongoCluster(StoreComponent):
    store = "mongo"
    usual_ports = (PORT, PORT)

    def __init__(self, name: str, args: StoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("MongoCluster", name, args, opts)
        # Less than half of the memory: connections, sorts and the page cache need the rest.
        self._cache_gb = max(0.25, round(args.sizes.mongo.memory * 0.4 / 1024, 2))
        match args.config.mode:
            case "single":
                self._single(args)
            case "operator":
                self._operator(args)
        self.register_outputs({})

    def variables(self, identity: str) -> Mapping[str, pulumi.Output[str]]:
        login, config = self.login(identity), self.args.config
        # The users are in the database admin; a service's own setting selects its database.
        options = "authSource=admin"
        if config.external is not None:
            where = self.address(config.external)
            options += "&tls=true" if config.external.tls else ""
        elif config.mode == "operator":
            where = ",".join(self._members(self.args))
            options += "&replicaSet=mongo"
        else:
            where = f"{self.args.place.host('mongo')}:{PORT}"
        url = pulumi.Output.concat("mongodb://", login.name, ":", login.password, "@", where, "/?", options)
        return {"KINORA_MONGO_URL": url}

    # --- single -------------------------------------------------------------------------------------------------------

    def _single(self, args: StoreArgs) -> None:
        root = secret("mongo-root", args.place, {"password": args.credentials.random("mongo-root")}, self.child)
        check = {"tcp_socket": {"port": "mongo"}}
        Workload(
            "mongo",
            WorkloadArgs(
                place=args.place,
                user=USER,
                containers=[
                    Container(
                        "mongo",
                        args.images["mongo"],
                        args.sizes.mongo,
                        # No command: the image's entry point creates the root user at the first start. A replacement
                        # image must accept these arguments and variables, listen on all addresses and use /data/db.
                        args=[
                            "mongod",
                            "--dbpath=/data/db",
                            "--bind_ip_all",
                            f"--wiredTigerCacheSizeGB={self._cache_gb}",
                        ],
                        environment={
                            "MONGO_INITDB_ROOT_USERNAME": ROOT,
                            "MONGO_INITDB_ROOT_PASSWORD": Secret(root, "password"),
                            "HOME": "/tmp",  # noqa: S108 - a volume of this pod
                        },
                        ports={"mongo": PORT},
                        # The shell takes a second of CPU to start: too expensive for a frequent probe.
                        ready=check,
                        alive=check,
                    )
                ],
                volumes={
                    "data": Volume("/data/db", persistent=True),
                    "config": Volume("/data/configdb"),
                    "tmp": Volume("/tmp"),  # noqa: S108
                },
                clients=["apps"],
                disk_mib=args.sizes.mongo.disk,
                storage_class=args.storage_class,
                retain=args.retain,
                protect=args.protect,
                grace_seconds=60,
            ),
            self.child,
        )
        self._provision(args, root)

    def _provision(self, args: StoreArgs, root: pulumi.Input[str]) -> None:
        name, logins = "mongo-provision", self.logins()
        script = grants.mongo_script({login.name: login.identity for login in logins})
        scripts = config_map(name, args.place, {"provision.js": script}, self.child)
        passwords = secret(name, args.place, self.passwords(logins), self.child)
        job(
            name,
            args.place,
            user=USER,
            container=Container(
                "provision",
                args.images["mongo"],
                args.sizes.job,
                command=PROVISION,
                environment={
                    "ROOT_USER": ROOT,
                    "ROOT_PASSWORD": Secret(root, "password"),
                    "HOME": "/tmp",  # noqa: S108 - for the shell's history
                },
                environment_from=[passwords],
            ),
            volumes={"provision": Volume("/provision", config=scripts), "tmp": Volume("/tmp")},  # noqa: S108
            fingerprint=checksum(script, *PROVISION),
            opts=self.child,
        )

    # --- operator -----------------------------------------------------------------------------------------------------

    def _members(self, args: StoreArgs) -> list[str]:
        """Host and port of each member, with the operator's naming scheme."""
        replicas = range(max(args.sizes.replicas, 3))
        return [f"{args.place.host(f'mongo-{replica}.mongo-svc')}:{PORT}" for replica in replicas]

    def _operator(self, args: StoreArgs) -> None:
        """A replica set of MongoDB's Community Operator, which removes users that are no longer listed."""
        account = self._account(args)
        users = []
        for login in self.logins():
            unique = f"mongo-{login.name.replace('_', '-')}"
            password = secret(f"{unique}-password", args.place, {"password": login.password}, self.child)
            users.append(
                {
                    "name": login.name,
                    "db": "admin",
                    "passwordSecretRef": {"name": password},
                    "roles": [{"name": "readWrite", "db": login.identity}],
                    "scramCredentialsSecretName": unique,
                    # The operator's default names would contain underscores, which are invalid for a Secret.
                    "connectionStringSecretName": f"{unique}-connection",
                }
            )
        k8s.apiextensions.CustomResource(
            "mongo",
            api_version="mongodbcommunity.mongodb.com/v1",
            kind="MongoDBCommunity",
            metadata={"name": "mongo", "namespace": args.place.created, "labels": args.place.labels("mongo")},
            spec={
                "type": "ReplicaSet",
                "members": len(self._members(args)),
                "version": VERSION,
                "security": {"authentication": {"modes": ["SCRAM"]}},
                "users": users,
                "additionalMongodConfig": {
                    "storage.wiredTiger.engineConfig.cacheSizeGB": self._cache_gb,
                    "storage.wiredTiger.engineConfig.journalCompressor": "zlib",
                },
                "statefulSet": {"spec": self._stateful_set(args, account)},
            },
            opts=pulumi.ResourceOptions(
                parent=self, protect=args.protect, ignore_changes=[f"spec.statefulSet.{CLAIMS}"]
            ),
        )
        budget("mongo", args.place, {"app": "mongo-svc"}, self.child)
        allow(
            "mongo",
            args.place,
            clients=["apps"],
            operators=[OPERATOR_NAMESPACE],
            ports=[PORT],
            pods={"app": "mongo-svc"},
            opts=self.child,
        )

    def _stateful_set(self, args: StoreArgs, account: str) -> dict[str, Any]:
        """Overrides that the operator applies to its StatefulSet. Lists are merged by name."""
        restricted = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        job = quantities(args.sizes.job)
        storage = {"storageClassName": args.storage_class} if args.storage_class else {}
        keep = "Retain" if args.retain else "Delete"
        return {
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": keep, "whenScaled": "Retain"},
            "template": {
                "spec": {
                    "serviceAccountName": account,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": OPERATOR_USER,
                        "fsGroup": OPERATOR_USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {"name": "mongod", "resources": quantities(args.sizes.mongo), "securityContext": restricted},
                        {"name": "mongodb-agent", "resources": job, "securityContext": restricted},
                    ],
                    "initContainers": [
                        {"name": name, "resources": job, "securityContext": restricted}
                        for name in ("mongod-posthook", "mongodb-agent-readinessprobe")
                    ],
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {"matchLabels": {"app": "mongo-svc"}},
                        }
                    ],
                }
            },
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": name},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": f"{size}Mi"}},
                        **storage,
                    },
                }
                for name, size in (("data-volume", args.sizes.mongo.disk), ("logs-volume", 2 * 1024))
            ],
        }

    def _account(self, args: StoreArgs) -> str:
        """The service account that the operator's agents expect: they report by annotating their own pods."""
        name = "mongodb-database"
        metadata = {"name": name, "namespace": args.place.created, "labels": args.place.labels("mongo")}
        k8s.core.v1.ServiceAccount(name, metadata=metadata, automount_service_account_token=True, opts=self.child)
        k8s.rbac.v1.Role(
            name,
            metadata=metadata,
            rules=[
                {"api_groups": [""], "resources": ["secrets"], "verbs": ["get"]},
                {"api_groups": [""], "resources": ["pods"], "verbs": ["patch", "delete", "get"]},
            ],
            opts=self.child,
        )
        k8s.rbac.v1.RoleBinding(
            name,
            metadata=metadata,
            role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            subjects=[{"kind": "ServiceAccount", "name": name, "namespace": args.place.created}],
            opts=self.child,
        )
        return name
