"""What of the sandbox needs no cluster to be tried; tests/cluster has the rest."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import cluster
import doctor
import images
import node
import psutil
import pytest
import yaml
from environment import ROOT

ENVIRONMENT = yaml.safe_load((ROOT / "pulumi" / "Pulumi.sandbox.yaml").read_text())["config"]["kinora:environment"]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of its own."""
    for name, folder in (("STATE", tmp_path), ("LOGS", tmp_path / "logs"), ("KUBECONFIG", tmp_path / "kubeconfig")):
        monkeypatch.setattr(node, name, folder)
    (tmp_path / "pids").mkdir()
    return tmp_path


@pytest.fixture
def stubborn() -> Iterator[psutil.Process]:
    """A process that does not end when it is asked to."""
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", ignoring], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it ignores from now on
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()
    process.stdout.close()


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_process_is_known_by_its_number_and_the_moment_it_began(state: Path, stubborn: psutil.Process) -> None:
    file = state / "pids" / "kubelet"
    assert node.running("kubelet") is None
    file.write_text(f"{stubborn.pid} {stubborn.create_time()}")
    assert node.running("kubelet") == stubborn
    file.write_text(f"{stubborn.pid} {stubborn.create_time() - 1}")
    assert node.running("kubelet") is None, "a later process that has the same number is nobody's business"


def test_what_ended_does_not_run(state: Path) -> None:
    ended = subprocess.Popen(["true"])
    began = psutil.Process(ended.pid).create_time()
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # a zombie, as what this program started may become
    (state / "pids" / "etcd").write_text(f"{ended.pid} {began}")
    assert node.running("etcd") is None
    ended.wait()
    assert node.running("etcd") is None


def test_taking_down_asks_nobody(stubborn: psutil.Process) -> None:
    node._kill([stubborn])
    assert not stubborn.is_running() or stubborn.status() == psutil.STATUS_ZOMBIE


def test_waiting_in_vain_names_the_log(state: Path, stubborn: psutil.Process) -> None:
    node.LOGS.mkdir()
    (node.LOGS / "etcd.log").write_text("cannot bind\n")
    (state / "pids" / "etcd").write_text(f"{stubborn.pid} {stubborn.create_time()}")
    with pytest.raises(node.Failure, match=r"etcd did not come(?s:.*)etcd\.log(?s:.*)cannot bind"):
        node.wait(lambda: False, what="etcd", log="etcd", seconds=0)


# --- what stays on the machine ---------------------------------------------------------------------------------------


def test_containerd_keeps_all_but_images_in_the_state_folder(state: Path) -> None:
    node._containerd_configuration()
    written = tomllib.loads((state / "containerd.toml").read_text())
    assert written["root"] == str(node.IMAGES), "which is built once, like everything else"
    network = written["plugins"]["io.containerd.grpc.v1.cri"]["cni"]["conf_dir"]
    for place in (written["state"], written["grpc"]["address"], written["ttrpc"]["address"], network):
        assert Path(place).is_relative_to(state)


def test_the_settings_of_the_kernel_are_remembered_as_they_were_before(state: Path) -> None:
    node._remember_kernel_settings()
    before = (state / "kernel.json").read_text()
    assert '"kernel/panic"' in before
    (state / "kernel.json").write_text("{}")
    node._remember_kernel_settings()  # as a second `make cluster-up` does, when the kubelet has changed them
    assert (state / "kernel.json").read_text() == "{}"


def test_tokens_are_for_one_user_only(state: Path) -> None:
    node._credentials()
    (state / "certificates").mkdir()
    files = [state / "tokens.csv", *(node._kubeconfig(account) for account in node.ACCOUNTS)]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    tokens = {yaml.safe_load(file.read_text())["users"][0]["user"]["token"] for file in files[1:]}
    assert len(tokens) == len(node.ACCOUNTS)


# --- what it agrees with the stack on --------------------------------------------------------------------------------


def test_the_addresses_are_those_of_the_stack() -> None:
    assert ENVIRONMENT["public_url"] == cluster.PUBLIC_URL
    assert cluster.PUBLIC_URL.endswith(f":{ENVIRONMENT['gateway']['node_port']}")
    path = cluster.REPOSITORY.rpartition("/")[2]
    assert ENVIRONMENT["repository"] == {"url": f"http://git.{cluster.GIT_NAMESPACE}.svc.cluster.local/{path}"}


def test_every_image_that_is_built_for_it_is_brought() -> None:
    listing = ["make", "--silent", "--file=local/sandbox/images.mk", "references"]
    built = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in built if not name.startswith(images.RUN)] == []
    assert set(ENVIRONMENT["images"].values()) | {node.PAUSE} <= set(built)


# --- what is pushed --------------------------------------------------------------------------------------------------


def test_what_is_not_committed_is_a_commit_that_nobody_else_sees(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    monkeypatch.setattr(cluster, "ROOT", checkout)
    (checkout / ".gitignore").write_text("secret\n")
    (checkout / "changed").write_text("before")
    cluster.git("init", "--quiet")
    cluster.git("add", "--all")
    cluster.git("-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "--quiet", "--message=begin")
    for name in ("changed", "staged", "new", "secret"):
        (checkout / name).write_text("after")
    cluster.git("add", "staged")
    before = cluster.git("status", "--porcelain"), cluster.git("rev-parse", "HEAD")

    commit = cluster._commit_of_its_own()

    assert cluster.git("ls-tree", "--name-only", commit).split() == [".gitignore", "changed", "new", "staged"]
    assert cluster.git("show", f"{commit}:changed") == "after"
    assert (cluster.git("status", "--porcelain"), cluster.git("rev-parse", "HEAD")) == before


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_only_root_is_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (problem,) = doctor.check_cluster()
    assert problem.endswith("sudo make cluster-up")


def test_another_kubernetes_is_found_in_either_version_of_control_groups(tmp_path: Path) -> None:
    assert doctor.kubelets(tmp_path) == []
    (tmp_path / "kubepods.slice").mkdir()
    (tmp_path / "cpu" / "kubepods").mkdir(parents=True)
    assert doctor.kubelets(tmp_path) == [tmp_path / "kubepods.slice", tmp_path / "cpu" / "kubepods"]
