"""The platform's listening processes: purpose, ports, and health probe of each.

Standard library only, like everything that `make doctor` needs. The Procfile has their commands.
"""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass

HOST = "127.0.0.1"
JOB_SUFFIXES = ("-provision", "-migrate")
NO_ANSWER = "does not answer"


@dataclass(frozen=True)
class Http:
    """Healthy when a GET answers 200."""

    port: int
    path: str

    def trouble(self, timeout_seconds: float) -> str:
        """The problem; empty if it is healthy."""
        status, _ = _get(self.port, self.path, timeout_seconds)
        return "" if status == 200 else f"{self.path} answers {status}" if status else NO_ANSWER


@dataclass(frozen=True)
class Service:
    """A service of ours: healthy when it is ready and reaches all its dependencies (kinora_kit/health.py).

    A load balancer only needs readiness; `make status` also reports the dependencies.
    """

    port: int

    def trouble(self, timeout_seconds: float) -> str:
        """The problem; empty if it is healthy."""
        status, body = _get(self.port, "/readyz", timeout_seconds)
        if not status:
            return NO_ANSWER
        try:
            report = json.loads(body)
            said = {"process": report["process"], **report["dependencies"]}
        except (ValueError, KeyError, TypeError):
            return f"/readyz answers {status} without a report"
        return ", ".join(f"{name}: {what}" for name, what in said.items() if what != "ok")


@dataclass(frozen=True)
class Tcp:
    """Healthy when it accepts a connection, and its response to `sends` starts with `expects`."""

    port: int
    sends: bytes = b""
    expects: bytes = b""

    def trouble(self, timeout_seconds: float) -> str:
        """The problem; empty if it is healthy."""
        try:
            with socket.create_connection((HOST, self.port), timeout=timeout_seconds) as connection:
                if self.sends:
                    connection.sendall(self.sends)
                received = connection.recv(64) if self.expects else b""
        except OSError:
            return NO_ANSWER
        return "" if received.startswith(self.expects) else "unexpected response"


def _get(port: int, path: str, timeout_seconds: float) -> tuple[int, bytes]:
    """Status and body of the response; status 0 if there is none."""
    # Ignore proxies from the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{HOST}:{port}{path}", timeout=timeout_seconds) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


@dataclass(frozen=True)
class Part:
    purpose: str
    ports: tuple[int, ...]
    probe: Http | Service | Tcp
    address: str = ""
    store: bool = False


PARTS: dict[str, Part] = {
    "postgres": Part(
        purpose="PostgreSQL",
        ports=(8432,),
        # An SSLRequest; the server answers No, because it listens on loopback only.
        probe=Tcp(8432, sends=bytes.fromhex("0000000804d2162f"), expects=b"N"),
        store=True,
    ),
    "redis": Part("Redis", (8379,), Tcp(8379, sends=b"PING\r\n", expects=b"-NOAUTH"), store=True),
    "rabbitmq": Part(
        purpose="RabbitMQ",
        ports=(8672, 8673, 8674),
        # The AMQP 0-9-1 header; the server answers with a method frame (Connection.Start).
        probe=Tcp(8672, sends=b"AMQP\x00\x00\x09\x01", expects=b"\x01"),
        store=True,
    ),
    "minio": Part("MinIO", (8900,), Http(8900, "/minio/health/ready"), store=True),
    "mongo": Part("MongoDB stand-in (SecantusDB)", (8017,), Tcp(8017), store=True),
    "traefik": Part("gateway", (8080, 8081, 8082), Http(8081, "/ping"), address="http://localhost:8080"),
    "prometheus": Part("Prometheus", (8090,), Http(8090, "/-/ready"), address="http://localhost:8090"),
    "tusd": Part("resumable uploads", (8108,), Http(8108, "/metrics")),
    "fallback": Part("fallback of the gateway", (8109,), Service(8109)),
    "auth": Part("auth service", (8101, 8201), Service(8101)),
    "media": Part("media service", (8102, 8202), Service(8102)),
    "video": Part("video service", (8103, 8203), Service(8103)),
    "video-worker": Part("transcode worker", (8113,), Service(8113)),
    "graphql": Part("GraphQL service", (8105,), Service(8105), address="http://localhost:8080/graphql"),
}


def is_job(process: str) -> bool:
    """A job exits when its work is done; every other process keeps running."""
    return process.endswith(JOB_SUFFIXES)
