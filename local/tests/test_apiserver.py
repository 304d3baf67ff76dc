"""local/apiserver.py, with the binaries from `make tools`."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apiserver
import doctor
import psutil
import pytest

needs_tools = pytest.mark.skipif(
    not all((apiserver.BIN / program).exists() for program in ("etcd", "kube-apiserver", "kubectl")),
    reason="etcd, kube-apiserver or kubectl is missing: `make tools`",
)

Manifest = dict[str, object]

RESTRICTED: Manifest = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
}
ACCOUNT: Manifest = {
    "apiVersion": "v1",
    "kind": "ServiceAccount",
    "metadata": {"name": "default", "namespace": "strict"},
}
HARDENED: Manifest = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with apiserver.api_server(tmp_path_factory.mktemp("apiserver")) as path:
        yield path


def apply(kubeconfig: Path, *objects: Manifest) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [apiserver.BIN / "kubectl", "--kubeconfig", kubeconfig, "--cache-dir", kubeconfig.parent, "apply", "-f", "-"],
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
        capture_output=True,
        text=True,
        check=False,
    )


def pod(name: str, security: Manifest) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "strict"},
        "spec": {"containers": [{"name": "it", "image": "example", "securityContext": security}]},
    }


@needs_tools
def test_pod_security_rejects_privileged_pod_in_restricted_namespace(kubeconfig: Path) -> None:
    prepared = apply(kubeconfig, RESTRICTED, ACCOUNT)
    assert prepared.returncode == 0, prepared.stderr
    refused = apply(kubeconfig, pod("privileged", {"privileged": True}))
    assert refused.returncode != 0
    assert 'pods "privileged" is forbidden: violates PodSecurity "restricted:latest": privileged' in refused.stderr
    accepted = apply(kubeconfig, pod("hardened", HARDENED))
    assert accepted.returncode == 0, accepted.stderr


@needs_tools
def test_kubeconfig_and_token_are_readable_by_owner_only(kubeconfig: Path) -> None:
    for file in (kubeconfig, kubeconfig.parent / "tokens.csv"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@needs_tools
def test_api_server_stops_its_processes_and_frees_the_port(tmp_path: Path) -> None:
    others = set(psutil.Process().children())
    with apiserver.api_server(tmp_path / "state") as path:
        started = set(psutil.Process().children()) - others
        assert {process.name() for process in started} == {"etcd", "kube-apiserver"}
        port = port_in(path)
        assert not doctor.is_free(port)
    assert not [process for process in started if process.is_running()]
    assert doctor.is_free(port)


@needs_tools
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signal_stops_the_command_and_its_processes(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        # If the tests run in the background, SIGINT is ignored, and a child would inherit that.
        ["env", "--default-signal=INT", sys.executable, apiserver.__file__],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        kubeconfig = Path(command.stdout.readline().strip())
        port = port_in(kubeconfig)
        started = psutil.Process(command.pid).children()
        assert len(started) == 2
        command.send_signal(number)
    deadline = time.monotonic() + 10
    while any(is_alive(process) for process in started) or not doctor.is_free(port):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []


def test_missing_binary_error_names_the_make_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apiserver, "BIN", tmp_path)
    expected = re.escape(f"{tmp_path / 'etcd'} is missing; build it with `make tools`.")
    with pytest.raises(apiserver.Failure, match=expected), apiserver.api_server(tmp_path / "state"):
        pass


def port_in(kubeconfig: Path) -> int:
    server: str = json.loads(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    return int(server.rsplit(":", 1)[1])


def is_alive(process: psutil.Process) -> bool:
    """Whether it is running; a zombie is not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
