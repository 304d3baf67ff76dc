"""A Traefik with the gateway's own files, started for the tests, and probes in place of the services.

Only auth is real: the gateway authenticates callers with it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import yaml

from kinora_kit.testing import free_port

ROOT = Path(__file__).parents[2]
AUTH = "http://127.0.0.1:8101"
PATIENCE_SECONDS = 60


OBJECT_STORE_HEADERS = {
    "Accept-Ranges": "bytes",
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Allow-Origin": "https://app.example",
    "Access-Control-Expose-Headers": "X-Amz*, *",
    "Cache-Control": "public, max-age=31536000, immutable",
    "Content-Type": "application/xml",
    "ETag": '"of-the-store"',
    "Server": "MinIO",
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "Vary": "Origin",
    "X-Amz-Bucket-Region": "us-east-1",
    "X-Amz-Id-2": "9da0676813f5",
    "X-Amz-Request-Id": "18EBCE01A2F3C113",
    "X-Minio-Error-Code": "NoSuchKey",
    "X-Minio-Error-Desc": "The specified key does not exist.",
    "X-Ratelimit-Limit": "6380",
    "X-Xss-Protection": "1; mode=block",
}
"""Headers of MinIO's responses that clients must not see, besides those they need."""


class Probe(BaseHTTPRequestHandler):
    """Answers with the request that it received. Below /internal it authorises in place of the video service."""

    protocol_version = "HTTP/1.1"
    service: ClassVar[str]
    refusals: ClassVar[set[str]] = set()
    asked: ClassVar[list[dict[str, Any]]] = []
    released: ClassVar[threading.Event]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # the client went away
            self.close_connection = True
            return
        seen = {
            "service": self.service,
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body_bytes": len(body),
        }
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.upgrade()
        elif self.path.endswith("/progress") and not self.path.startswith("/unrouted"):
            self.stream()
        elif self.service == "streams" and (status := int(self.headers.get("X-Probe-Store", "0"))):
            self.send(status, b"<Error><BucketName>streams</BucketName></Error>", OBJECT_STORE_HEADERS)
        elif self.path.startswith("/internal/"):
            self.asked.append(seen)
            refused = self.path in self.refusals
            signed = {"Authorization": "AWS4 of ours", "X-Amz-Date": "now", "X-Amz-Content-Sha256": "UNSIGNED"}
            answers = {"/internal/stream_verify": signed, "/internal/upload_verify": {"Upload-Concat": "of ours"}}
            self.send(403 if refused else 200, b"", answers.get(self.path, {}))
        else:
            status = int(self.headers.get("X-Answer", 200))
            self.send(status, json.dumps(seen).encode(), {"Content-Type": "application/json", "Server": "secret/1.0"})

    def __getattr__(self, name: str) -> Any:
        """``http.server`` looks up ``do_GET`` and the like: answer any method."""
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        # In headers, because a response to HEAD has no body.
        self.send_header("X-Probe", self.service)
        self.send_header("X-Probe-Path", self.path)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def stream(self) -> None:
        self.send_response_only(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(b"data: first\n\n")
        self.wfile.flush()
        self.released.wait(10)
        self.wfile.write(b"data: second\n\n")
        self.close_connection = True

    def upgrade(self) -> None:
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
        self.send_response_only(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())  # noqa: S324
        self.send_header("Sec-WebSocket-Protocol", self.headers.get("Sec-WebSocket-Protocol", ""))
        self.end_headers()
        said = (self.headers.get("X-User-Id") or "nobody").encode()
        self.wfile.write(bytes([0x81, len(said)]) + said)
        self.close_connection = True


class ProbeServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


@dataclass
class Gateway:
    url: str
    http: httpx.Client
    released: threading.Event
    """Once set, a probe's event stream continues to its end."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """The gateway's requests to the video service."""
    refusals: set[str] = field(default_factory=set)
    """Paths below /internal that the video service rejects."""
    log: Path = Path()
    admin: str = ""
    """Its other entry point, for health and metrics."""


def _answers(url: str, status: int | None) -> bool:
    try:
        found = httpx.get(url, timeout=1, trust_env=False)
    except httpx.HTTPError:
        return False
    # Without a route, Traefik answers in plain text.
    return found.status_code == status if status else not found.headers.get("content-type", "").startswith("text/")


def _wait_for(url: str, what: str, *, seconds: float, status: int | None = 200) -> None:
    """``status``: the expected status; None for any response that is not Traefik's own."""
    deadline = time.monotonic() + seconds
    while not _answers(url, status):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} does not answer at {url}", pytrace=False)
        time.sleep(0.1)


@contextmanager
def traefik(
    home: Path, addresses: Mapping[str, str], *, auth: str, trusted: Sequence[str] = ()
) -> Iterator[tuple[str, str]]:
    """A Traefik with the gateway's own files and its services at ``addresses``. Yields its client and admin URLs.

    ``auth``: the URL of the auth service for ForwardAuth. ``trusted``: load balancers, as in a cluster.
    """
    shutil.copytree(ROOT / "traefik/dynamic", home / "dynamic")
    ports = {entry: free_port() for entry in ("web", "checks", "admin")}

    services = yaml.safe_load((home / "dynamic/services.yml").read_text())
    for name, service in services["http"]["services"].items():
        service["loadBalancer"]["servers"] = [{"url": addresses[name]}]
    services["http"]["services"]["who"] = {"loadBalancer": {"servers": [{"url": auth}]}}
    (home / "dynamic/services.yml").write_text(yaml.safe_dump(services))
    routes = yaml.safe_load((home / "dynamic/routes.yml").read_text())
    routes["http"]["routers"]["check-token"]["service"] = "who"
    (home / "dynamic/routes.yml").write_text(yaml.safe_dump(routes))

    static = yaml.safe_load((ROOT / "traefik/traefik.yml").read_text())
    middlewares = home / "dynamic/middlewares.yml"
    middlewares.write_text(
        middlewares.read_text().replace(
            f"http://{static['entryPoints']['checks']['address']}/", f"http://127.0.0.1:{ports['checks']}/"
        )
    )
    for entry, port in ports.items():
        static["entryPoints"][entry]["address"] = f"127.0.0.1:{port}"
    static["entryPoints"]["web"]["forwardedHeaders"] = {"trustedIPs": list(trusted)}
    static["providers"]["file"]["directory"] = str(home / "dynamic")
    (home / "traefik.yml").write_text(yaml.safe_dump(static))

    web, admin = (f"http://127.0.0.1:{ports[entry]}" for entry in ("web", "admin"))
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "traefik", f"--configFile={home}/traefik.yml"], stdout=log, stderr=log
        )
    try:
        _wait_for(f"{admin}/ping", "traefik", seconds=PATIENCE_SECONDS)
        # Any response will do: Traefik loads all routes of the folder at once.
        _wait_for(f"{web}/", "the routes", seconds=PATIENCE_SECONDS, status=None)
        yield web, admin
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    _wait_for(f"{AUTH}/readyz", "auth (make up S='stores auth-migrate auth')", seconds=5)
    released = threading.Event()
    gateway = Gateway("", httpx.Client(trust_env=False, timeout=60), released)
    home = tmp_path_factory.mktemp("gateway")
    probes, addresses = [], {}
    for name in yaml.safe_load((ROOT / "traefik/dynamic/services.yml").read_text())["http"]["services"]:
        shared = {"service": name, "refusals": gateway.refusals, "asked": gateway.asked, "released": released}
        probe = ProbeServer(("127.0.0.1", 0), type("ProbeOf", (Probe,), shared))
        threading.Thread(target=probe.serve_forever, daemon=True).start()
        probes.append(probe)
        addresses[name] = f"http://127.0.0.1:{probe.server_address[1]}"
    try:
        with traefik(home, addresses, auth=AUTH) as (gateway.url, gateway.admin):
            gateway.log = home / "log"
            yield gateway
    finally:
        for probe in probes:
            probe.shutdown()
            probe.server_close()
        gateway.http.close()


@pytest.fixture(scope="session")
def fallback() -> Iterator[str]:
    """The real fallback service; its URL."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "kinora_kit.fallback"],
        env={"PATH": os.environ["PATH"], "KINORA_HTTP_PORT": str(port)},
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/readyz", "the fallback", seconds=PATIENCE_SECONDS)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def all_down(tmp_path_factory: pytest.TempPathFactory, fallback: str) -> Iterator[str]:
    """A gateway with only the fallback behind it; its URL."""
    services = yaml.safe_load((ROOT / "traefik/dynamic/services.yml").read_text())["http"]["services"]
    addresses = {name: f"http://127.0.0.1:{free_port()}" for name in services} | {"fallback": fallback}
    with traefik(tmp_path_factory.mktemp("all_down"), addresses, auth=addresses["auth"]) as (url, _):
        yield url


@pytest.fixture(scope="session")
def only_auth_up(tmp_path_factory: pytest.TempPathFactory, fallback: str) -> Iterator[str]:
    """Like ``all_down``, but with auth: authenticated requests get as far as the unavailable service."""
    services = yaml.safe_load((ROOT / "traefik/dynamic/services.yml").read_text())["http"]["services"]
    addresses = {name: f"http://127.0.0.1:{free_port()}" for name in services} | {"fallback": fallback}
    with traefik(tmp_path_factory.mktemp("only_auth_up"), addresses, auth=AUTH) as (url, _):
        yield url


@pytest.fixture
def hung(tmp_path: Path, fallback: str) -> Iterator[str]:
    """A gateway whose guards ask services that accept connections but never answer; its URL."""
    services = yaml.safe_load((ROOT / "traefik/dynamic/services.yml").read_text())["http"]["services"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        addresses = dict.fromkeys(services, address) | {"auth": AUTH, "fallback": fallback}
        with traefik(tmp_path, addresses, auth=address) as (url, _):
            yield url


@pytest.fixture
def balanced(tmp_path: Path) -> Iterator[str]:
    """A gateway behind a load balancer at 127.0.0.1, with one probe as all of its services; its URL."""
    with ProbeServer(("127.0.0.1", 0), type("ProbeOfAll", (Probe,), {"service": "all"})) as probe:
        threading.Thread(target=probe.serve_forever, daemon=True).start()
        services = yaml.safe_load((ROOT / "traefik/dynamic/services.yml").read_text())["http"]["services"]
        addresses = dict.fromkeys(services, f"http://127.0.0.1:{probe.server_address[1]}")
        with traefik(tmp_path, addresses, auth=addresses["auth"], trusted=["127.0.0.1/32"]) as (url, _):
            yield url
        probe.shutdown()


@dataclass(frozen=True)
class Login:
    user_id: str
    access_token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access_token}"}


@pytest.fixture(scope="session")
def sign_in() -> Callable[[], Login]:
    """Registers a new user at auth and signs in."""

    def made() -> Login:
        name = f"gateway_{secrets.token_hex(8)}"
        password = "correct horse battery"
        with httpx.Client(base_url=AUTH, trust_env=False, timeout=60) as auth:
            body = {"username": name, "email": f"{name}@example.com", "password": password}
            user = auth.post("/auth/register", json=body).raise_for_status().json()
            pair = auth.post("/auth/login", json={"login": name, "password": password}).raise_for_status().json()
        return Login(user["id"], pair["access_token"])

    return made


@pytest.fixture(scope="module")
def alice(sign_in: Callable[[], Login]) -> Login:
    """Her token is valid for ten minutes: longer than any module takes, but not than all of them."""
    return sign_in()


@pytest.fixture(scope="module")
def revoked(sign_in: Callable[[], Login]) -> Login:
    """A login whose session has ended; its token has not expired."""
    login = sign_in()
    verified = httpx.get(f"{AUTH}/user/token_verify", headers=login.headers, trust_env=False, timeout=60).headers
    identity = {name: verified[name] for name in ("x-user-id", "x-session-id")}
    httpx.post(f"{AUTH}/auth/logout", headers=identity, trust_env=False, timeout=60).raise_for_status()
    return login
