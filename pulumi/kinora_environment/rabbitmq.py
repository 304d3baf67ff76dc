"""RabbitMQ: one virtual host, in which each login has access to its own objects only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from kinora_environment import grants
from kinora_environment.place import selector
from kinora_environment.stores import StoreArgs, StoreComponent
from kinora_environment.workload import (
    Container,
    Input,
    Volume,
    Workload,
    WorkloadArgs,
    allow,
    budget,
    config_map,
    quantities,
    secret,
)

PORT, TLS_PORT, METRICS_PORT, MANAGEMENT_PORT = 5672, 5671, 15692, 15672
USER = 999
"""The user `rabbitmq` of the image."""
VHOST = "kinora"
OPERATOR_NAMESPACE = "rabbitmq-system"

# How long a message may stay unacknowledged: 48 h. Encoding a 12 h source that cannot be split takes many hours; dead
# workers are detected by the connection's heartbeat instead.
CONSUMER_TIMEOUT_MS = 48 * 3600 * 1000

COOKIE = """\
set -eu
# Erlang rejects a cookie file that the group or others can read, as in a mounted Secret.
umask 077
cp /cookie/cookie "$HOME/.erlang.cookie"
chmod 0400 "$HOME/.erlang.cookie"
"""

RELOAD = """\
set -eu
trap 'exit 0' TERM

apply() {
    rabbitmqctl --quiet import_definitions "$DEFINITIONS/definitions.json" || return 1
    users=$(rabbitmqctl --quiet list_users --no-table-headers) || return 1
    printf '%s\\n' "$users" | while read -r user _; do
        # Names of services' users end in a generation; those that are no longer listed were retired.
        case "${user##*_}" in '' | *[!0-9]*) continue ;; esac
        # </dev/null, or it would consume the rest of the list.
        grep -qx "$user" "$DEFINITIONS/users" || rabbitmqctl --quiet delete_user "$user" </dev/null || return 1
    done
}

rabbitmqctl --quiet await_startup
applied=
while :; do
    given=$(cat "$DEFINITIONS/definitions.json")
    if [ "$given" != "$applied" ] && apply; then
        applied=$given
        echo 'applied the definitions'
    fi
    sleep "${INTERVAL:-5}" &
    wait $!
done
"""


class MessageBroker(StoreComponent):
    store = "rabbitmq"
    usual_ports = (TLS_PORT, PORT)

    def __init__(self, name: str, args: StoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("MessageBroker", name, args, opts)
        match args.config.mode:
            case "single":
                self._single(args)
            case "operator":
                self._operator(args)
        self.register_outputs({})

    def variables(self, identity: str) -> Mapping[str, pulumi.Output[str]]:
        login, external = self.login(identity), self.args.config.external
        if external is None:
            scheme, where = "amqp", f"{self.args.place.host('rabbitmq')}:{PORT}"
        elif external.tls:
            scheme, where = "amqps", self.address(external)
        else:
            scheme, where = "amqp", self.address(external)
        url = pulumi.Output.concat(scheme, "://", login.name, ":", login.password, "@", where, "/", VHOST)
        return {"KINORA_RABBITMQ_URL": url}

    def _permissions(self) -> dict[str, dict[str, str]]:
        """By identity."""
        needs = {login.identity: self.args.credentials.needs(login.identity).rabbitmq for login in self.logins()}
        return {
            identity: grants.rabbitmq_permissions(
                identity, consumes=need.consumes, published=self.args.credentials.exchanges
            )
            for identity, need in needs.items()
            if need is not None
        }

    def _open(self, args: StoreArgs) -> None:
        """Services may connect to the broker, and only Prometheus to the metrics."""
        pods = selector("rabbitmq")
        allow("rabbitmq", args.place, clients=["apps"], ports=[PORT], opts=self.child)
        allow("rabbitmq-metrics", args.place, clients=["monitoring"], ports=[METRICS_PORT], pods=pods, opts=self.child)

    def allow_scaler(self, namespace: str) -> None:
        """Let KEDA, in its own namespace, query queue lengths, with the services' credentials."""
        if self.args.config.external is None:
            pods = selector("rabbitmq")
            allow("rabbitmq-keda", self.args.place, operators=[namespace], ports=[PORT], pods=pods, opts=self.child)

    # --- single -------------------------------------------------------------------------------------------------------

    def _single(self, args: StoreArgs) -> None:
        place = args.place
        settings = configuration(memory_mib=args.sizes.rabbitmq.memory)
        files = config_map(
            "rabbitmq",
            place,
            {
                "rabbitmq.conf": settings,
                "enabled_plugins": "[rabbitmq_prometheus].\n",
                "cookie.sh": COOKIE,
                "reload.sh": RELOAD,
            },
            self.child,
        )
        cookie = secret("rabbitmq-cookie", place, {"cookie": args.credentials.random("rabbitmq-cookie")}, self.child)
        users = secret("rabbitmq-definitions", place, self._definitions(), self.child)
        environment = {
            # The node's data contain its name, so the name must not depend on the pod's; and Erlang distribution stays
            # within the pod.
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "HOME": "/var/lib/rabbitmq",
            "LANG": "C.UTF-8",
        }
        server = {
            **environment,
            "RABBITMQ_CONFIG_FILE": "/config/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": "/config/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": "/data/mnesia",
            "RABBITMQ_LOG_BASE": "/tmp/log",  # noqa: S108 - a volume of this pod, for crash dumps
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        watcher = {**environment, "DEFINITIONS": "/definitions", "ERL_FLAGS": "-start_epmd false"}
        check = {"tcp_socket": {"port": "amqp"}}
        image = args.images["rabbitmq"]
        volumes = {
            "data": Volume("/data", persistent=True),
            "home": Volume("/var/lib/rabbitmq"),
            "config": Volume("/config", config=files),
            "definitions": Volume("/definitions", secret=users),
            "cookie": Volume("/cookie", secret=cookie),
            "tmp": Volume("/tmp"),  # noqa: S108
        }
        mounts = {name: volume.path for name, volume in volumes.items() if name != "cookie"}
        Workload(
            "rabbitmq",
            WorkloadArgs(
                place=place,
                user=USER,
                before=[
                    Container(
                        "cookie",
                        image,
                        args.sizes.sidecar,
                        command=["sh", "/config/cookie.sh"],
                        environment={"HOME": "/var/lib/rabbitmq"},
                        volumes={"config": "/config", "cookie": "/cookie", "home": "/var/lib/rabbitmq"},
                    )
                ],
                containers=[
                    Container(
                        "rabbitmq",
                        image,
                        args.sizes.rabbitmq,
                        # Debian has a wrapper of this name on PATH that writes to other folders: an image built from
                        # its package must put /usr/lib/rabbitmq/bin first.
                        command=["rabbitmq-server"],
                        environment=server,
                        ports={"amqp": PORT, "metrics": METRICS_PORT},
                        volumes=mounts,
                        # It listens only after loading its definitions. Erlang's own tools take a second of CPU to
                        # start: too expensive for a frequent probe.
                        ready=check,
                        alive=check,
                    ),
                    Container(
                        "reload",
                        image,
                        args.sizes.job,
                        command=["sh", "/config/reload.sh"],
                        environment=watcher,
                        volumes={name: path for name, path in mounts.items() if name != "data"},
                    ),
                ],
                volumes=volumes,
                disk_mib=args.sizes.rabbitmq.disk,
                storage_class=args.storage_class,
                retain=args.retain,
                protect=args.protect,
                configuration=settings,
                grace_seconds=60,
            ),
            self.child,
        )
        self._open(args)

    def _definitions(self) -> dict[str, pulumi.Output[str]]:
        """The definitions that the broker loads at start-up and on changes, and the names of all users."""
        logins, permissions = self.logins(), self._permissions()
        names = [login.name for login in logins]
        passwords = pulumi.Output.all(*[login.password for login in logins]).apply(
            lambda given: dict(zip(names, given, strict=True))
        )
        owners = {login.name: permissions[login.identity] for login in logins}
        return {
            "definitions.json": passwords.apply(lambda known: json.dumps(definitions(known, owners), indent=1)),
            "users": pulumi.Output.from_input("".join(f"{login.name}\n" for login in logins)),
        }

    # --- operator -----------------------------------------------------------------------------------------------------

    def _operator(self, args: StoreArgs) -> None:
        """A cluster of RabbitMQ's Cluster Operator; its Topology Operator manages virtual host, users and
        permissions."""
        self._cluster(args)
        self._resource("Vhost", VHOST, self._vhost(args), args)
        permissions = self._permissions()
        for login in self.logins():
            unique = f"rabbitmq-{login.name.replace('_', '-')}"
            data: dict[str, Input] = {"username": login.name, "password": login.password}
            credentials = secret(unique, args.place, data, self.child)
            limits = {"connections": grants.RABBITMQ_LIMITS["max-connections"]}
            limits["channels"] = grants.RABBITMQ_LIMITS["max-channels"]
            self._resource("User", unique, {"importCredentialsSecret": {"name": credentials}, "limits": limits}, args)
            allowed = {"vhost": VHOST, "userReference": {"name": unique}, "permissions": permissions[login.identity]}
            self._resource("Permission", unique, allowed, args)
        budget("rabbitmq", args.place, selector("rabbitmq"), self.child)
        self._open(args)
        # Separate from the services' rule: only the operator may use the management API.
        allow(
            "rabbitmq-management",
            args.place,
            operators=[OPERATOR_NAMESPACE],
            ports=[MANAGEMENT_PORT],
            pods=selector("rabbitmq"),
            opts=self.child,
        )

    def _vhost(self, args: StoreArgs) -> dict[str, Any]:
        deletion = "retain" if args.retain else "delete"
        return {"name": VHOST, "defaultQueueType": "quorum", "deletionPolicy": deletion}

    def _resource(self, kind: str, name: str, spec: Mapping[str, Any], args: StoreArgs) -> None:
        k8s.apiextensions.CustomResource(
            f"{name}-{kind.lower()}",
            api_version="rabbitmq.com/v1beta1",
            kind=kind,
            metadata={"name": name, "namespace": args.place.created, "labels": args.place.labels("rabbitmq")},
            spec={**spec, "rabbitmqClusterReference": {"name": "rabbitmq"}},
            opts=self.child,
        )

    def _cluster(self, args: StoreArgs) -> None:
        restricted = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        k8s.apiextensions.CustomResource(
            "rabbitmq",
            api_version="rabbitmq.com/v1beta1",
            kind="RabbitmqCluster",
            metadata={"name": "rabbitmq", "namespace": args.place.created, "labels": args.place.labels("rabbitmq")},
            spec={
                "replicas": max(args.sizes.replicas, 3),
                "image": args.images["rabbitmq"],
                "resources": quantities(args.sizes.rabbitmq),
                "persistence": {
                    "storage": f"{args.sizes.rabbitmq.disk}Mi",
                    **({"storageClassName": args.storage_class} if args.storage_class else {}),
                },
                "rabbitmq": {
                    "additionalConfig": f"consumer_timeout = {CONSUMER_TIMEOUT_MS}\n"
                    # Do not place all leaders on the node that the declaring service is connected to.
                    "queue_leader_locator = balanced\n"
                },
                "override": {
                    "statefulSet": {
                        "spec": {
                            "template": {
                                "spec": {
                                    "securityContext": {
                                        "runAsNonRoot": True,
                                        "runAsUser": USER,
                                        "fsGroup": USER,
                                        "seccompProfile": {"type": "RuntimeDefault"},
                                    },
                                    "containers": [{"name": "rabbitmq", "securityContext": restricted}],
                                    "initContainers": [{"name": "setup-container", "securityContext": restricted}],
                                    "topologySpreadConstraints": [
                                        {
                                            "maxSkew": 1,
                                            "topologyKey": "kubernetes.io/hostname",
                                            "whenUnsatisfiable": "ScheduleAnyway",
                                            "labelSelector": {"matchLabels": selector("rabbitmq")},
                                        }
                                    ],
                                }
                            }
                        }
                    }
                },
            },
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect),
        )


def configuration(*, memory_mib: int) -> str:
    """The settings of a single broker (rabbitmq.conf)."""
    settings = {
        "listeners.tcp.default": PORT,
        "prometheus.tcp.port": METRICS_PORT,
        "consumer_timeout": CONSUMER_TIMEOUT_MS,
        "load_definitions": "/definitions/definitions.json",
        "log.console": "true",
        "log.console.level": "warning",
        "log.console.formatter": "json",
        "log.file": "false",
        "disk_free_limit.absolute": "200MB",
        "vm_memory_high_watermark.absolute": f"{memory_mib * 6 // 10}MB",
    }
    return "".join(f"{key} = {value}\n" for key, value in settings.items())


def definitions(passwords: Mapping[str, str], permissions: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The definitions of the virtual host and its users, both by the users' names."""
    return {
        "vhosts": [{"name": VHOST, "metadata": {"description": "", "tags": [], "default_queue_type": "quorum"}}],
        "users": [
            {"name": user, "password": password, "tags": [], "limits": grants.RABBITMQ_LIMITS}
            for user, password in passwords.items()
        ],
        "permissions": [{"user": user, "vhost": VHOST, **allowed} for user, allowed in permissions.items()],
    }
