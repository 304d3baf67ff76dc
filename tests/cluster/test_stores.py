"""Stores that are down for maintenance, or that lost their volume."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from client import Person, register
from clips import Clip
from live import STORES, Cluster, is_ready, until
from outages import Scene, assert_outage_stays_where_it_is

SERVICES = ("auth", "media", "video", "graphql", "tusd", "video-worker")
AWAY_SECONDS = 60
# StatefulSets, by the name that the services report for the dependency.
STATEFUL_SETS = {store: store for store in ("postgres", "mongo", "redis", "rabbitmq")} | {"object_store": "s3"}


def claims(cluster: Cluster) -> dict[str, Any]:
    return {each["metadata"]["name"]: each["metadata"]["uid"] for each in cluster.all("pvc", STORES)}


def store_is_ready(cluster: Cluster, store: str) -> bool:
    found = cluster.get("statefulset", store, STORES)
    return found is not None and found["status"].get("readyReplicas") == found["spec"]["replicas"] == 1


def unready(cluster: Cluster) -> list[str]:
    return [pod["metadata"]["name"] for name in SERVICES for pod in cluster.pods(name) if not is_ready(pod)]


@contextlib.asynccontextmanager
async def away(cluster: Cluster, store: str) -> AsyncIterator[None]:
    """Scale the store to zero during the block; afterwards waits until it is ready again."""
    scale = ("scale", f"statefulset/{store}", "--namespace", STORES)
    cluster.kubectl(*scale, "--replicas=0")
    try:
        selector = f"app.kubernetes.io/name={store}"
        await until(lambda: not cluster.all("pod", STORES, selector), what=f"the pod of {store} to go")
        yield
    finally:
        cluster.kubectl(*scale, "--replicas=1")
        await until(lambda: store_is_ready(cluster, store), what=f"{store} to be ready")


async def assert_well(scene: Scene) -> None:
    async def well() -> bool:
        try:
            await assert_outage_stays_where_it_is(scene, None, register=False)
        except AssertionError:
            return False
        return True

    await until(well, what="all use cases to work")


@pytest.mark.sample(1, "stores")
@pytest.mark.parametrize("store", STATEFUL_SETS)
async def test_store_scaled_to_zero_stops_only_what_needs_it_and_keeps_its_data(
    cluster: Cluster, person: Person, video: str, store: str
) -> None:
    scene, before = Scene(person, video), claims(cluster)
    await assert_well(scene)
    async with away(cluster, STATEFUL_SETS[store]):
        end = time.monotonic() + AWAY_SECONDS
        await assert_outage_stays_where_it_is(scene, store)
        while time.monotonic() < end:
            await assert_outage_stays_where_it_is(scene, store, register=False)
            assert not unready(cluster), "a service left the load balancer"
    assert claims(cluster) == before
    await assert_well(scene)


@pytest.mark.sample(1, "stores")
@pytest.mark.parametrize("store", ["postgres", "mongo"])
async def test_store_that_lost_its_volume_is_provisioned_and_migrated_again(
    cluster: Cluster, clip: Callable[[str], Clip], store: str
) -> None:
    """Its data is lost, but the platform works for new users."""
    (volume,) = (name for name in claims(cluster) if name.startswith(f"data-{store}"))
    async with away(cluster, store):
        cluster.kubectl("delete", "pvc", volume, "--namespace", STORES)
    job = f"{store}-provision-now"  # like its schedule, every five minutes
    cluster.kubectl("create", "job", job, f"--from=cronjob/{store}-provision", "--namespace", STORES)

    async def newcomer_is_served() -> bool:
        with contextlib.suppress(AssertionError, httpx.HTTPError):
            async with register(cluster.gateway) as person:
                video = await person.upload(clip("short").path)
                if (await person.outcome(video))["state"] != "ready":
                    return False
                listed = await person.get(f"/media/{video}")
                return listed.status_code == 200 and listed.json()["state"] == "ready"
        return False

    try:
        await until(newcomer_is_served, what=f"a newcomer to be served after {store} lost its volume")
    finally:
        cluster.kubectl("delete", "job", job, "--namespace", STORES)
