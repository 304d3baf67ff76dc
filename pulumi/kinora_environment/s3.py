"""S3 object storage: buckets, and an access key for each identity, restricted to its own buckets."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pulumi

from kinora_environment import grants
from kinora_environment.stores import StoreArgs, StoreComponent
from kinora_environment.workload import (
    Container,
    Secret,
    Volume,
    Workload,
    WorkloadArgs,
    checksum,
    config_map,
    job,
    scraped,
    secret,
)

PORT = 9000
USER = 1000
METRICS = "/minio/v2/metrics/cluster"
ROOT = "kinora-root"
REPLICAS = 4
"""The minimum with which losing one keeps every object readable and writable."""

SETTINGS = {
    "MINIO_BROWSER": "off",
    "MINIO_UPDATE": "off",
    "MINIO_CALLHOME_ENABLE": "off",
    "MINIO_PROMETHEUS_AUTH_TYPE": "public",
    # An upload may pause for a week; MinIO's default of one day would delete its parts.
    "MINIO_API_STALE_UPLOADS_EXPIRY": "168h",
}


class ObjectStore(StoreComponent):
    store = "s3"
    usual_ports = (443, 80)

    def __init__(self, name: str, args: StoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("ObjectStore", name, args, opts)
        if args.config.external is None:
            self._server(args, replicas=REPLICAS if args.config.mode == "operator" else 1)
        self.register_outputs({})

    @property
    def url(self) -> str:
        """Its URL, without a trailing slash. Requests are signed for exactly this host."""
        external = self.args.config.external
        if external is None:
            return f"http://{self.args.place.host('s3')}:{PORT}"
        return f"{'https' if external.tls else 'http'}://{external.address}"

    def variables(self, identity: str) -> Mapping[str, pulumi.Output[str]]:
        external = self.args.config.external
        if external is None:
            login = self.login(identity)
            access_key, secret_key = login.name, login.password
        else:
            given = external.credentials[identity]
            # Not escaped: unlike for other stores, these two are not part of a URL.
            access_key, secret_key = given.username, pulumi.Output.secret(given.password.get_secret_value())
        return {
            "KINORA_S3_URL": pulumi.Output.from_input(self.url),
            "KINORA_S3_ACCESS_KEY": pulumi.Output.from_input(access_key),
            "KINORA_S3_SECRET_KEY": secret_key,
        }

    def _server(self, args: StoreArgs, *, replicas: int) -> None:
        """One MinIO server, or several with erasure coding across their volumes."""
        root = secret("s3-root", args.place, {"password": args.credentials.random("s3-root")}, self.child)
        names = "s3-{0...%d}.s3-replicas" % (replicas - 1)  # noqa: UP031 - MinIO's brace syntax
        volumes = "/data" if replicas == 1 else f"http://{args.place.host(names)}:{PORT}/data"
        Workload(
            "s3",
            WorkloadArgs(
                place=args.place,
                user=USER,
                containers=[
                    Container(
                        "minio",
                        args.images["minio"],
                        args.sizes.s3,
                        command=[
                            "minio",
                            "server",
                            "--quiet",
                            "--anonymous",
                            f"--address=:{PORT}",
                            "--certs-dir=/tmp/certs",
                            volumes,
                        ],
                        environment={
                            **SETTINGS,
                            "MINIO_ROOT_USER": ROOT,
                            "MINIO_ROOT_PASSWORD": Secret(root, "password"),
                        },
                        ports={"s3": PORT},
                        ready={"http_get": {"path": "/minio/health/ready", "port": "s3"}},
                        alive={"http_get": {"path": "/minio/health/live", "port": "s3"}},
                    )
                ],
                volumes={"data": Volume("/data", persistent=True), "tmp": Volume("/tmp")},  # noqa: S108
                replicas=replicas,
                parallel=True,  # none is ready before a quorum is
                # The gateway fetches segments directly; the metrics are on the same port.
                clients=["apps", "gateway", "monitoring"],
                # With four servers, half of the space is parity.
                disk_mib=args.sizes.s3.disk // 2 if replicas > 1 else args.sizes.s3.disk,
                storage_class=args.storage_class,
                retain=args.retain,
                protect=args.protect,
                annotations=scraped(PORT, METRICS),
            ),
            self.child,
        )
        self._provision(args, root)

    def _provision(self, args: StoreArgs, root: pulumi.Input[str]) -> None:
        name, logins, buckets = "s3-provision", self.logins(), self._buckets()
        script = grants.s3_script({login.name: buckets[login.identity] for login in logins})
        policies = {
            f"{login.name}.json": json.dumps(grants.s3_policy(buckets[login.identity]), indent=1) for login in logins
        }
        scripts = config_map(name, args.place, {"provision.sh": script, **policies}, self.child)
        passwords = secret(name, args.place, self.passwords(logins), self.child)
        job(
            name,
            args.place,
            user=USER,
            container=Container(
                "provision",
                args.images["minio"],
                args.sizes.job,
                command=["sh", "/provision/provision.sh"],
                environment={
                    "S3_URL": f"http://s3:{PORT}",
                    "ROOT_USER": ROOT,
                    "ROOT_PASSWORD": Secret(root, "password"),
                    "POLICIES": "/provision",
                    "HOME": "/tmp",  # noqa: S108 - for the client's configuration
                },
                environment_from=[passwords],
            ),
            volumes={"provision": Volume("/provision", config=scripts), "tmp": Volume("/tmp")},  # noqa: S108
            fingerprint=checksum(script, *policies.values()),
            opts=self.child,
        )

    def _buckets(self) -> dict[str, list[str]]:
        needs = {login.identity: self.args.credentials.needs(login.identity).s3 for login in self.logins()}
        return {identity: list(need.buckets) for identity, need in needs.items() if need is not None}
