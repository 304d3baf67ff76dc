"""The whole journey and all operations through the cluster's gateway, and the pods' resource usage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from client import Person, global_id
from clips import Clip
from live import APPS, Cluster
from test_access import assert_access
from test_journey import assert_never_falls, assert_plays


@pytest.mark.parametrize("name", ["vertical", "short"])
async def test_a_clip_goes_from_upload_to_adaptive_playback(
    name: str, person: Person, clip: Callable[[str], Clip]
) -> None:
    video = await person.upload(clip(name).path)
    seen = [progress async for progress in person.follow(video)]
    assert seen[-1]["state"] == "ready", seen[-1]
    assert_never_falls(seen)
    await assert_plays(person.http, (await person.get(f"/video/{video}")).json()["stream_url"], clip(name))
    listed = await person.graphql("query ($id: ID!) { media(id: $id) { title } }", {"id": global_id("Media", video)})
    assert listed["media"]["title"]


async def test_operations_have_the_outcomes_of_the_table(cluster: Cluster, clip: Callable[[str], Clip]) -> None:
    await assert_access(cluster.gateway, clip("tiny").path)


def test_no_service_pod_was_restarted_or_oom_killed(cluster: Cluster) -> None:
    for pod in cluster.all("pod"):
        for status in pod["status"].get("containerStatuses", []):
            last = status.get("lastState", {}).get("terminated", {})
            assert last.get("reason") != "OOMKilled", pod["metadata"]["name"]
    assert {"auth", "media", "video", "graphql", "tusd", "video-worker"} <= set(cluster.deployments()), APPS
