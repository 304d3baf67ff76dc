"""A Docker daemon for the tests, with the images of docker-compose.yml built locally instead of pulled.

It runs in the namespaces of tests/docker/enter. Its images stay in .kinora/docker.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import images
from environment import MADE

STATE = MADE / "docker"
CONFIG = STATE / "client"
GROUP = "kinora-docker"
START_SECONDS = 60
STOP_SECONDS = 60
"""Includes stopping the containers, which get 15 s."""
# Image name in docker-compose.yml -> its replacement in local/sandbox/images, if the name differs.
STAND_INS = {"pgvector": "postgres"}


class Daemon:
    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raises TimeoutError if the daemon does not answer."""
        STATE.mkdir(parents=True, exist_ok=True)
        settings = STATE / "daemon.json"
        settings.write_text(
            json.dumps(
                {
                    "data-root": str(STATE / "data"),
                    "storage-driver": "overlay2",
                    # systemd is not reachable in these namespaces.
                    "exec-opts": ["native.cgroupdriver=cgroupfs"],
                    "cgroup-parent": f"/{GROUP}",
                }
            )
        )
        with (STATE / "dockerd.log").open("ab") as log:
            command = ["dockerd", f"--config-file={settings}"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(["docker", "version"], capture_output=True, check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"the daemon did not start: see {STATE}/dockerd.log")
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(STOP_SECONDS)
            self.process = None


def client() -> dict[str, str]:
    """Environment variables for `docker`, with the `docker compose` plugin that this repository builds."""
    plugin = CONFIG / "cli-plugins" / "docker-compose"
    plugin.parent.mkdir(parents=True, exist_ok=True)
    plugin.unlink(missing_ok=True)
    plugin.symlink_to(MADE / "bin" / "docker-compose")
    return {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "DOCKER_CONFIG": str(CONFIG)}


def remove_groups() -> None:
    """Remove the containers' parent cgroup, which the daemon leaves behind."""
    for top in [*Path("/sys/fs/cgroup").glob(GROUP), *Path("/sys/fs/cgroup").glob(f"*/{GROUP}")]:
        for folder, _, _ in os.walk(top, topdown=False):
            Path(folder).rmdir()


def load(wanted: set[str]) -> Iterator[str]:
    """Load these images from buildah into the daemon, and yield the name of each that was missing or outdated."""
    note = STATE / "loaded.json"
    loaded: dict[str, str] = json.loads(note.read_text()) if note.exists() else {}
    built = images.built()
    stand_ins = {base_name(reference): reference for reference in images.references()}
    for image in sorted(wanted):
        own = image if image in built else stand_ins[STAND_INS.get(base_name(image), base_name(image))]
        there = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0
        if there and loaded.get(image) == built[own]:
            continue
        yield image
        archive = STATE / "image.tar"
        archive.unlink(missing_ok=True)
        push = [*images.BUILDAH, "push", "--quiet", "--disable-compression", own, f"docker-archive:{archive}:{image}"]
        for command in (push, ["docker", "load", "--quiet", f"--input={archive}"]):
            subprocess.run(command, check=True, capture_output=True, timeout=300)
        archive.unlink()
        note.write_text(json.dumps(loaded := {**loaded, image: built[own]}))


def base_name(image: str) -> str:
    return image.rpartition("/")[2].partition(":")[0]
