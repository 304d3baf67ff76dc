"""Rotating every secret of every store under load is not noticed by any user."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import cluster as sandbox
from client import Person
from clips import Clip
from environment import MADE, ROOT
from live import APPS, ENVIRONMENT, STORES, Cluster, until
from load import load
from test_rollouts import assert_nothing_was_lost

# Like `make rotate`, for all secrets.
ROTATE_ALL = """
import pathlib, sys
from kinora_environment import render, rotate
stack, project = sys.argv[1], pathlib.Path(sys.argv[2])
for secret in rotate.rotating(render.configuration(stack, project)):
    rotate.rotate(stack, secret, project)
"""
USERS = """
import os
from urllib.parse import urlsplit
for name in sorted(os.environ):
    if name.startswith("KINORA_") and name.endswith("_URL") and "@" in os.environ[name]:
        print(urlsplit(os.environ[name]).username)
"""


@contextlib.asynccontextmanager
async def rotations(cluster: Cluster, folder: Path) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Each call runs `make rotate` for every secret, and the next steps. Afterwards, restores the committed stack.

    That takes minutes, so it is left out if the sandbox ends with this run and the test needs no repetition.
    """
    shutil.copy(ROOT / "pulumi" / f"Pulumi.{ENVIRONMENT}.yaml", folder)

    async def rotate() -> None:
        python = MADE / "pulumi" / "bin" / "python"
        subprocess.run([python, "-c", ROTATE_ALL, ENVIRONMENT, folder], cwd=ROOT / "pulumi", check=True)
        await apply(folder)
        await restart(cluster)

    restored = "KINORA_SANDBOX_ENDS" not in os.environ
    try:
        yield rotate
    except BaseException:
        restored = True
        raise
    finally:
        if restored:  # lowering generations is no rotation: the stores no longer have the pods' users
            await apply(ROOT / "pulumi")
            await restart(cluster)
            await until(
                lambda: not any("deletionTimestamp" in pod["metadata"] for pod in cluster.all("pod")),
                what="the previous pods to be gone",
            )


async def test_rotation_of_every_secret_loses_no_request_or_upload(
    cluster: Cluster,
    person: Person,
    video: str,
    clip: Callable[[str], Clip],
    tmp_path: Path,
) -> None:
    source = clip("short")
    async with rotations(cluster, tmp_path) as rotate_all:
        async with load(person, video, source.path) as running:
            for generation in ("_2", "_3"):
                await rotate_all()
                for app in ("auth", "media", "video", "graphql"):
                    users = cluster.run_in(app, USERS).split()
                    assert users
                    assert all(user.endswith(generation) for user in users), users
        await assert_nothing_was_lost(running, person, source)


async def apply(project: Path) -> None:
    """Apply a folder's stack file, like `pulumi up`, and wait until the stores are provisioned."""
    options = ("--project", str(project))
    if sandbox.uses_pulumi():
        await asyncio.to_thread(sandbox.stack, "--up", *options)
    else:
        await asyncio.to_thread(lambda: sandbox.apply(sandbox.rendered(*options)))
    await until(lambda: not sandbox.unready(STORES), what="the stores to have the users")


async def restart(cluster: Cluster) -> None:
    """Restart all services, so that they use the new Secrets."""
    await asyncio.to_thread(cluster.kubectl, "rollout", "restart", "deployment", "--namespace", APPS)
    for workload in cluster.deployments():
        await until(lambda workload=workload: cluster.is_rolled_out(workload), what=f"{workload} to be complete")  # type: ignore[misc]
