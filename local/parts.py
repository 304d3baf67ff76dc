"""The processes of the platform that listen: what each is for, its ports, and how it says that it is well.

Standard library only, like everything that `make doctor` needs. What starts them stands in the Procfile.
"""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from dataclasses import dataclass

HOST = "127.0.0.1"
JOB_SUFFIXES = ("-provision", "-migrate")


@dataclass(frozen=True)
class Http:
    """Well when a GET answers 200."""

    port: int
    path: str

    def well(self, timeout_seconds: float) -> bool:
        url = f"http://{HOST}:{self.port}{self.path}"
        # No proxy from the environment may come between.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=timeout_seconds) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


@dataclass(frozen=True)
class Tcp:
    """Well when it accepts a connection and, told `says`, begins its answer with `hears`."""

    port: int
    says: bytes = b""
    hears: bytes = b""

    def well(self, timeout_seconds: float) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=timeout_seconds) as connection:
                if self.says:
                    connection.sendall(self.says)
                return connection.recv(64).startswith(self.hears) if self.hears else True
        except OSError:
            return False


@dataclass(frozen=True)
class Part:
    purpose: str
    ports: tuple[int, ...]
    probe: Http | Tcp
    address: str = ""
    store: bool = False


PARTS: dict[str, Part] = {
    "postgres": Part(
        purpose="PostgreSQL",
        ports=(8432,),
        # An SSLRequest; the server says No, being on the loopback only.
        probe=Tcp(8432, says=bytes.fromhex("0000000804d2162f"), hears=b"N"),
        store=True,
    ),
    "redis": Part("Redis", (8379,), Tcp(8379, says=b"PING\r\n", hears=b"-NOAUTH"), store=True),
    "rabbitmq": Part(
        purpose="RabbitMQ",
        ports=(8672, 8673, 8674),
        # The AMQP 0-9-1 header; the answer is a method frame (Connection.Start).
        probe=Tcp(8672, says=b"AMQP\x00\x00\x09\x01", hears=b"\x01"),
        store=True,
    ),
    "minio": Part("MinIO", (8900,), Http(8900, "/minio/health/ready"), store=True),
    "mongo": Part("MongoDB stand-in (SecantusDB)", (8017,), Tcp(8017), store=True),
    "traefik": Part("gateway", (8080, 8081), Http(8081, "/ping"), address="http://localhost:8080"),
    "prometheus": Part("Prometheus", (8090,), Http(8090, "/-/ready"), address="http://localhost:8090"),
    "tusd": Part("resumable uploads", (8108,), Http(8108, "/metrics")),
    "auth": Part("auth service", (8101, 8201), Http(8101, "/readyz")),
    "media": Part("media service", (8102, 8202), Http(8102, "/readyz")),
    "video": Part("video service", (8103, 8203), Http(8103, "/readyz")),
    "video-worker": Part("transcode worker", (8113,), Http(8113, "/readyz")),
    "graphql": Part("GraphQL service", (8105,), Http(8105, "/readyz"), address="http://localhost:8080/graphql"),
}


def is_job(process: str) -> bool:
    """A job ends when its work is done; every other process stays."""
    return process.endswith(JOB_SUFFIXES)
