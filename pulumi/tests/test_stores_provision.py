"""The stores that change their users at run time, and Redis with replicas: real servers with the components' own files,
commands and scripts."""

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import real_stores
from real_stores import PLATFORM, environment, free_ports, kill, listens, password, program, running, wait_for, write

from kinora_environment import grants, redis

made = cache(real_stores.make)

KEEPER = password("redis-keeper")


class Connection:
    """A client of Redis or its proxy."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection((host, port), timeout=5)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, command: str) -> str:
        """The reply as one string; empty if the connection was closed."""
        try:
            self._socket.sendall(f"{command}\r\n".encode())
            return self._read()
        except (ConnectionError, TimeoutError):
            return ""

    def _read(self) -> str:
        line = self._file.readline().decode().rstrip("\r\n")
        if line in ("$-1", "*-1") or line[:1] not in ("$", "*"):
            return line
        if line[0] == "*":
            return " ".join(self._read() for _ in range(int(line[1:])))
        return self._file.read(int(line[1:]) + 2).decode().rstrip("\r\n")

    def sign_in(self, user: str, secret: str) -> "Connection":
        assert self.ask(f"AUTH {user} {secret}") == "+OK"
        return self


def answers(command: str, port: int, host: str = "127.0.0.1") -> str:
    """A server's reply to the keeper; empty if it cannot be reached."""
    try:
        with Connection(port, host) as connection:
            connection.ask(f"AUTH keeper {KEEPER}")
            return connection.ask(command)
    except OSError:
        return ""


# --- connection variables ---------------------------------------------------------------------------------------


def test_external_store_uses_tls() -> None:
    variables, user = made(mode="external").variables, "%40cloud:p%2Fs%2Bw%3Ad"
    assert (
        variables["auth.KINORA_POSTGRES_URL"] == f"postgresql://auth{user}@postgres.example:5432/auth?sslmode=require"
    )
    assert (
        variables["media.KINORA_MONGO_URL"] == f"mongodb://media{user}@mongo.example:27017/?authSource=admin&tls=true"
    )
    assert variables["auth.KINORA_REDIS_URL"] == f"rediss://auth{user}@redis.example:6379/0"
    assert variables["auth.KINORA_RABBITMQ_URL"] == f"amqps://auth{user}@rabbitmq.example:5671/kinora"
    assert {name: value for name, value in variables.items() if name.startswith("tusd.")} == {
        "tusd.KINORA_S3_URL": "https://s3.example",
        "tusd.KINORA_S3_ACCESS_KEY": "tusd@cloud",
        "tusd.KINORA_S3_SECRET_KEY": "p/s+w:d",
    }


def test_external_store_creates_no_objects() -> None:
    assert not made(mode="external").objects


def test_mongo_url_lists_all_members() -> None:
    url = made(generation=1, mode="operator").variables["media.KINORA_MONGO_URL"]
    hosts = ",".join(f"mongo-{n}.mongo-svc.kinora-test-stores.svc.cluster.local:27017" for n in range(3))
    assert url == f"mongodb://media_1:{password('media-mongo-1')}@{hosts}/?authSource=admin&replicaSet=mongo"


# --- Redis, one server ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SingleRedis:
    port: int
    folder: Path

    def provision(self, generation: int) -> None:
        """Run the job that sets the users, like `pulumi up`, with the files of this generation."""
        rotated = made(generation=generation)
        (container,) = rotated.job("redis-provision")["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["sh", "/provision/provision.sh"]
        script = write(self.folder / "provision", rotated.data("ConfigMap", "redis-provision")) / "provision.sh"
        users = write(self.folder / "acl", rotated.data("Secret", "redis-users")) / "users.acl"
        variables = {"HOSTS": "127.0.0.1", "PORT": str(self.port), "REDISCLI_AUTH": KEEPER, "ACL_FILE": str(users)}
        assert environment(container).keys() | {"REDISCLI_AUTH", "PORT"} == variables.keys()
        subprocess.run(["sh", script], env={"PATH": os.environ["PATH"], **variables}, check=True, timeout=60)

    def connect(self, identity: str, generation: int) -> Connection:
        secret = password(f"{identity}-redis-{generation}")
        return Connection(self.port).sign_in(f"{identity}_{generation}", secret)


@pytest.fixture
def single_redis(tmp_path: Path) -> Iterator[SingleRedis]:
    program("redis-server")
    (port,) = free_ports(1)
    first = made(generation=1)
    users = write(tmp_path / "acl", first.data("Secret", "redis-users"))
    (data := tmp_path / "data").mkdir()
    places = {"/acl/users.acl": str(users / "users.acl"), "/data": str(data)}
    command = [places.get(word, word) for word in first.container("redis", "redis")["command"]]
    log = tmp_path / "log"
    with running([*command, "--port", str(port), "--bind", "127.0.0.1"], log):
        wait_for(lambda: answers("PING", port) == "+PONG", log=log)
        yield SingleRedis(port, tmp_path)


def test_redis_identities_are_limited_to_their_prefix(single_redis: SingleRedis) -> None:
    with single_redis.connect("auth", 1) as auth, single_redis.connect("media", 1) as media:
        assert auth.ask("SET auth:revoked:1 yes") == "+OK"
        assert media.ask("SET media:feed page") == "+OK"
        assert media.ask("GET auth:revoked:1") == "yes"
        assert media.ask("SET auth:revoked:2 yes").startswith("-NOPERM")
        assert auth.ask("XADD auth:revoked:log 1-1 session x") == "1-1"
        assert media.ask("XLEN auth:revoked:log") == ":1"
        assert media.ask("XADD auth:revoked:log * session x").startswith("-NOPERM")
        assert media.ask("GET auth:throttle").startswith("-NOPERM")
        assert auth.ask("GET media:feed").startswith("-NOPERM")
        assert media.ask("PUBLISH auth:x y").startswith("-NOPERM")
        assert media.ask("PUBLISH media:x y") == ":0"
        for command in ("FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "SHUTDOWN", "REPLICAOF NO ONE"):
            assert media.ask(command).startswith("-NOPERM"), command
        assert media.ask("INFO server").startswith("# Server")


def test_redis_rejects_clients_without_password(single_redis: SingleRedis) -> None:
    with Connection(single_redis.port) as nobody:
        assert nobody.ask("PING").startswith("-NOAUTH")
        assert nobody.ask("AUTH default x").startswith("-WRONGPASS")


def test_redis_keeper_cannot_access_keys(single_redis: SingleRedis) -> None:
    for command in ("GET auth:x", "SET auth:x y", "FLUSHALL", "CONFIG SET maxmemory 1"):
        assert answers(command, single_redis.port).startswith("-NOPERM"), command


def test_redis_settings_match_the_native_server(single_redis: SingleRedis, tmp_path: Path) -> None:
    """It rejects writes when full, persists data, and stays below its container's memory."""
    command = made(generation=1).container("redis", "redis")["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    limit = made(generation=1).container("redis", "redis")["resources"]["limits"]["memory"]
    assert options["--maxmemory-policy"] == "noeviction"
    assert int(options["--maxmemory"].removesuffix("mb")) < 0.75 * int(limit.removesuffix("Mi"))
    with single_redis.connect("auth", 1) as auth:
        auth.ask("SET auth:revoked:1 yes")
        wait_for(lambda: "aof_enabled:1" in auth.ask("INFO persistence"))
    assert list((tmp_path / "data" / "appendonlydir").glob("*.incr.aof"))


def test_redis_rotation_disconnects_only_retired_users(single_redis: SingleRedis) -> None:
    with single_redis.connect("media", 1) as first:
        assert first.ask("SET media:1 one") == "+OK"
        single_redis.provision(2)
        single_redis.provision(2)  # again, as it is every few minutes
        with single_redis.connect("media", 2) as second:
            assert first.ask("GET media:1") == "one"  # on the existing connection
            single_redis.provision(3)
            assert second.ask("GET media:1") == "one"
            assert first.ask("GET media:1") == ""
    with Connection(single_redis.port) as refused:
        assert refused.ask(f"AUTH media_1 {password('media-redis-1')}").startswith("-WRONGPASS")
    with single_redis.connect("media", 3) as third:
        assert third.ask("GET media:1") == "one"


# --- Redis, several replicas ------------------------------------------------------------------------------------------


def redis_hosts() -> list[str]:
    return [f"redis-{number}.redis-replicas.kinora-test-stores.svc.cluster.local" for number in range(3)]


@dataclass
class Replicas:
    """Three replicas on separate addresses, like three pods, each with a sentinel."""

    folder: Path
    scripts: Path
    hosts: list[str]
    port: int
    sentinel_port: int
    stack: ExitStack

    def start(self, host: str, *containers: str) -> list[Any]:
        """Start containers of a replica's pod."""
        folder = self.folder / host
        variables = {
            "HOSTS": " ".join(self.hosts),
            "SELF": host,
            "BIND": host,
            "PORT": str(self.port),
            "SENTINEL_PORT": str(self.sentinel_port),
            "SCRIPTS": str(self.scripts),
            "DATA": str(folder / "data"),
            "RUN": str(folder / "run"),
            "REDISCLI_AUTH": KEEPER,
        }
        for name in ("data", "run"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        return [
            self.stack.enter_context(
                running(["sh", self.scripts / f"{name}.sh"], folder / f"{name}.log", variables=variables)
            )
            for name in containers
        ]

    def role(self, host: str) -> str:
        """master or slave, or empty; with whether it has replicas."""
        info = answers("INFO replication", self.port, host)
        fields = dict(line.partition(":")[::2] for line in info.split("\r\n"))
        return f"{fields.get('role', '')} {fields.get('connected_slaves', '')} {fields.get('master_link_status', '')}"

    def settled(self, master: str) -> bool:
        others = [host for host in self.hosts if host != master]
        return self.role(master) == "master 2 " and all(self.role(host) == "slave 0 up" for host in others)

    def agree(self, master: str) -> bool:
        """Whether all sentinels know each other and the master."""
        return all(
            self.ask_sentinel(host, "SENTINEL CKQUORUM kinora").startswith("+OK 3 usable")
            and self.ask_sentinel(host, "SENTINEL GET-MASTER-ADDR-BY-NAME kinora") == f"{master} {self.port}"
            for host in self.hosts
        )

    def ask_sentinel(self, host: str, command: str) -> str:
        try:
            with Connection(self.sentinel_port, host) as sentinel:
                assert sentinel.ask(command).startswith("-NOAUTH")
                sentinel.ask(f"AUTH {KEEPER}")
                return sentinel.ask(command)
        except OSError:
            return ""


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    program("redis-server")
    several = made(generation=1, mode="operator")
    hosts = [f"127.{os.getpid() % 200 + 1}.0.{number}" for number in (1, 2, 3)]
    port, sentinel_port = free_ports(2)
    users = write(tmp_path / "acl", several.data("Secret", "redis-users"))
    files = dict(several.data("ConfigMap", "redis"))
    files["redis.conf"] = files["redis.conf"].replace("/acl/", f"{users}/")
    scripts = write(tmp_path / "scripts", files)
    with ExitStack() as stack:
        yield Replicas(tmp_path, scripts, hosts, port, sentinel_port, stack)


@pytest.fixture
def proxy(replicas: Replicas, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Sends commands through HAProxy, on a separate connection, as the service auth."""
    haproxy, (port, health) = program("haproxy"), free_ports(2)
    file = redis.proxy_configuration(
        replicas.hosts, KEEPER, bind=f"127.0.0.1:{port}", health=f"127.0.0.1:{health}", port=replicas.port
    )
    config = write(tmp_path / "proxy", {"haproxy.cfg": file}) / "haproxy.cfg"
    container = made(generation=1, mode="operator").container("redis-proxy", "haproxy", kind="Deployment")
    command = [haproxy, *container["command"][1:-1], config]

    def ask(command: str) -> str:
        try:
            with Connection(port) as connection:
                connection.ask(f"AUTH auth_1 {password('auth-redis-1')}")
                return connection.ask(command)
        except OSError:
            return ""

    def ready(port: int) -> bool:
        """The kubelet's probe."""
        assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
        with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/ready"):
            return True
        return False

    with running(command, tmp_path / "proxy.log"):
        wait_for(lambda: ready(health), log=tmp_path / "proxy.log")
        yield ask


def test_redis_provisioning_reaches_every_replica_and_fails_for_one_that_is_away(replicas: Replicas) -> None:
    """The others get the users nevertheless; the job's next run repeats it."""
    away, *others = replicas.hosts
    for host in others:
        replicas.start(host, "server")
    wait_for(lambda: all(answers("PING", replicas.port, host) == "+PONG" for host in others))
    rotated = made(generation=3, mode="operator")
    (container,) = rotated.job("redis-provision")["spec"]["template"]["spec"]["containers"]
    assert environment(container)["HOSTS"].split() == redis_hosts()
    script = rotated.data("ConfigMap", "redis-provision")["provision.sh"].replace("sleep 2", "sleep 0.1")
    users = write(replicas.folder / "rotated", rotated.data("Secret", "redis-users")) / "users.acl"
    variables = {"HOSTS": " ".join(replicas.hosts), "PORT": str(replicas.port), "REDISCLI_AUTH": KEEPER}
    ran = subprocess.run(
        ["sh", "-c", script],
        env={"PATH": os.environ["PATH"], "ACL_FILE": str(users), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 1
    assert ran.stderr == f"the users could not be set on: {away}\n"
    for host in others:
        with Connection(replicas.port, host) as connection:
            connection.sign_in("media_3", password("media-redis-3"))
            assert connection.ask(f"AUTH media_1 {password('media-redis-1')}").startswith("-WRONGPASS")


def test_redis_fails_over_when_the_master_dies(replicas: Replicas, proxy: Callable[[str], str]) -> None:
    first, *others = replicas.hosts
    pods = {host: replicas.start(host, "server") for host in replicas.hosts}
    wait_for(lambda: replicas.settled(first))
    # Later than the servers, because a sentinel asks a master for its replicas only every ten seconds.
    for host in replicas.hosts:
        pods[host] += replicas.start(host, "sentinel")
    wait_for(lambda: replicas.agree(first))
    wait_for(lambda: proxy("SET auth:1 one") == "+OK")

    for process in pods[first]:
        kill(process)
    wait_for(lambda: proxy("SET auth:2 two") == "+OK", seconds=60)
    assert proxy("GET auth:1") == "one"
    (second,) = (host for host in others if replicas.role(host).startswith("master"))

    # The former master comes back as a replica from the start.
    pods[first] = replicas.start(first, "server", "sentinel")
    wait_for(lambda: replicas.settled(second) and replicas.agree(second))
    assert f"replicaof {second} {replicas.port}" in (replicas.folder / first / "run" / "redis.conf").read_text()
    assert proxy("GET auth:2") == "two"

    # All at once, as after a power loss: the last master stays the master, although it is not the first of them.
    for process in (each for pod in pods.values() for each in pod):
        kill(process)
    for host in replicas.hosts:
        replicas.start(host, "server", "sentinel")
    wait_for(lambda: replicas.settled(second) and replicas.agree(second))
    wait_for(lambda: proxy("GET auth:2") == "two")
    assert proxy("SET auth:3 three") == "+OK"


def test_redis_proxy_lists_all_replicas() -> None:
    several = made(generation=1, mode="operator")
    hosts = redis_hosts()
    assert several.data("Secret", "redis-proxy")["haproxy.cfg"] == redis.proxy_configuration(hosts, KEEPER)
    assert environment(several.container("redis", "redis"))["HOSTS"].split() == hosts
    url = urlsplit(several.variables["auth.KINORA_REDIS_URL"])
    assert (url.hostname, url.port) == ("redis-proxy.kinora-test-stores.svc.cluster.local", 6379)


# --- RabbitMQ ---------------------------------------------------------------------------------------------------------

# A service's long-lived connection: answers each line of input, until it is closed.
AMQP = """
import asyncio, sys
import aio_pika, aiormq
async def attempt(connection, action, name):
    async with connection.channel() as channel:
        match action:
            case "queue": await channel.declare_queue(name, durable=True)
            case "exchange": await channel.declare_exchange(name, "topic", durable=True)
            case "bind":
                queue, exchange = name.split("<")
                await (await channel.get_queue(queue, ensure=False)).bind(exchange, "#")
            case "publish":
                await channel.default_exchange.publish(aio_pika.Message(b"x"), name)
async def main():
    connection = await aio_pika.connect(sys.argv[1])
    connection.close_callbacks.add(lambda *_: print("cut", flush=True))
    print("connected", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        try:
            await attempt(connection, *line)
            print("done", flush=True)
        except aiormq.exceptions.ChannelAccessRefused:
            print("refused", flush=True)
asyncio.run(main())
"""


class Service:
    """A service's connection to the broker."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [PLATFORM, "-c", AMQP, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, action: str, name: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{action} {name}\n")
        self._process.stdin.flush()
        return self.hear()


@dataclass(frozen=True)
class Broker:
    port: int
    definitions: Path
    reload: Path
    variables: Mapping[str, str]

    def export(self) -> Any:
        """The broker's exported definitions."""
        command = ["rabbitmqctl", "--quiet", "export_definitions", "-"]
        return json.loads(subprocess.run(command, env=self.variables, check=True, capture_output=True).stdout)

    def rotate(self, generation: int) -> None:
        applied = self.applied()
        write(self.definitions, made(generation=generation).data("Secret", "rabbitmq-definitions"))
        wait_for(lambda: self.applied() > applied, log=self.reload)

    def applied(self) -> int:
        return self.reload.read_text().count("applied the definitions")

    def connect(self, identity: str, generation: int) -> Service:
        """With the service's URL, redirected to this server."""
        url = urlsplit(made(generation=generation).variables[f"{identity}.KINORA_RABBITMQ_URL"])
        return Service(url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{self.port}").geturl())


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    binaries = Path("/usr/lib/rabbitmq/bin")  # Debian's wrappers on PATH require the user rabbitmq
    server = program("rabbitmq-server", binaries)
    first = made(generation=1)
    port, metrics, epmd, distribution = free_ports(4)
    definitions = write(tmp_path / "definitions", first.data("Secret", "rabbitmq-definitions"))
    files = dict(first.data("ConfigMap", "rabbitmq"))
    files["rabbitmq.conf"] = (
        files["rabbitmq.conf"]
        .replace("tcp.default = 5672", f"tcp.default = 127.0.0.1:{port}")
        .replace("prometheus.tcp.port = 15692", f"prometheus.tcp.port = {metrics}")
        .replace("/definitions/", f"{definitions}/")
    )
    config = write(tmp_path / "config", files)
    cookie = write(tmp_path / "cookie", first.data("Secret", "rabbitmq-cookie"))
    (home := tmp_path / "home").mkdir()
    places = {
        "/config": str(config),
        "/definitions": str(definitions),
        "/var/lib/rabbitmq": str(home),
        "/data": str(tmp_path / "data"),
        "/tmp": str(tmp_path / "tmp"),  # noqa: S108
    }

    def variables(container: str) -> dict[str, str]:
        given = environment(first.container("rabbitmq", container))
        moved = {
            name: next(
                (there + value.removeprefix(here) for here, there in places.items() if value.startswith(here)), value
            )
            for name, value in given.items()
        }
        own = {"ERL_EPMD_PORT": str(epmd), "RABBITMQ_DIST_PORT": str(distribution), "INTERVAL": "0.2"}
        return {**moved, **own, "PATH": f"{binaries}:{os.environ['PATH']}"}

    copy = files["cookie.sh"].replace("/cookie/cookie", str(cookie / "cookie"))
    subprocess.run(["sh", "-c", copy], env={"HOME": str(home), "PATH": os.environ["PATH"]}, check=True)
    log, said = tmp_path / "log", tmp_path / "reload"
    # epmd, a daemon that Erlang would start and leave running.
    names = [program("epmd"), "-address", "127.0.0.1", "-port", str(epmd)]
    with running(names, tmp_path / "epmd"):
        wait_for(lambda: listens(epmd))
        with running([server], log, variables=variables("rabbitmq")):
            wait_for(lambda: listens(port), seconds=60, log=log)
            with running(["sh", config / "reload.sh"], said, variables=variables("reload")):
                yield Broker(port, definitions, said, variables("reload"))


def test_rabbitmq_logins_are_limited_and_retired(broker: Broker) -> None:
    with broker.connect("media", 1) as media, broker.connect("auth", 1) as auth:
        assert media.hear() == auth.hear() == "connected"
        assert auth.ask("exchange", "auth") == "done"
        assert auth.ask("queue", "media.stolen") == "refused"
        assert auth.ask("exchange", "media") == "refused"
        assert media.ask("queue", "media.auth") == "done"
        assert media.ask("queue", "media.video") == "done"
        assert media.ask("bind", "media.auth<auth") == "done"  # another service's exchange
        assert media.ask("publish", "media.auth") == "done"  # consumers may publish to their own queues, for retries
        assert auth.ask("publish", "media.auth") == "refused"
        assert auth.ask("bind", "media.auth<auth") == "done"  # so that it misses none of its events
        assert auth.ask("bind", "media.video<auth") == "refused"
        wait_for(lambda: broker.applied() == 1, log=broker.reload)  # a second time: they were also loaded at start-up

        broker.rotate(2)
        with broker.connect("media", 2) as second:
            assert second.hear() == "connected"
            assert second.ask("queue", "media.more") == "done"
            assert media.ask("queue", "media.auth") == "done"  # on the existing connection
            broker.rotate(3)
            assert media.hear() == "cut"
            assert second.ask("queue", "media.more") == "done"
    with broker.connect("media", 1) as refused:
        assert refused.hear() == ""
    with broker.connect("media", 3) as third:
        assert third.hear() == "connected"
    has = broker.export()
    users = {user["name"]: user["limits"] for user in has["users"]}
    names = {f"{identity}_{generation}" for identity in ("auth", "media", "video", "graphql") for generation in (2, 3)}
    assert users == dict.fromkeys(names, grants.RABBITMQ_LIMITS)  # and no guest
    assert [vhost["name"] for vhost in has["vhosts"]] == ["kinora"]
