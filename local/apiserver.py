"""A real Kubernetes API server without controllers: etcd and kube-apiserver from `make tools`, on loopback.

In a test: `with api_server(tmp_path) as kubeconfig:`. Manually: `python local/apiserver.py` prints the path of a
kubeconfig and serves until Ctrl-C; in another terminal, `kubectl --kubeconfig PATH get namespaces`.

It validates, admits and stores objects as a cluster does: schemas, RBAC, quotas, Pod Security, admission policies,
custom resources. Without controllers nothing is reconciled: a Deployment creates no pods, a deleted namespace stays
Terminating, and a namespace gets no service account `default`, so a pod is rejected until the account that it names has
been created.

Standard library only: it is used from more than one virtual environment.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

BIN = Path(__file__).resolve().parent.parent / ".kinora" / "bin"
HOST = "127.0.0.1"
START_LIMIT_SECONDS = 60
# Unix sockets instead of ports: etcd does not authenticate, and every user of the machine can reach a port.
ETCD_OPTIONS = (
    "--data-dir=etcd",
    "--listen-client-urls=unix://etcd.sock",
    "--advertise-client-urls=unix://etcd.sock",
    "--listen-peer-urls=unix://peer.sock",
    "--initial-advertise-peer-urls=unix://peer.sock",
    "--initial-cluster=default=unix://peer.sock",
    "--unsafe-no-fsync",  # the data need not survive a crash of the machine
)


class Failure(Exception):
    """An error message for the terminal."""


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[Path]:
    """Run an API server that keeps its state in the folder; yields the path of an administrator's kubeconfig.

    Ctrl-C and SIGTERM stop it, like leaving the context; both processes also end when this one is killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    token = secrets.token_urlsafe()
    write_private(folder / "tokens.csv", f"{token},admin,admin,system:masters\n")
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_interrupts())
        stack.enter_context(running(folder, "etcd", *ETCD_OPTIONS))
        server = stack.enter_context(
            running(
                folder,
                "kube-apiserver",
                "--etcd-servers=unix://etcd.sock",
                f"--bind-address={HOST}",
                f"--secure-port={port}",
                # It creates its own certificate there before it reads the keys for service accounts.
                "--cert-dir=certificates",
                "--service-account-key-file=certificates/apiserver.key",
                "--service-account-signing-key-file=certificates/apiserver.key",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--token-auth-file=tokens.csv",
                "--authorization-mode=RBAC",
                "--allow-privileged",  # as in every cluster: Pod Security rejects them
                "--service-cluster-ip-range=10.96.0.0/16",
                "--endpoint-reconciler-type=none",  # a loopback address cannot be an endpoint
            )
        )
        certificate = folder / "certificates" / "apiserver.crt"
        wait_until_ready(server, port, certificate, folder / "kube-apiserver.log")
        kubeconfig = folder / "kubeconfig"
        write_private(kubeconfig, json.dumps(kubeconfig_for(port, token, certificate)))
        yield kubeconfig


@contextlib.contextmanager
def running(folder: Path, program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    if not (BIN / program).exists():
        raise Failure(f"{BIN / program} is missing; build it with `make tools`.")
    with (folder / f"{program}.log").open("wb") as log:
        process = subprocess.Popen(
            # Killed with this process, however it ends.
            ["setpriv", "--pdeathsig", "KILL", BIN / program, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C goes to this process, which stops both
        )
    try:
        yield process
    finally:
        # The state is disposable, and on SIGTERM the API server would wait a minute for its watchers.
        process.kill()
        process.wait()


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Make SIGTERM unwind the stack like Ctrl-C, instead of ending Python at once. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_until_ready(server: subprocess.Popen[bytes], port: int, certificate: Path, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while not is_ready(port, certificate):
        if server.poll() is not None or time.monotonic() > deadline:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            raise Failure(f"kube-apiserver did not become ready. The end of {log}:\n{last}")
        time.sleep(0.1)


def is_ready(port: int, certificate: Path, host: str = HOST) -> bool:
    try:
        context = ssl.create_default_context(cafile=certificate)
        with urllib.request.urlopen(f"https://{host}:{port}/readyz", context=context, timeout=5):
            return True
    except OSError:  # no certificate yet, not listening yet, or a 500
        return False


def kubeconfig_for(port: int, token: str, certificate: Path) -> dict[str, object]:
    """As JSON, which is valid YAML."""
    authority = base64.b64encode(certificate.read_bytes()).decode()
    cluster = {"server": f"https://{HOST}:{port}", "certificate-authority-data": authority}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "admin"}}],
        "current-context": "local",
    }


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def main() -> int:
    try:
        with tempfile.TemporaryDirectory(prefix="kinora-apiserver-") as folder, api_server(Path(folder)) as kubeconfig:
            print(kubeconfig, flush=True)
            signal.pause()
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
