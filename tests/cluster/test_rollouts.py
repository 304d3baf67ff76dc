"""What changes or breaks while people use the platform costs none of their requests and no upload."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from client import Person
from clips import Clip, count_frames
from live import APPS, Cluster, is_ready, until, version_file
from load import load, upload_slowly

# The workloads that the load goes through; those behind a queue do not answer requests.
SERVING = ("auth", "media", "video", "graphql", "tusd")


async def test_a_new_version_of_every_service_costs_no_request_and_no_upload(
    cluster: Cluster, person: Person, video: str, clip: Callable[[str], Clip], version: Callable[[str], str]
) -> None:
    new = {app: version(app) for app in cluster.apps()}
    changes = {version_file(app): f"version: {name}\n" for app, name in new.items()}
    async with load(person, video, once=True) as running, asyncio.TaskGroup() as group:
        upload = group.create_task(upload_slowly(person, clip("short").path, 1))
        with cluster.pushed(changes, "Roll everything out anew") as commit:
            for app in new:
                await until(lambda app=app: cluster.is_synced(app, commit), what=f"{app} to be rolled out")  # type: ignore[misc]
            for app in ("auth", "media", "graphql", "video"):
                assert cluster.images(app) == {new[app]}
    assert running.failures == []
    assert min(running.answers.values()) > 20, running.answers
    outcome = await person.outcome(upload.result())
    assert outcome["state"] == "ready"
    assert count_frames((await person.get(f"/video/{upload.result()}")).json()["stream_url"]) == clip("short").frames
    for app in cluster.apps():  # back to where it was, before the next test
        await until(lambda app=app: cluster.is_synced(app, cluster.head()), what=f"{app} to be rolled back")  # type: ignore[misc]


async def test_the_end_of_any_one_pod_costs_no_request_and_no_upload(
    cluster: Cluster, person: Person, video: str, clip: Callable[[str], Clip]
) -> None:
    """As a node that is drained ends it: with the time to finish what it does."""
    await assert_nothing_is_lost(cluster, person, video, clip("short"), once=True, how=())


async def test_the_kill_of_any_one_pod_costs_no_request_that_can_be_repeated_and_no_upload(
    cluster: Cluster, person: Person, video: str, clip: Callable[[str], Clip]
) -> None:
    """Without any time: its connections break in the middle."""
    await assert_nothing_is_lost(cluster, person, video, clip("short"), once=False, how=("--grace-period=0", "--force"))


async def test_the_kill_of_a_worker_costs_no_video(
    cluster: Cluster, person: Person, clip: Callable[[str], Clip]
) -> None:
    video = await person.upload(clip("vertical").path)
    killed = False
    async for progress in person.follow(video):
        if not killed and progress["progress"] > 0:
            killed = True
            await end_each_pod(cluster, "video-worker", "--grace-period=0", "--force")
    assert killed
    assert progress["state"] == "ready", progress
    assert count_frames((await person.get(f"/video/{video}")).json()["stream_url"]) == clip("vertical").frames


async def assert_nothing_is_lost(
    cluster: Cluster, person: Person, video: str, source: Clip, *, once: bool, how: Sequence[str]
) -> None:
    """End each pod that the load goes through, one after another, while an upload is under way."""
    async with load(person, video, once=once) as running, asyncio.TaskGroup() as group:
        upload = group.create_task(upload_slowly(person, source.path, 2))
        for workload in SERVING:
            before = len(running.failures)
            await end_each_pod(cluster, workload, *how)
            running.failures[before:] = [f"while {workload} ended: {each}" for each in running.failures[before:]]
    assert running.failures == []
    assert min(running.answers.values()) > 20, running.answers
    assert (await person.outcome(upload.result()))["state"] == "ready"


async def end_each_pod(cluster: Cluster, workload: str, *how: str) -> None:
    """One pod after another, each once its successor is ready."""
    ready = [pod["metadata"]["name"] for pod in cluster.pods(workload) if is_ready(pod)]
    assert ready, f"{workload} has no pod that is ready"
    for pod in ready:
        await asyncio.to_thread(cluster.kubectl, "delete", "pod", pod, "--namespace", APPS, *how)
        await until(lambda: cluster.is_rolled_out(workload), what=f"a successor of {pod}")
