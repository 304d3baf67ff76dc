"""docker-compose.yml on a real daemon: the instructions of README.md, restarts, limits and containment."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
from client import GATEWAY, TUS, Person
from clips import Clip, count_frames
from compose import COMMANDS, Compose, figures
from daemon import Daemon
from parts import PARTS

VIDEO_TESTS = Path(__file__).resolve().parents[2] / "apps" / "video" / "tests"
CHUNK = os.urandom(1 << 20)


def test_demo_prints_an_address_that_plays(platform: Compose) -> None:
    demo = COMMANDS[2]
    assert demo == "docker compose run --rm demo"
    began = time.monotonic()
    said = platform.shell(demo)
    figures.append(f"the demo took {time.monotonic() - began:.0f} s")
    address = next(line for line in said.splitlines() if "/master.m3u8" in line).split()[-1]
    assert address.startswith(f"{GATEWAY}/video/")
    assert count_frames(address) > 0


def test_demo_takes_a_file_and_deletes_its_account(
    platform: Compose, clip: Callable[[str], Clip], tmp_path: Path
) -> None:
    (platform.folder / "my.mp4").write_bytes(clip("short").path.read_bytes())
    said = platform.shell('docker compose run --rm --volume "$PWD/my.mp4:/my.mp4" demo /my.mp4')
    assert "/master.m3u8" in said
    delete = next(line.partition(": ")[2] for line in said.splitlines() if line.startswith("Delete"))
    assert "its videos are deleted" in platform.shell(delete)


def test_tools_open_the_stores(platform: Compose) -> None:
    assert "auth" in platform.shell("docker compose run --rm -T psql --list")
    assert "ready" in platform.shell("docker compose run --rm -T mc ready minio")


async def test_platform_recovers_after_a_daemon_restart(
    docker: Daemon, platform: Compose, person: Person, clip: Callable[[str], Clip]
) -> None:
    video = await person.upload(clip("short").path)
    assert (await person.outcome(video))["state"] == "ready"
    began = time.monotonic()
    docker.stop()
    stopped = time.monotonic()
    docker.start()
    platform.await_health()
    figures.append(f"daemon stopped in {stopped - began:.0f} s, all healthy {time.monotonic() - stopped:.0f} s later")
    assert count_frames((await person.get(f"/video/{video}")).json()["stream_url"]) == clip("short").frames
    another = await person.upload(clip("short").path)
    assert (await person.outcome(another))["state"] == "ready"


async def test_upload_does_not_exceed_the_memory_of_tusd(platform: Compose, person: Person, upload_bytes: int) -> None:
    before = platform.containers()["tusd"]
    created = await person.create("large.mp4", upload_bytes)

    async def body() -> AsyncIterator[bytes]:
        for position in range(0, upload_bytes, len(CHUNK)):
            yield CHUNK[: upload_bytes - position]

    began = time.monotonic()
    sent = await person.http.patch(
        created.headers["location"],
        headers={
            **person.headers,
            **TUS,
            "Upload-Offset": "0",
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(upload_bytes),
        },
        content=body(),
        timeout=httpx.Timeout(60, write=60),
    )
    seconds = time.monotonic() - began

    assert (sent.status_code, sent.headers.get("upload-offset")) == (204, str(upload_bytes)), sent.text
    after = platform.containers()["tusd"]
    assert (after["State"]["StartedAt"], after["RestartCount"]) == (before["State"]["StartedAt"], 0)
    limit = after["HostConfig"]["Memory"]
    status = Path(f"/proc/{after['State']['Pid']}/status").read_text()
    peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024
    figures.append(
        f"uploaded {upload_bytes / 1e9:.1f} GB at {upload_bytes / seconds / 1e6:.0f} MB/s; tusd's resident memory was"
        f" {peak / 2**20:.0f} MiB at most, of {limit / 2**20:.0f} MiB"
    )
    assert peak < limit / 2


def test_worker_contains_ffmpeg(platform: Compose) -> None:
    """Under the daemon's default seccomp profile, as natively and in a pod (docs/adr/0014)."""
    security = platform.docker("info", "--format={{json .SecurityOptions}}")
    assert "name=seccomp,profile=default" in json.loads(security)
    containers = platform.containers()
    assert "KINORA_REQUIRE_LANDLOCK=true" in containers["video-worker"]["Config"]["Env"]
    given: dict[str, Any] = {
        "secrets": ["/proc/1/environ", "/etc/hosts", "/etc/resolv.conf", "/app/kinora_video/sandbox.py"],
        "outside": "/app",
        "local": "/tmp/socket",  # noqa: S108 - in the container
        "addresses": {
            "the metadata service": ("169.254.169.254", 80),
            **{
                name: (network["IPAddress"], PARTS[name].ports[0])
                for name, each in containers.items()
                for network in each["NetworkSettings"]["Networks"].values()
                if name in PARTS
            },
        },
        "source": None,
    }
    assert {"auth", "video", "postgres", "rabbitmq", "traefik"} <= set(given["addresses"])
    attack, worker = ((VIDEO_TESTS / name).read_text() for name in ("attack.py", "attacked.py"))

    program = f"import sys\nsys.argv[1:] = {[attack, json.dumps(given)]!r}\n{worker}"
    said = platform.docker("compose", "exec", "-T", "video-worker", "python", "-c", program)

    end = json.loads(said)
    assert end["code"] == 0, end["stderr"]
    assert end["survived"], "the sibling process was killed"
    outcomes = json.loads(end["stdout"])
    assert len(outcomes) > 100
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "refused"} == {}
