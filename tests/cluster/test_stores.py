"""What people do to stores for a moment's maintenance, and what must be there afterwards."""

from __future__ import annotations

from client import Person
from live import STORES, Cluster, until


def store_is_ready(cluster: Cluster, store: str) -> bool:
    found = cluster.get("statefulset", store, STORES)
    return found is not None and found["status"].get("readyReplicas") == found["spec"]["replicas"] == 1


async def test_a_store_that_is_scaled_to_nothing_and_back_keeps_its_data(cluster: Cluster, person: Person) -> None:
    claims = {each["metadata"]["name"]: each["metadata"]["uid"] for each in cluster.all("pvc", STORES)}
    cluster.kubectl("scale", "statefulset/postgres", "--replicas=0", "--namespace", STORES)
    await until(
        lambda: not cluster.all("pod", STORES, "app.kubernetes.io/name=postgres"), what="the pod of postgres to go"
    )
    cluster.kubectl("scale", "statefulset/postgres", "--replicas=1", "--namespace", STORES)
    await until(lambda: store_is_ready(cluster, "postgres"), what="postgres to be ready")
    assert {each["metadata"]["name"]: each["metadata"]["uid"] for each in cluster.all("pvc", STORES)} == claims

    async def knows_the_account() -> bool:
        return (await person.get("/user/profile")).status_code == 200

    await until(knows_the_account, what="auth to know the account")
