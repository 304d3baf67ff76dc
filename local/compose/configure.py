"""Write the configuration of all containers in docker-compose.yml: ``configure.py FOLDER``.

It comes from the same sources as in every environment: store permissions, routes, scrape targets and dashboards. A
container listens on the same port as its native process (local/parts.py); its name replaces 127.0.0.1.

It runs in a service's image, which has pydantic and PyYAML. Passwords come from <IDENTITY>_<STORE>_PASSWORD, and only
their digests are written.
"""

import base64
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "local"), str(ROOT / "pulumi")]
from parts import PARTS  # noqa: E402

from kinora_environment import grants, needs  # noqa: E402 - needs the path above

NEEDS = needs.read()
HOSTS = {port: name for name, part in PARTS.items() for port in part.ports}
VHOST = "kinora"
# consumer_timeout: how long a message may stay unacknowledged, 48 h. Encoding a 12 h source that cannot be split takes
# many hours; dead workers are detected by the connection's heartbeat instead.
RABBITMQ_CONF = f"""\
listeners.tcp.default = 8672
prometheus.tcp.port = 8674
consumer_timeout = {48 * 3600 * 1000}
load_definitions = /configuration/rabbitmq/definitions.json
log.console = true
log.console.level = warning
log.console.formatter = json
log.file = false
disk_free_limit.absolute = 200MB
vm_memory_high_watermark.absolute = 460MB
"""


def login(identity: str) -> str:
    """Its login name: of the first generation, as in every environment."""
    return f"{identity}_1"


def of(store: str) -> list[str]:
    """The identities that need this store."""
    return [identity for identity, need in NEEDS.items() if store in need.stores()]


def with_container_hosts(text: str) -> str:
    """The text with container names as hosts."""
    return re.sub(r"127\.0\.0\.1:(\d+)", lambda match: f"{HOSTS[int(match[1])]}:{match[1]}", text)


def postgres() -> Iterator[tuple[str, str]]:
    extensions = {identity: need.postgres.extensions for identity, need in NEEDS.items() if need.postgres is not None}
    yield "provision.sql", grants.postgres_sql({login(each): each for each in extensions}, extensions=extensions)


def mongo() -> Iterator[tuple[str, str]]:
    yield "provision.js", grants.mongo_script({login(identity): identity for identity in of("mongo")})


def redis(passwords: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    users = ["user default reset"]  # disabled, without permissions
    for identity, need in NEEDS.items():
        if need.redis is not None:
            digest = hashlib.sha256(passwords[f"{identity.upper()}_REDIS_PASSWORD"].encode()).hexdigest()
            rules = grants.redis_rules(identity, reads=need.redis.reads)
            users.append(f"user {login(identity)} reset on #{digest} {rules}")
    yield "users.acl", "\n".join(users) + "\n"


def rabbitmq(passwords: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    users, permissions = [], []
    for identity, need in NEEDS.items():
        if need.rabbitmq is not None:
            user = login(identity)
            hashed = rabbitmq_hash(passwords[f"{identity.upper()}_RABBITMQ_PASSWORD"])
            users.append(
                {
                    "name": user,
                    "password_hash": hashed,
                    "hashing_algorithm": "rabbit_password_hashing_sha256",
                    "tags": [],
                    "limits": grants.RABBITMQ_LIMITS,
                }
            )
            allowed = grants.rabbitmq_permissions(
                identity, consumes=need.rabbitmq.consumes, published=needs.exchanges(NEEDS)
            )
            permissions.append({"user": user, "vhost": VHOST, **allowed})
    vhosts = [{"name": VHOST, "metadata": {"description": "", "tags": [], "default_queue_type": "quorum"}}]
    yield "enabled_plugins", "[rabbitmq_prometheus].\n"
    yield "rabbitmq.conf", RABBITMQ_CONF
    yield "definitions.json", json.dumps({"vhosts": vhosts, "users": users, "permissions": permissions}, indent=1)


def rabbitmq_hash(password: str) -> str:
    """RabbitMQ's format: base64(salt + sha256(salt + password)), with 4 bytes of salt."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def minio() -> Iterator[tuple[str, str]]:
    buckets = {login(identity): need.s3.buckets for identity, need in NEEDS.items() if need.s3 is not None}
    yield "provision.sh", grants.s3_script(buckets)
    for name, own in buckets.items():
        yield f"{name}.json", json.dumps(grants.s3_policy(own))


def traefik() -> Iterator[tuple[str, str]]:
    for file in (ROOT / "traefik").rglob("*.yml"):
        # Entry points that natively listen on loopback must be reachable for Prometheus, and for Traefik by its own
        # name.
        text = re.sub(r'"127\.0\.0\.1:(8081|8082)"', r'":\1"', file.read_text())
        yield str(file.relative_to(ROOT / "traefik")), with_container_hosts(text)


def prometheus() -> Iterator[tuple[str, str]]:
    native = (ROOT / "observability" / "prometheus.yml").read_text()
    yield "prometheus.yml", with_container_hosts(native) + "\nrule_files: [rules/*.yml]\n"
    for file in (ROOT / "observability" / "rules").glob("*.yml"):
        yield f"rules/{file.name}", file.read_text()


def grafana() -> Iterator[tuple[str, str]]:
    folder = ROOT / "observability"
    for kind in ("datasources", "dashboards"):
        text = (folder / "grafana" / f"{kind}.yaml").read_text()
        yield f"{kind}/{kind}.yaml", text.replace("path: /dashboards", "path: /configuration/grafana/shown")
    for file in (folder / "dashboards").glob("*.json"):
        yield f"shown/{file.name}", file.read_text()


def write(folder: Path, passwords: Mapping[str, str]) -> None:
    parts = {
        "postgres": postgres(),
        "mongo": mongo(),
        "redis": redis(passwords),
        "rabbitmq": rabbitmq(passwords),
        "minio": minio(),
        "traefik": traefik(),
        "prometheus": prometheus(),
        "grafana": grafana(),
    }
    for part, files in parts.items():
        for name, text in files:
            file = folder / part / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]), os.environ)
