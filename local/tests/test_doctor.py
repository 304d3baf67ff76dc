"""The checks of local/doctor.py, called one by one: the result of a whole run depends on the machine."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import doctor
import pytest
from parts import HOST, Part, Tcp

if TYPE_CHECKING:
    from conftest import Checkout


def test_taken_port_is_reported_with_purpose_and_process() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        part = Part("an example", (port,), Tcp(port))
        (problem,) = doctor.check_ports([part])
    assert f"Port {port} (an example) is taken by process {os.getpid()} (" in problem
    assert doctor.check_ports([part]) == []


def test_insufficient_disk_is_reported_with_the_required_size() -> None:
    (problem,) = doctor.check_disk(1_000_000)
    assert problem.startswith("1000000 GB of disk are needed")
    assert doctor.check_disk(0) == []


def test_version_is_none_for_missing_program() -> None:
    assert doctor.version([sys.executable, "--version"], r"Python (\d+)\.(\d+)") == sys.version_info[:2]
    assert doctor.version(["no-such-program"], r"(\d+)") is None


def test_missing_program_is_reported_by_debian_package() -> None:
    assert doctor.missing_packages({"a-package": "no-such-program", "python3": "python3"}) == ["a-package"]


@pytest.mark.parametrize(
    ("verb", "made"),
    [
        ("install", "venv/installed bin/tusd bin/minio"),
        (
            "tools",
            "pulumi/installed upstream/istio upstream/argo-cd-3.5.7 upstream/keda-2.20.2 bin/compose-config bin/etcd"
            " bin/kubectl bin/helm bin/mc bin/kube-apiserver bin/istioctl",
        ),
    ],
)
def test_existing_targets_are_not_rebuilt(verb: str, made: str, checkout: Checkout) -> None:
    (checkout.root / "requirements.txt").touch()
    (checkout.root / "pulumi").mkdir()
    (checkout.root / "pulumi" / "requirements.txt").touch()
    question = f"import doctor; print(doctor.makes_something({verb!r}))"
    for file in made.split():
        assert checkout.run(sys.executable, "-c", question) == "True\n"
        path = checkout.root / ".kinora" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert checkout.run(sys.executable, "-c", question) == "False\n"


def test_tools_check_requires_go_memory_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda *_: (1, 26))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1_000_000}.__getitem__)
    monkeypatch.setattr(doctor, "check_disk", lambda gigabytes, folder=doctor.ROOT: [f"{gigabytes} {folder}"])
    assert doctor.check_tools() == [
        "Go 1.26.6 or newer is needed to build the tools; install it and put it on PATH.",
        "6 GB of memory are needed to build the tools; this machine has 4.1 GB.",
        f"2 {doctor.ROOT}",
        f"20 {Path.home()}",
    ]


@pytest.mark.parametrize(
    ("said", "problems"),
    [
        ({"version": (20, 10), "compose": (2, 20), "buildx": (0, 10)}, 0),
        ({"version": (20, 9), "compose": (2, 20), "buildx": (0, 10)}, 1),
        ({"version": None, "compose": (1, 29), "buildx": None}, 3),
    ],
)
def test_docker_needs_a_daemon_and_its_plugins(
    said: dict[str, tuple[int, ...]], problems: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "version", lambda command, _: said[command[1]])
    monkeypatch.setattr(doctor, "check_ports", lambda _: [])
    assert len(doctor.check_docker()) == problems


def test_landlock_is_needed_unless_the_settings_accept_that_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Kernel:
        def syscall(self, *_: object) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Kernel())
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    assert "KINORA_REQUIRE_LANDLOCK=false in .env" in doctor.check_landlock(".env")[0]
    (tmp_path / ".env").write_text("KINORA_REQUIRE_LANDLOCK=false\n")
    assert doctor.check_landlock(".env") == []
