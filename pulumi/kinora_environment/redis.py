"""Redis: a user for each login, restricted to its identity's key prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pulumi

from kinora_environment import grants
from kinora_environment.stores import StoreArgs, StoreComponent
from kinora_environment.workload import (
    Container,
    Input,
    Secret,
    Volume,
    Workload,
    WorkloadArgs,
    checksum,
    config_map,
    job,
    secret,
)

PORT, SENTINEL_PORT, HEALTH_PORT = 6379, 26379, 8404
USER = 999
"""The user `redis` of the image."""
PROXY_USER = 99
"""The user `haproxy` of the image."""
REPLICAS = 3
KEEPER = "keeper"
# For probes, user updates, replication, sentinels and the proxy. No access to keys.
KEEPER_RULES = (
    "&* -@all +@connection +acl +info +role +config|rewrite +multi +exec +subscribe +publish"
    " +psync +replconf +slaveof +replicaof +script|kill"
)

PROVISION = """\
set -eu
cli() { redis-cli -h "$host" -p "${PORT:-6379}" --user keeper "$@"; }

# Even if the server is up: a network plugin blocks a new pod's traffic until it knows the pod.
await_server() {
    tries=0
    until [ "$(cli ping 2>/dev/null)" = PONG ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 15 ] || return 1
        sleep 2
    done
}

# User by user instead of ACL LOAD, which (before Redis 7.4) disconnects every client.
apply_users() {
    replies=$(sed 's/^user /ACL SETUSER /' "$ACL_FILE" | cli) || return 1
    # Not printed: an error repeats the rule, which contains the password.
    if printf '%s\\n' "$replies" | grep -qvx OK; then return 1; fi
    for user in $(cli ACL USERS); do
        grep -q "^user $user " "$ACL_FILE" || cli ACL DELUSER "$user" >/dev/null || return 1
    done
}

failed=
for host in $HOSTS; do
    if ! await_server || ! apply_users; then failed="$failed $host"; fi
done
[ -z "$failed" ] || { echo "the users could not be set on:$failed" >&2; exit 1; }
"""

MASTER = """\
# Sourced by the other scripts. $HOSTS: all replicas; the first one is the master until the sentinels elect another.
self=${SELF:-$HOSTNAME.$DOMAIN}
data=${DATA:-/data}
port=${PORT:-6379}
sentinel_port=${SENTINEL_PORT:-26379}

# The master according to most sentinels; if none answers, according to the last state of this replica's sentinel.
find_master() {
    answers=$(
        for host in $HOSTS; do
            timeout 2 redis-cli -h "$host" -p "$sentinel_port" --raw sentinel get-master-addr-by-name kinora || true
        done 2>/dev/null | grep -Fx "$(printf '%s\\n' $HOSTS)" | sort | uniq -c | sort -rn | sed -n '1s/^ *[0-9]* //p'
    )
    if [ -z "$answers" ] && [ -f "$data/sentinel.conf" ]; then
        answers=$(sed -n 's/^sentinel monitor kinora \\([^ ]*\\) .*/\\1/p' "$data/sentinel.conf")
    fi
    printf '%s\\n' "${answers:-${HOSTS%% *}}"
}
"""

SERVER = """\
set -eu
. "${SCRIPTS:-/scripts}/master.sh"
master=$(find_master)
file=${RUN:-/run/redis}/redis.conf
{
    cat "${SCRIPTS:-/scripts}/redis.conf"
    echo "dir $data"
    # Host names, because a recreated pod has another address.
    echo "replica-announce-ip $self"
    echo "masterauth $REDISCLI_AUTH"
    [ "$master" = "$self" ] || echo "replicaof $master $port"
} >"$file"
exec redis-server "$file" --bind "${BIND:-*}" --port "$port"
"""

SENTINEL = """\
set -eu
. "${SCRIPTS:-/scripts}/master.sh"
# A sentinel does not start if the master's name cannot be resolved.
until master=$(find_master) && getent ahosts "$master" >/dev/null; do sleep 1; done
file=$data/sentinel.conf
# Sentinel state (epochs, votes, known peers) is kept across restarts; settings are always written again. A failed
# election is repeated after twice the failover-timeout.
learnt=$(grep -E '^sentinel (myid|current-epoch|(config-epoch|leader-epoch|known-replica|known-sentinel) kinora) ' \\
    "$file" 2>/dev/null) || learnt=
cat >"$file.partial" <<END
port $sentinel_port
bind ${BIND:-*}
protected-mode no
dir ${RUN:-/run/redis}
requirepass $REDISCLI_AUTH
sentinel sentinel-pass $REDISCLI_AUTH
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $self
sentinel monitor kinora $master $port 2
sentinel auth-user kinora keeper
sentinel auth-pass kinora $REDISCLI_AUTH
sentinel down-after-milliseconds kinora 5000
sentinel failover-timeout kinora 10000
sentinel parallel-syncs kinora 1
$learnt
END
mv "$file.partial" "$file"
exec redis-server "$file" --sentinel
"""


PROXY = """\
global
    log stdout format raw local0 notice
    maxconn 2000

defaults
    mode tcp
    log global
    option clitcpka
    option srvtcpka
    timeout connect 3s
    timeout check 2s
    # Subscribers may be idle for hours.
    timeout client 24h
    timeout server 24h

resolvers cluster
    parse-resolv-conf
    hold valid 5s

frontend redis
    bind {bind}
    default_backend master

# The master has role:master and at least one replica: after a failover, a restarted old master also has role:master
# until the sentinels reconfigure it.
backend master
    option tcp-check
    tcp-check connect
    tcp-check send "AUTH {user} {password}\\r\\n"
    tcp-check expect string +OK
    tcp-check send "INFO replication\\r\\n"
    # min-recv 0: a negated match would otherwise wait for more data until the timeout.
    tcp-check expect min-recv 0 ! string role:slave
    tcp-check expect rstring role:master\\r\\nconnected_slaves:[1-9]
    tcp-check send "QUIT\\r\\n"
    tcp-check expect string +OK
    default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions resolvers cluster init-addr none
{servers}
frontend health
    mode http
    bind {health}
    timeout client 5s
    monitor-uri /ready
    # Servers are considered up until their first check, so more than one is up at start.
    monitor fail if {{ nbsrv(master) gt 1 }}
"""


class RedisCache(StoreComponent):
    store = "redis"
    usual_ports = (PORT, PORT)

    def __init__(self, name: str, args: StoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("RedisCache", name, args, opts)
        match args.config.mode:
            case "single":
                self._single(args)
            case "operator":
                self._replicated(args)
        self.register_outputs({})

    def variables(self, identity: str) -> Mapping[str, pulumi.Output[str]]:
        login, config = self.login(identity), self.args.config
        if config.external is not None:
            scheme, where = "rediss" if config.external.tls else "redis", self.address(config.external)
        else:
            service = "redis-proxy" if config.mode == "operator" else "redis"
            scheme, where = "redis", f"{self.args.place.host(service)}:{PORT}"
        url = pulumi.Output.concat(scheme, "://", login.name, ":", login.password, "@", where, "/0")
        return {"KINORA_REDIS_URL": url}

    def _users(self, keeper: pulumi.Output[str]) -> pulumi.Output[str]:
        """The ACL file."""
        rules = self._rules()
        lines: list[Input] = ["user default reset\n", "user ", KEEPER, " reset on >", keeper, f" {rules[KEEPER]}\n"]
        for login in self.logins():
            lines += ["user ", login.name, " reset on >", login.password, f" {rules[login.name]}\n"]
        return pulumi.Output.concat(*lines)

    def _rules(self) -> dict[str, str]:
        """The ACL rules of each user, without passwords."""
        rules = {KEEPER: KEEPER_RULES}
        for login in self.logins():
            need = self.args.credentials.needs(login.identity).redis
            rules[login.name] = grants.redis_rules(login.identity, reads=need.reads if need is not None else ())
        return rules

    # --- single -------------------------------------------------------------------------------------------------------

    def _single(self, args: StoreArgs) -> None:
        _, keeper, users = self._secrets(args)
        options = settings(args.sizes.redis.memory).items()
        command = ["redis-server", *(word for key, value in options for word in (f"--{key}", value))]
        Workload(
            "redis",
            WorkloadArgs(
                place=args.place,
                user=USER,
                containers=[self._server(args, keeper, command, {})],
                volumes={"data": Volume("/data", persistent=True), "acl": Volume("/acl", secret=users)},
                clients=["apps"],
                disk_mib=args.sizes.redis.disk,
                storage_class=args.storage_class,
                retain=args.retain,
                protect=args.protect,
            ),
            self.child,
        )
        self._provision(args, ["redis"], keeper, users)

    def _secrets(self, args: StoreArgs) -> tuple[pulumi.Output[str], Secret, pulumi.Output[str]]:
        """The keeper's password, its Secret, and the Secret with the users."""
        password = args.credentials.random("redis-keeper")
        keeper = secret("redis-keeper", args.place, {"password": password}, self.child)
        users = secret("redis-users", args.place, {"users.acl": self._users(password)}, self.child)
        return password, Secret(keeper, "password"), users

    def _server(
        self, args: StoreArgs, keeper: Secret, command: list[str], environment: Mapping[str, Input]
    ) -> Container:
        ping = f"redis-cli --user {KEEPER} ping"
        return Container(
            "redis",
            args.images["redis"],
            args.sizes.redis,
            command=command,
            environment={"REDISCLI_AUTH": keeper, **environment},
            ports={"redis": PORT},
            # While loading its data it answers, but not with PONG: live but not ready.
            ready={"exec_": {"command": ["sh", "-c", f'[ "$({ping})" = PONG ]']}},
            alive={"exec_": {"command": ["sh", "-c", ping]}},
        )

    def _provision(self, args: StoreArgs, hosts: Sequence[str], keeper: Secret, users: pulumi.Output[str]) -> None:
        """Set the users of running servers. A server that starts reads the same file."""
        name = "redis-provision"
        scripts = config_map(name, args.place, {"provision.sh": PROVISION}, self.child)
        job(
            name,
            args.place,
            user=USER,
            container=Container(
                "provision",
                args.images["redis"],
                args.sizes.job,
                command=["sh", "/provision/provision.sh"],
                environment={"HOSTS": " ".join(hosts), "REDISCLI_AUTH": keeper, "ACL_FILE": "/acl/users.acl"},
            ),
            volumes={"provision": Volume("/provision", config=scripts), "acl": Volume("/acl", secret=users)},
            fingerprint=checksum(PROVISION, *(f"{user} {rules}" for user, rules in self._rules().items())),
            opts=self.child,
        )

    # --- operator -----------------------------------------------------------------------------------------------------

    def _replicated(self, args: StoreArgs) -> None:
        """Three replicas, each with a sentinel, and a proxy that connects to the master."""
        password, keeper, users = self._secrets(args)
        hosts = [args.place.host(f"redis-{replica}.redis-replicas") for replica in range(REPLICAS)]
        config = replica_settings(args.sizes.redis.memory)
        scripts = config_map(
            "redis",
            args.place,
            {
                "master.sh": MASTER,
                "server.sh": SERVER,
                "sentinel.sh": SENTINEL,
                "redis.conf": config,
            },
            self.child,
        )
        environment = {"HOSTS": " ".join(hosts), "DOMAIN": args.place.host("redis-replicas")}
        sentinel = Container(
            "sentinel",
            args.images["redis"],
            args.sizes.sidecar,
            command=["sh", "/scripts/sentinel.sh"],
            environment={"REDISCLI_AUTH": keeper, **environment},
            ports={"sentinel": SENTINEL_PORT},
            ready={"exec_": {"command": ["sh", "-c", f'[ "$(redis-cli -p {SENTINEL_PORT} ping)" = PONG ]']}},
            alive={"tcp_socket": {"port": "sentinel"}},
        )
        Workload(
            "redis",
            WorkloadArgs(
                place=args.place,
                user=USER,
                containers=[self._server(args, keeper, ["sh", "/scripts/server.sh"], environment), sentinel],
                volumes={
                    "data": Volume("/data", persistent=True),
                    "run": Volume("/run/redis"),
                    "acl": Volume("/acl", secret=users),
                    "scripts": Volume("/scripts", config=scripts),
                },
                replicas=REPLICAS,
                parallel=True,  # so that one failing replica does not block the others
                disk_mib=args.sizes.redis.disk,
                storage_class=args.storage_class,
                retain=args.retain,
                protect=args.protect,
                configuration=config + SERVER + SENTINEL + MASTER,
            ),
            self.child,
        )
        self._provision(args, hosts, keeper, users)
        self._proxy(args, hosts, password)

    def _proxy(self, args: StoreArgs, hosts: list[str], keeper: pulumi.Output[str]) -> None:
        config = keeper.apply(lambda password: proxy_configuration(hosts, password))
        file = secret("redis-proxy", args.place, {"haproxy.cfg": config}, self.child)
        Workload(
            "redis-proxy",
            WorkloadArgs(
                place=args.place,
                user=PROXY_USER,
                stateful=False,
                replicas=2,
                containers=[
                    Container(
                        "haproxy",
                        args.images["haproxy"],
                        args.sizes.sidecar,
                        command=["haproxy", "-db", "-f", "/config/haproxy.cfg"],
                        ports={"redis": PORT},
                        ready={"http_get": {"path": "/ready", "port": HEALTH_PORT}},
                        alive={"tcp_socket": {"port": HEALTH_PORT}},
                    )
                ],
                volumes={"config": Volume("/config", secret=file)},
                clients=["apps"],
                configuration=proxy_configuration(hosts, ""),
            ),
            self.child,
        )


def settings(memory_mib: int) -> dict[str, str]:
    """The settings of a server whose container has this much memory."""
    return {
        "dir": "/data",
        "aclfile": "/acl/users.acl",
        "appendonly": "yes",  # so that a revoked session stays revoked after a restart
        "save": "",
        # The rest is for copy-on-write during log rewrites, and for connections.
        "maxmemory": f"{memory_mib * 6 // 10}mb",
        "maxmemory-policy": "noeviction",
    }


def replica_settings(memory_mib: int) -> str:
    """redis.conf of one server among several."""
    common = settings(memory_mib)
    del common["dir"]
    lines = {
        **common,
        "save": '""',
        "masteruser": KEEPER,
        # A master that is cut off from its replicas rejects writes, which would be lost after a failover.
        "min-replicas-to-write": "1",
        "min-replicas-max-lag": "10",
        # Start the full sync of a new replica at once, instead of waiting for others.
        "repl-diskless-sync-delay": "0",
    }
    return "".join(f"{key} {value}\n" for key, value in lines.items())


def proxy_configuration(
    hosts: Sequence[str], password: str, *, bind: str = f":{PORT}", health: str = f":{HEALTH_PORT}", port: int = PORT
) -> str:
    """HAProxy's configuration: one address for the current master among these hosts."""
    servers = "".join(f"    server redis-{number} {host}:{port}\n" for number, host in enumerate(hosts))
    return PROXY.format(bind=bind, health=health, user=KEEPER, password=password, servers=servers)
