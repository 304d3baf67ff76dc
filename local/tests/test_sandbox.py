"""Unit tests of the sandbox; tests/cluster has those that need a cluster."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tomllib
import urllib.request
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
    """A temporary state folder."""
    for name, folder in (("STATE", tmp_path), ("LOGS", tmp_path / "logs"), ("KUBECONFIG", tmp_path / "kubeconfig")):
        monkeypatch.setattr(node, name, folder)
    (tmp_path / "pids").mkdir()
    return tmp_path


@pytest.fixture
def stubborn() -> Iterator[psutil.Process]:
    """A process that ignores SIGTERM."""
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", ignoring], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it ignores SIGTERM from now on
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()
    process.stdout.close()


# --- processes -------------------------------------------------------------------------------------------------------


def test_running_identifies_a_process_by_pid_and_start_time(state: Path, stubborn: psutil.Process) -> None:
    file = state / "pids" / "kubelet"
    assert node.running("kubelet") is None
    file.write_text(node.identity(stubborn.pid))
    assert node.running("kubelet") == stubborn
    pid, began, boot = node.identity(stubborn.pid).split()
    for other in (f"{pid} {int(began) - 1} {boot}", f"{pid} {began} {boot[::-1]}", pid, ""):
        file.write_text(other)
        assert node.running("kubelet") is None, "a later process with the same pid is not ours"


def test_running_ignores_a_zombie_and_an_exited_process(state: Path) -> None:
    ended = subprocess.Popen(["true"])
    noted = node.identity(ended.pid)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # now a zombie, as children of this program may become
    (state / "pids" / "etcd").write_text(noted)
    assert node.running("etcd") is None
    ended.wait()
    assert node.running("etcd") is None


def test_kill_ends_a_process_that_ignores_sigterm(stubborn: psutil.Process) -> None:
    node._kill([stubborn])
    assert not stubborn.is_running() or stubborn.status() == psutil.STATUS_ZOMBIE


def test_down_leaves_another_checkouts_sandbox_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: psutil.Process
) -> None:
    monkeypatch.setattr(node, "STATE", tmp_path / "never-made")
    monkeypatch.setattr(node, "_processes", lambda: [stubborn])
    monkeypatch.setenv("PATH", "")  # as on a machine without any of the programs
    node.down()
    assert stubborn.is_running()


def test_requests_to_the_node_bypass_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://proxy.example.org:3128")
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.delenv("no_proxy", raising=False)
    assert not urllib.request.proxy_bypass(node.NODE_ADDRESS)
    node.without_proxy()
    assert urllib.request.proxy_bypass(node.NODE_ADDRESS)
    assert urllib.request.proxy_bypass("localhost")
    assert not urllib.request.proxy_bypass("example.org")


def test_wait_names_the_log_on_timeout(state: Path, stubborn: psutil.Process) -> None:
    node.LOGS.mkdir()
    (node.LOGS / "etcd.log").write_text("cannot bind\n")
    (state / "pids" / "etcd").write_text(node.identity(stubborn.pid))
    with pytest.raises(node.Failure, match=r"etcd did not start(?s:.*)etcd\.log(?s:.*)cannot bind"):
        node.wait(lambda: False, what="etcd", log="etcd", seconds=0)


# --- effects on the machine ------------------------------------------------------------------------------------------


def test_containerd_keeps_everything_but_images_in_the_state_folder(state: Path) -> None:
    node._containerd_configuration()
    written = tomllib.loads((state / "containerd.toml").read_text())
    assert written["root"] == str(node.IMAGES), "images are imported once and kept"
    network = written["plugins"]["io.containerd.grpc.v1.cri"]["cni"]["conf_dir"]
    for place in (written["state"], written["grpc"]["address"], written["ttrpc"]["address"], network):
        assert Path(place).is_relative_to(state)


def test_kernel_settings_are_saved_once_before_they_change(state: Path) -> None:
    node._remember_kernel_settings()
    before = (state / "kernel.json").read_text()
    assert '"kernel/panic"' in before
    (state / "kernel.json").write_text("{}")
    node._remember_kernel_settings()  # as a second `make cluster-up` does, after the kubelet has changed them
    assert (state / "kernel.json").read_text() == "{}"


def test_tokens_and_kubeconfigs_are_readable_by_their_owner_only(state: Path) -> None:
    node._credentials()
    (state / "certificates").mkdir()
    files = [state / "tokens.csv", *(node._kubeconfig(account) for account in node.ACCOUNTS)]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    tokens = {yaml.safe_load(file.read_text())["users"][0]["user"]["token"] for file in files[1:]}
    assert len(tokens) == len(node.ACCOUNTS)


# --- consistency with the Pulumi stack -------------------------------------------------------------------------------


def test_addresses_match_the_stack() -> None:
    assert ENVIRONMENT["public_url"] == cluster.PUBLIC_URL
    assert cluster.PUBLIC_URL.endswith(f":{ENVIRONMENT['gateway']['node_port']}")
    path = cluster.REPOSITORY.rpartition("/")[2]
    assert ENVIRONMENT["repository"] == {"url": f"http://git.{cluster.GIT_NAMESPACE}.svc.cluster.local/{path}"}


def test_every_image_of_the_stack_is_imported() -> None:
    assert set(ENVIRONMENT["images"].values()) | {node.PAUSE} <= set(images.references())


def test_images_that_are_no_longer_built_are_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["localhost/kinora-sandbox/git:1", "localhost/kinora-sandbox/git:2", f"{images.SERVICES}kinora-auth:0.1.0"]
    listed = [{"id": str(number), "names": [name]} for number, name in enumerate(names)] + [{"id": "3", "names": None}]
    monkeypatch.setattr(node, "run", lambda *_: json.dumps(listed))
    monkeypatch.setattr(images, "references", lambda: names[1:2])
    assert images.built() == {names[1]: "1", names[2]: "2"}


# --- push and rollout ------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate checkout with one commit, and a server to push to in the folder `server`."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    monkeypatch.setattr(cluster, "ROOT", folder)
    monkeypatch.setattr(cluster, "wait", lambda *_, **__: None)
    (folder / ".gitignore").write_text("secret\n")
    (folder / "changed").write_text("before")
    cluster.git("init", "--quiet")
    _commit()
    monkeypatch.setattr(cluster, "REPOSITORY", str(tmp_path / "server"))
    cluster.git("init", "--quiet", "--bare", f"--initial-branch={cluster.BRANCH}", cluster.REPOSITORY)
    return folder


def _commit() -> None:
    cluster.git("add", "--all")
    cluster.git("-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "--quiet", "--message=go on")


def test_push_of_uncommitted_files_leaves_the_checkout_as_it_is(checkout: Path) -> None:
    for name in ("changed", "staged", "new", "secret"):
        (checkout / name).write_text("after")
    cluster.git("add", "staged")
    before = cluster.git("status", "--porcelain"), cluster.git("rev-parse", "HEAD")

    commit = cluster.push(uncommitted=True)

    assert cluster.git("ls-tree", "--name-only", commit).split() == [".gitignore", "changed", "new", "staged"]
    assert cluster.git("show", f"{commit}:changed") == "after"
    assert (cluster.git("status", "--porcelain"), cluster.git("rev-parse", "HEAD")) == before


@pytest.mark.parametrize("uncommitted", [False, True])
def test_a_shallow_clone_is_pushed_and_can_be_fetched(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uncommitted: bool
) -> None:
    (checkout / "changed").write_text("after")
    _commit()
    monkeypatch.setattr(cluster, "ROOT", tmp_path / "shallow")
    subprocess.run(["git", "clone", "--quiet", "--depth=1", checkout.as_uri(), tmp_path / "shallow"], check=True)
    for _ in range(2):
        commit = cluster.push(uncommitted=uncommitted)
    (tmp_path / "clone").mkdir()
    monkeypatch.setattr(cluster, "ROOT", tmp_path / "clone")
    cluster.git("init", "--quiet")
    # As Argo CD does.
    cluster.git("fetch", "--quiet", Path(cluster.REPOSITORY).as_uri(), f"{cluster.BRANCH}:refs/remotes/origin/main")
    assert cluster.git("rev-parse", "origin/main").strip() == commit
    assert cluster.git("show", f"{commit}:changed") == "after"


def test_expected_applications_are_those_of_the_pushed_commit(checkout: Path) -> None:
    for app, stack in (("auth", cluster.STACK), ("video", cluster.STACK), ("media", "dev")):
        file = checkout / "apps" / app / "deploy" / "envs" / stack / "version.yaml"
        file.parent.mkdir(parents=True)
        file.write_text("version: 0.1.0\n")
    _commit()
    commit = cluster.push()
    (checkout / "apps/video/deploy/envs/sandbox/version.yaml").unlink()  # not committed
    assert commit == cluster.git("rev-parse", "HEAD").strip()
    assert cluster.expected(commit) == {"root", "gateway", "auth", "video"}


def test_rollout_waits_until_argo_cd_reports_the_pushed_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = cluster.push()
    states = {"root": f"Synced Healthy {commit}", "gateway": "Synced Healthy older"}
    monkeypatch.setattr(cluster, "kubectl", lambda *_, **__: "")
    monkeypatch.setattr(cluster, "diagnosis", lambda: "")
    monkeypatch.setattr(cluster, "applications", lambda: states)
    monkeypatch.setattr(cluster, "expected", lambda _: {"root", "gateway", "auth"})
    monkeypatch.setattr(cluster, "LIMIT_SECONDS", 0)
    with pytest.raises(node.Failure, match=r": auth \(is missing\), gateway \(Synced Healthy older\)\."):
        list(cluster._rolled_out(commit))
    states |= dict.fromkeys(("gateway", "auth"), f"Synced Healthy {commit}")
    assert list(cluster._rolled_out(commit)) == ["auth rolled out", "gateway rolled out", "root rolled out"]
    states["removed"] = f"Synced Healthy {commit}"
    with pytest.raises(node.Failure, match="removed"):
        list(cluster._rolled_out(commit))


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_requires_root_for_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (problem,) = doctor.check_cluster()
    assert problem.endswith("sudo make cluster-up")


def test_doctor_requires_disk_only_before_the_sandbox_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(doctor, "MADE", tmp_path)
    monkeypatch.setattr(doctor, "check_disk", lambda _: ["no room"])
    assert "no room" in doctor.check_cluster()
    (tmp_path / "sandbox").mkdir()
    assert "no room" not in doctor.check_cluster(), "a running sandbox already occupies it"


def test_doctor_finds_other_kubelets_in_cgroup_v1_and_v2(tmp_path: Path) -> None:
    assert doctor.kubelets(tmp_path) == []
    (tmp_path / "kubepods.slice").mkdir()
    (tmp_path / "cpu" / "kubepods").mkdir(parents=True)
    assert doctor.kubelets(tmp_path) == [tmp_path / "kubepods.slice", tmp_path / "cpu" / "kubepods"]
