"""The stores as registered by the program, and helpers to run real servers for them."""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks
from pulumi.runtime.stack import wait_for_rpcs
from pulumi.runtime.sync_await import _sync_await
from pydantic import SecretStr

from kinora_environment import needs
from kinora_environment.config import Credential, External, Postgres, Store
from kinora_environment.credentials import Credentials, CredentialsArgs
from kinora_environment.images import IMAGES
from kinora_environment.mongo import MongoCluster
from kinora_environment.place import Place
from kinora_environment.postgres import PostgresCluster, PostgresClusterArgs
from kinora_environment.rabbitmq import MessageBroker
from kinora_environment.redis import RedisCache
from kinora_environment.render import Recorder, Rendered
from kinora_environment.s3 import ObjectStore
from kinora_environment.sizes import SIZES
from kinora_environment.stores import StoreArgs, StoreComponent

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = ROOT / ".kinora" / "venv" / "bin" / "python"
"""The services' Python, with their client libraries."""

COMPONENTS = (MongoCluster, RedisCache, MessageBroker, ObjectStore)


@dataclass(frozen=True)
class Made:
    """The resources that the components registered."""

    objects: Mapping[tuple[str, str], dict[str, Any]]
    """By kind and name."""
    variables: Mapping[str, str]
    """By ``<identity>.<name>``."""

    def data(self, kind: str, name: str) -> dict[str, str]:
        """The files of a ConfigMap or a Secret."""
        found = self.objects[kind, name]
        data: dict[str, str] = found["data"] if kind == "ConfigMap" else found["stringData"]
        return data

    def job(self, name: str) -> dict[str, Any]:
        return next(each for (kind, key), each in self.objects.items() if kind == "Job" and key.startswith(name))

    def container(self, name: str, container: str, *, kind: str = "StatefulSet") -> dict[str, Any]:
        containers = self.objects[kind, name]["spec"]["template"]["spec"]["containers"]
        found: dict[str, Any] = next(each for each in containers if each["name"] == container)
        return found


def password(name: str) -> str:
    """The value used for the random secret of a name."""
    return hashlib.sha256(name.encode()).hexdigest()[:40]


def external(store: str, needed: Mapping[str, needs.Needs]) -> External:
    """An external store, with a password that contains characters with a meaning in URLs."""
    users = [identity for identity, need in needed.items() if store in need.stores()]
    credentials = {user: Credential(username=f"{user}@cloud", password=SecretStr("p/s+w:d")) for user in users}
    return External(address=f"{store}.example", credentials=credentials)


def make(*, generation: int = 1, mode: Any = "single") -> Made:
    """All stores, for the identities of this repository, all in the same generation."""
    rendered, variables = Rendered("test"), dict[str, str]()
    mocks.set_mocks(Recorder(rendered, password), project="kinora", stack="test", preview=False)
    needed = needs.read()
    generations = {f"{identity}-{store}": generation for identity, need in needed.items() for store in need.stores()}
    common: dict[str, Any] = {
        "place": Place("test", "stores", pulumi.Output.from_input("kinora-test-stores")),
        "sizes": SIZES["small"],
        "images": IMAGES,
        "credentials": Credentials("credentials", CredentialsArgs(needed, generations)),
        "storage_class": None,
        "retain": False,
        "protect": False,
    }

    def config(store: str) -> dict[str, Any]:
        return {"mode": mode, "external": external(store, needed) if mode == "external" else None}

    components: list[StoreComponent] = [
        PostgresCluster("postgres", PostgresClusterArgs(config=Postgres(**config("postgres")), **common))
    ]
    components += [each(each.store, StoreArgs(config=Store(**config(each.store)), **common)) for each in COMPONENTS]

    def note(identity: str, name: str, value: pulumi.Output[str]) -> None:
        value.apply(lambda given: variables.update({f"{identity}.{name}": given}))

    for component in components:
        for identity in {login.identity for login in component.logins()}:
            for name, value in component.variables(identity).items():
                note(identity, name, value)
    _sync_await(wait_for_rpcs())
    return Made({(each["kind"], each["metadata"]["name"]): each for each in rendered.objects}, variables)


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    """The plain variables of a container."""
    return {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write files to a folder atomically, like the kubelet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        partial = folder / f".{name}"
        partial.write_text(text)
        partial.rename(folder / name)
    return folder


def program(name: str, *folders: Path) -> str:
    """A program of the machine, or the reason to skip the test."""
    path = ":".join(map(str, [*folders, os.environ["PATH"], "/usr/sbin"]))
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not on PATH")
    return found


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex((host, port)) == 0


def wait_for(condition: Callable[[], Any], *, seconds: float = 30, log: Path | None = None) -> None:
    """Wait until a condition holds; on timeout, fail with the end of the log."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain; the log says:\n{log.read_text()[-4000:] if log else ''}")
        time.sleep(0.05)


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], log: Path, *, variables: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process during the block; then kill it with all of its children."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)),
            env={"PATH": os.environ["PATH"], **(variables or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all of its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
