"""Rollouts and failures under load lose no request and no upload."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from client import Person
from clips import Clip, count_frames
from live import APPS, Cluster, is_ready, until, version_file
from load import Load, load

# The workloads that serve the load; consumers of queues do not serve requests.
SERVING = ("auth", "media", "video", "graphql", "tusd")
KILL = ("--grace-period=0", "--force")


async def test_rollout_of_every_service_loses_no_request_or_upload(
    cluster: Cluster, person: Person, video: str, clip: Callable[[str], Clip], version: Callable[[str], str]
) -> None:
    new = {app: version(app) for app in cluster.apps()}
    changes = {version_file(app): f"version: {name}\n" for app, name in new.items()}
    with ExitStack() as pushes:
        async with load(person, video, clip("short").path) as running:
            commit = pushes.enter_context(cluster.pushed(changes, "Roll out everything"))
            for app, name in new.items():
                await until(lambda app=app: cluster.is_synced(app, commit), what=f"{app} to be rolled out")  # type: ignore[misc]
                assert cluster.images(app) == {name}
    # Without the load, which would slow it down: it is the same rollout again, with the images exchanged.
    for app in new:
        await until(lambda app=app: cluster.is_synced(app, cluster.head()), what=f"{app} to be rolled back")  # type: ignore[misc]
    await assert_nothing_was_lost(running, person, clip("short"))


@pytest.mark.sample(1, "disruptions")
@pytest.mark.parametrize("workload", SERVING)
async def test_eviction_of_each_pod_loses_no_request_or_upload(
    cluster: Cluster, person: Person, video: str, clip: Callable[[str], Clip], workload: str
) -> None:
    """Like draining a node: with time for a graceful stop."""
    async with load(person, video, clip("short").path) as running:
        await end_each_pod(cluster, workload)
    await assert_nothing_was_lost(running, person, clip("short"))


@pytest.mark.sample(1, "disruptions")
@pytest.mark.parametrize("workload", SERVING)
async def test_kill_of_each_pod_loses_no_request_or_upload(
    cluster: Cluster, person: Person, video: str, clip: Callable[[str], Clip], workload: str
) -> None:
    """Without a grace period: its connections break."""
    async with load(person, video, clip("short").path) as running:
        await end_each_pod(cluster, workload, *KILL)
    await assert_nothing_was_lost(running, person, clip("short"))


async def test_kill_of_a_worker_loses_no_video(cluster: Cluster, person: Person, clip: Callable[[str], Clip]) -> None:
    video = await person.upload(clip("vertical").path)
    killed = False
    async for progress in person.follow(video):
        if not killed and progress["progress"] > 0:
            killed = True
            await end_each_pod(cluster, "video-worker", *KILL)
    assert killed
    assert progress["state"] == "ready", progress
    assert count_frames((await person.get(f"/video/{video}")).json()["stream_url"]) == clip("vertical").frames


async def assert_nothing_was_lost(running: Load, person: Person, source: Clip) -> None:
    assert not running.failures, "\n".join(running.failures)
    assert min(running.answers.values()) > 0, running.answers
    assert running.uploads
    for video in running.uploads:
        outcome = await person.outcome(video)
        assert outcome["state"] == "ready", str(outcome)
    for video in running.uploads[-2:]:  # one of each kind
        assert count_frames((await person.get(f"/video/{video}")).json()["stream_url"]) == source.frames


async def end_each_pod(cluster: Cluster, workload: str, *how: str) -> None:
    """Delete one pod after another, each once the previous replacement is ready."""
    ready = ready_pods(cluster, workload)
    assert ready, f"{workload} has no ready pod"
    for pod in ready:
        await asyncio.to_thread(cluster.kubectl, "delete", "pod", pod, "--namespace", APPS, *how)
        # From the pods themselves: the Deployment's status lags behind.
        await until(
            lambda pod=pod: len(ready_pods(cluster, workload) - {pod}) == len(ready),  # type: ignore[misc]
            what=f"a replacement of {pod}",
        )
        await until(lambda: cluster.is_rolled_out(workload), what=f"{workload} to be complete")


def ready_pods(cluster: Cluster, workload: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in cluster.pods(workload) if is_ready(pod)}
