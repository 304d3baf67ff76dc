"""A Docker daemon for the tests, and the images of docker-compose.yml, which are built here instead of pulled.

It runs in the namespaces of tests/docker/enter. What stays is .kinora/docker, with the images.
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
# It stops the containers first, which it gives 15 s.
STOP_SECONDS = 60
# docker-compose.yml's name of an image -> that of its stand-in in local/sandbox/images. The others have the same.
STAND_INS = {"pgvector": "postgres"}


class Daemon:
    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raises TimeoutError when it does not answer."""
        STATE.mkdir(parents=True, exist_ok=True)
        settings = STATE / "daemon.json"
        settings.write_text(
            json.dumps(
                {
                    "data-root": str(STATE / "data"),
                    "storage-driver": "overlay2",
                    # Without systemd, to which there is no way from here.
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
                raise TimeoutError(f"the daemon does not start: {STATE}/dockerd.log")
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(STOP_SECONDS)
            self.process = None


def client() -> dict[str, str]:
    """The environment of `docker` with `docker compose` as it is built here."""
    plugin = CONFIG / "cli-plugins" / "docker-compose"
    plugin.parent.mkdir(parents=True, exist_ok=True)
    plugin.unlink(missing_ok=True)
    plugin.symlink_to(MADE / "bin" / "docker-compose")
    return {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "DOCKER_CONFIG": str(CONFIG)}


def remove_groups() -> None:
    """The daemon leaves the control group that was the parent of all containers'."""
    for top in [*Path("/sys/fs/cgroup").glob(GROUP), *Path("/sys/fs/cgroup").glob(f"*/{GROUP}")]:
        for folder, _, _ in os.walk(top, topdown=False):
            Path(folder).rmdir()


def load(wanted: set[str]) -> Iterator[str]:
    """Give the daemon these images, of those that buildah keeps; yields the name of each that it did not have."""
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
