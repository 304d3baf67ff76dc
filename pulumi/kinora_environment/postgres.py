"""PostgreSQL with pgvector: a database and an owner for each identity, and logins that assume the owner's role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from kinora_environment import grants
from kinora_environment.config import Backups, Postgres, Restore
from kinora_environment.place import Place
from kinora_environment.stores import StoreArgs, StoreComponent
from kinora_environment.workload import (
    Container,
    Secret,
    Volume,
    Workload,
    WorkloadArgs,
    allow,
    checksum,
    config_map,
    job,
    named,
    pod,
    secret,
)

PORT = 5432
ORIGINAL = "postgres"
"""The operator's cluster that an environment starts with."""
USER = 999
"""The user `postgres` of the image; initdb requires that the uid has a name."""
METRICS_PORT = 9187
OPERATOR_NAMESPACE = "cnpg-system"

INITIALISE = """\
set -eu
[ -s /data/cluster/PG_VERSION ] && exit 0
# Initialised in a temporary folder and renamed, so that an interruption leaves no partial cluster.
rm -rf /data/partial
initdb --pgdata=/data/partial --username=postgres --pwfile=/root-password/password --auth=scram-sha-256 \\
    --encoding=UTF8 --locale=C.UTF-8 --data-checksums
mv /data/partial /data/cluster
"""

# Even if the server is up: a network plugin blocks a new pod's traffic until it knows the pod.
_WAIT = """\
set -eu
tries=0
until pg_isready --quiet; do
    tries=$((tries + 1))
    [ "$tries" -lt 30 ]
    sleep 2
done
"""

BACK_UP = (
    _WAIT
    + """\
day=$(date -u +%Y-%m-%dT%H%M%SZ)
for database in $DATABASES; do
    pg_dump --format=custom --file="/backups/$database-$day.partial" "$database"
    mv "/backups/$database-$day.partial" "/backups/$database-$day.dump"
done
# Only after all dumps succeeded, so that repeated failures never delete the last good dumps.
find /backups -name '*.dump' -mtime "+$KEEP_DAYS" -delete
find /backups -name '*.partial' -mmin +1440 -delete
"""
)

RESTORE = (
    _WAIT
    + """\
for database in $DATABASES; do
    newest=$(find /backups -name "$database-*.dump" | sort | tail -n 1)  # names contain the time
    [ -n "$newest" ] || { echo "there is no dump of $database"; exit 1; }
    echo "restoring $newest"
    # Drop everything that the owner has, in the same transaction: --clean would keep tables that are not in the dump,
    # and the migrations that create them would fail when they are applied again. Extensions have another owner and
    # stay. A corrupt dump never reaches COMMIT, so everything is rolled back.
    {
        echo "BEGIN; DROP OWNED BY $database;"
        pg_restore --file=- "$newest" && echo "COMMIT;"
    } | psql --no-psqlrc --set=ON_ERROR_STOP=1 --dbname="$database" | grep -x COMMIT
done
"""
)

PROVISION = (
    _WAIT
    + """\
psql --no-psqlrc --quiet --file=/provision/provision.sql
"""
)


@dataclass(frozen=True)
class PostgresClusterArgs(StoreArgs):
    config: Postgres


class PostgresCluster(StoreComponent):
    store = "postgres"
    usual_ports = (PORT, PORT)

    def __init__(self, name: str, args: PostgresClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("PostgresCluster", name, args, opts)
        self._config = args.config
        self._current = args.config.restore.cluster if args.config.restore else ORIGINAL
        """The operator's cluster that services use."""
        self._owners = sorted({login.identity for login in self.logins()})
        match args.config.mode:
            case "single":
                self._single(args)
            case "operator":
                self._operator(args)
        self.register_outputs({})

    def variables(self, identity: str) -> Mapping[str, pulumi.Output[str]]:
        login, config = self.login(identity), self._config
        if config.external is not None:
            where = f"{self.address(config.external)}/{identity}"
            end = "?sslmode=require" if config.external.tls else ""
        else:
            host = self.args.place.host(f"{self._current}-rw" if config.mode == "operator" else "postgres")
            # Every connection assumes the owner's role, whatever the generation of its login.
            where, end = f"{host}:{PORT}/{identity}", f"?role={identity}"
        return {
            "KINORA_POSTGRES_URL": pulumi.Output.concat(
                "postgresql://", login.name, ":", login.password, "@", where, end
            )
        }

    def _extensions(self) -> dict[str, list[str]]:
        needs = {owner: self.args.credentials.needs(owner).postgres for owner in self._owners}
        return {owner: list(need.extensions) for owner, need in needs.items() if need is not None}

    # --- single ------------------------------------------------------------------------------------------------------

    def _single(self, args: PostgresClusterArgs) -> None:
        place, image, child = args.place, args.images["postgres"], self.child
        root = secret("postgres-root", place, {"password": args.credentials.random("postgres-root")}, child)
        # Password logins from anywhere that the network policies allow, including the superuser.
        hba = "local all all scram-sha-256\nhost all all all scram-sha-256\n"
        files = config_map("postgres", place, {"initialise.sh": INITIALISE, "pg_hba.conf": hba}, child)
        memory = args.sizes.postgres.memory
        settings = {
            "listen_addresses": "*",
            "hba_file": "/config/pg_hba.conf",
            "unix_socket_directories": "/tmp",  # noqa: S108 - a volume of this pod
            "password_encryption": "scram-sha-256",
            "max_connections": "200",
            "shared_buffers": f"{memory // 4}MB",
            "effective_cache_size": f"{memory // 2}MB",
            "wal_compression": "on",
            "idle_in_transaction_session_timeout": "5min",
        }
        volumes = {
            "data": Volume("/data", persistent=True),
            "tmp": Volume("/tmp"),  # noqa: S108
            "config": Volume("/config", config=files),
            "root-password": Volume("/root-password", secret=root),
        }
        check = {"exec_": {"command": ["pg_isready", "--host=127.0.0.1", "--username=postgres"]}}
        Workload(
            "postgres",
            WorkloadArgs(
                place=place,
                user=USER,
                before=[Container("initialise", image, args.sizes.postgres, command=["sh", "/config/initialise.sh"])],
                containers=[
                    Container(
                        "postgres",
                        image,
                        args.sizes.postgres,
                        command=[
                            "postgres",
                            "-D",
                            "/data/cluster",
                            *(f"--{key}={value}" for key, value in settings.items()),
                        ],
                        ports={"postgres": PORT},
                        volumes={"data": "/data", "tmp": "/tmp", "config": "/config"},  # noqa: S108
                        ready=check,
                        alive=check,
                    )
                ],
                volumes=volumes,
                clients=["apps"],
                disk_mib=args.sizes.postgres.disk,
                storage_class=args.storage_class,
                retain=args.retain,
                protect=args.protect,
                configuration=hba,
                grace_seconds=60,
            ),
            child,
        )
        self._provision(args, root)
        if args.config.backups is not None:
            self._dumps(args, args.config.backups, root)

    def _connection(self, root: pulumi.Input[str]) -> dict[str, str | Secret]:
        """The connection variables of PostgreSQL's client programs."""
        return {"PGHOST": "postgres", "PGUSER": "postgres", "PGPASSWORD": Secret(root, "password")}

    def _provision(self, args: PostgresClusterArgs, root: pulumi.Input[str]) -> None:
        logins = self.logins()
        sql = grants.postgres_sql({login.name: login.identity for login in logins}, extensions=self._extensions())
        name = "postgres-provision"
        scripts = config_map(name, args.place, {"provision.sh": PROVISION, "provision.sql": sql}, self.child)
        passwords = secret(name, args.place, self.passwords(logins), self.child)
        job(
            name,
            args.place,
            user=USER,
            container=Container(
                "provision",
                args.images["postgres"],
                args.sizes.job,
                command=["sh", "/provision/provision.sh"],
                environment=self._connection(root),
                environment_from=[passwords],
            ),
            volumes={"provision": Volume("/provision", config=scripts), "tmp": Volume("/tmp")},  # noqa: S108
            fingerprint=checksum(sql, PROVISION),
            opts=self.child,
        )

    def _dumps(self, args: PostgresClusterArgs, backups: Backups, root: pulumi.Input[str]) -> None:
        """Nightly dumps of each database to a volume beside the store."""
        name, place = "postgres-backup", args.place
        metadata = {"name": name, "namespace": place.created, "labels": place.labels(name)}
        account = k8s.core.v1.ServiceAccount(
            name, metadata=metadata, automount_service_account_token=False, opts=self.child
        )
        claim = k8s.core.v1.PersistentVolumeClaim(
            name,
            # With WaitForFirstConsumer, waiting for the volume would block until the first backup.
            metadata={**metadata, "annotations": {"pulumi.com/skipAwait": "true"}},
            spec={
                "access_modes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": f"{args.sizes.postgres.disk}Mi"}},
                **({"storage_class_name": args.storage_class} if args.storage_class else {}),
            },
            # As with workload.CLAIMS: expanded manually, and never recreated.
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect, ignore_changes=["spec"]),
        )
        scripts = config_map(name, place, {"back-up.sh": BACK_UP, "restore.sh": RESTORE}, self.child)
        template = pod(
            place=place,
            name=name,
            user=USER,
            containers=[
                Container(
                    "back-up",
                    args.images["postgres"],
                    args.sizes.job,
                    command=["sh", "/scripts/back-up.sh"],
                    environment={
                        **self._connection(root),
                        "DATABASES": " ".join(self._owners),
                        "KEEP_DAYS": str(backups.keep_days),
                    },
                )
            ],
            volumes={
                "backups": Volume("/backups", claim=named(claim)),
                "scripts": Volume("/scripts", config=scripts),
                "tmp": Volume("/tmp"),  # noqa: S108
            },
            service_account=named(account),
            restart="Never",
        )
        k8s.batch.v1.CronJob(
            name,
            metadata=metadata,
            spec={
                "schedule": backups.schedule,
                "time_zone": "Etc/UTC",
                "concurrency_policy": "Forbid",
                "starting_deadline_seconds": 3600,
                "job_template": {
                    "spec": {"backoff_limit": 2, "active_deadline_seconds": 6 * 3600, "template": template}
                },
            },
            opts=self.child,
        )

    # --- operator ----------------------------------------------------------------------------------------------------

    def _operator(self, args: PostgresClusterArgs) -> None:
        """A cluster of CloudNativePG; with `restore`, also the new one beside it."""
        place, restore = args.place, args.config.restore
        roles = self._roles(place)
        if restore is None:
            self._cluster(args, ORIGINAL, roles)
        else:
            if restore.keep_source:
                self._cluster(args, restore.source, roles)
            self._cluster(args, restore.cluster, roles, restore)

    def _roles(self, place: Place) -> list[dict[str, Any]]:
        """Owners, and logins that assume their roles. The operator drops a login only if it is marked as absent."""
        roles: list[dict[str, Any]] = [
            {"name": name, "ensure": "absent"} for _, name in self.args.credentials.retired(self.store)
        ]
        roles += [{"name": owner, "ensure": "present", "login": False} for owner in self._owners]
        for login in self.logins():
            password = k8s.core.v1.Secret(
                f"postgres-{login.name}",
                metadata={
                    "name": f"postgres-{login.name.replace('_', '-')}",
                    "namespace": place.created,
                    "labels": {**place.labels("postgres"), "cnpg.io/reload": "true"},
                },
                type="kubernetes.io/basic-auth",
                string_data=pulumi.Output.secret({"username": login.name, "password": login.password}),
                opts=self.child,
            )
            roles.append(
                {
                    "name": login.name,
                    "ensure": "present",
                    "login": True,
                    "inherit": False,
                    "inRoles": [login.identity],
                    "passwordSecret": {"name": named(password)},
                }
            )
        return roles

    def _cluster(
        self, args: PostgresClusterArgs, name: str, roles: list[dict[str, Any]], restore: Restore | None = None
    ) -> None:
        """A primary, standby replicas, base backups and WAL archiving."""
        place, backups = args.place, args.config.backups
        metadata = {"name": name, "namespace": place.created, "labels": place.labels("postgres")}
        cluster = k8s.apiextensions.CustomResource(
            name,
            api_version="postgresql.cnpg.io/v1",
            kind="Cluster",
            metadata=metadata,
            spec={
                **(self._recovery(restore, backups) if restore and backups else {}),
                "instances": max(args.sizes.replicas, 2),
                "imageName": args.images["postgres-operator"],
                "enableSuperuserAccess": False,
                "storage": {
                    "size": f"{args.sizes.postgres.disk}Mi",
                    **({"storageClass": args.storage_class} if args.storage_class else {}),
                },
                "resources": {
                    "requests": {"cpu": f"{args.sizes.postgres.cpu}m", "memory": f"{args.sizes.postgres.memory}Mi"},
                    "limits": {"cpu": f"{args.sizes.postgres.cpu_limit}m", "memory": f"{args.sizes.postgres.memory}Mi"},
                },
                "postgresql": {
                    "parameters": {
                        "max_connections": "200",
                        "shared_buffers": f"{args.sizes.postgres.memory // 4}MB",
                        "idle_in_transaction_session_timeout": "5min",
                    },
                    # Synchronous replication: a confirmed commit survives the loss of any one machine.
                    "synchronous": {"method": "any", "number": 1, "dataDurability": "preferred"},
                },
                "managed": {"roles": roles},
                "affinity": {"podAntiAffinityType": "preferred", "topologyKey": "kubernetes.io/hostname"},
                **(
                    {"backup": {"retentionPolicy": f"{backups.keep_days}d", **self._barman(backups)}} if backups else {}
                ),
            },
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect),
        )
        for owner, extensions in self._extensions().items():
            k8s.apiextensions.CustomResource(
                f"{name}-{owner}",
                api_version="postgresql.cnpg.io/v1",
                kind="Database",
                metadata={
                    "name": owner if name == ORIGINAL else f"{name}-{owner}",
                    "namespace": place.created,
                    "labels": place.labels("postgres"),
                },
                spec={
                    "name": owner,
                    "owner": owner,
                    "cluster": {"name": named(cluster)},
                    "databaseReclaimPolicy": "retain",
                    "extensions": [{"name": extension, "ensure": "present"} for extension in extensions],
                },
                opts=self.child,
            )
        if backups:
            k8s.apiextensions.CustomResource(
                f"{name}-backup",
                api_version="postgresql.cnpg.io/v1",
                kind="ScheduledBackup",
                metadata={**metadata, "name": f"{name}-backup"},
                # The operator's schedule has a field for seconds.
                spec={"schedule": f"0 {backups.schedule}", "cluster": {"name": named(cluster)}, "immediate": True},
                opts=self.child,
            )
        pods, operators = {"cnpg.io/cluster": name}, [OPERATOR_NAMESPACE]
        allow(name, place, clients=["apps"], operators=operators, ports=[PORT, 8000], pods=pods, opts=self.child)
        allow(f"{name}-metrics", place, clients=["monitoring"], ports=[METRICS_PORT], pods=pods, opts=self.child)

    def _recovery(self, restore: Restore, backups: Backups) -> dict[str, Any]:
        """Only read when the cluster is created: point-in-time recovery from another cluster's backups."""
        target = {"recoveryTarget": {"targetTime": restore.until.isoformat()}} if restore.until else {}
        return {
            "bootstrap": {"recovery": {"source": restore.source, **target}},
            "externalClusters": [{"name": restore.source, **self._barman(backups)}],
        }

    def _barman(self, backups: Backups) -> dict[str, Any]:
        storage = backups.storage
        assert storage is not None  # noqa: S101 - the configuration requires it
        return {
            "barmanObjectStore": {
                "destinationPath": f"s3://{storage.bucket}/postgres",
                "endpointURL": f"https://{storage.address}",
                "s3Credentials": {
                    "accessKeyId": {"name": storage.secret, "key": "access_key"},
                    "secretAccessKey": {"name": storage.secret, "key": "secret_key"},
                },
                "wal": {"compression": "gzip"},
            },
        }
