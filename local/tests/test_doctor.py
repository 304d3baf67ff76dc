"""What local/doctor.py says. Its checks are called one by one: what the whole says depends on the machine."""

import os
import socket
import sys

import doctor
import pytest
from parts import HOST, Part, Tcp


def test_a_taken_port_is_named_with_its_purpose_and_its_process() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        part = Part("an example", (port,), Tcp(port))
        (problem,) = doctor.check_ports([part])
    assert f"Port {port} (an example) is taken by process {os.getpid()} (" in problem
    assert doctor.check_ports([part]) == []


def test_too_little_disk_is_named_with_what_is_needed() -> None:
    (problem,) = doctor.check_disk(1_000_000)
    assert problem.startswith("1000000 GB of disk are needed")
    assert doctor.check_disk(0) == []


def test_versions_are_read_and_a_missing_program_is_told_apart() -> None:
    assert doctor.version([sys.executable, "--version"], r"Python (\d+)\.(\d+)") == sys.version_info[:2]
    assert doctor.version(["no-such-program"], r"(\d+)") is None


def test_missing_programs_are_named_by_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", {"a-package": "no-such-program", "python3": "python3"})
    assert doctor.missing_packages() == ["a-package"]
