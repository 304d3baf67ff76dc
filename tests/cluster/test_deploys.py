"""From a push to a running pod, and everything that must be stopped on the way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest
import yaml
from client import Person
from clips import Clip
from live import APPS, ENVIRONMENT, GITOPS, STORES, Cluster, is_ready, until, version_file
from load import load

# Each takes a minute or more.
sampled = pytest.mark.sample(3, "deploys")
VALUES = f"apps/graphql/deploy/envs/{ENVIRONMENT}/values.yaml"


async def test_pushed_version_is_rolled_out(cluster: Cluster, version: Callable[[str], str], person: Person) -> None:
    new = version("graphql")
    with cluster.pushed({version_file("graphql"): f"version: {new}\n"}, f"Roll out graphql {new}") as commit:
        seconds = await until(
            lambda: cluster.is_synced("graphql", commit) and cluster.images("graphql") == {new},
            what=f"graphql {new} to be rolled out",
        )
        print(f"\nA pushed version answered after {seconds:.0f} s.")
        assert (await person.graphql("{ me { uuid } }"))["me"]["uuid"] == person.id
    await back(cluster, "graphql")


@sampled
async def test_promotion_is_rolled_out(cluster: Cluster, version: Callable[[str], str]) -> None:
    new = version("media")
    tried = cluster.clone / "apps/media/deploy/envs/dev/version.yaml"
    tried.write_text(f"version: {new}\n")
    cluster.push(f"Try media {new} in dev")
    promote(cluster, "media", "dev", ENVIRONMENT)
    assert cluster.git("status", "--porcelain") == f"M {version_file('media')}"
    commit = cluster.push(f"Promote media {new}")
    seconds = await until(
        lambda: cluster.is_synced("media", commit) and cluster.images("media") == {new}, what=f"media {new}"
    )
    print(f"\nA promoted version answered after {seconds:.0f} s.")
    for revert in (commit, f"{commit}~1"):
        cluster.git("revert", "--no-edit", revert)
    cluster.git("push", "--quiet", "origin", "HEAD")
    await back(cluster, "media")


@sampled
async def test_version_that_never_becomes_ready_gets_no_traffic_and_can_be_reverted(
    cluster: Cluster, version: Callable[..., str], person: Person, video: str, clip: Callable[[str], Clip]
) -> None:
    old = cluster.images("graphql")
    broken = version("graphql", of="auth")  # an image without this program
    async with load(person, video, clip("short").path) as running:
        with cluster.pushed({version_file("graphql"): f"version: {broken}\n"}, "Roll out a version that cannot start"):
            await until(lambda: restarts(cluster, "graphql", broken) > 0, what="the new version to fail")
            endpoints = addresses(cluster, "graphql")
            assert endpoints
            assert not endpoints & {pod["status"].get("podIP") for pod in cluster.pods("graphql") if not is_ready(pod)}
            assert cluster.images("graphql") == old
            assert cluster.application("graphql")["health"]["status"] != "Healthy"
        await back(cluster, "graphql")
    assert running.failures == []
    assert running.answers["query"] > 20


@sampled
async def test_failed_migration_stops_the_rollout_and_keeps_the_old_version(
    cluster: Cluster, version: Callable[..., str], person: Person, video: str, clip: Callable[[str], Clip]
) -> None:
    old = cluster.get("deployment", "auth")
    assert old is not None
    broken = version("auth", of="media")  # an image without auth's migrations
    async with load(person, video, clip("short").path) as running:
        with cluster.pushed({version_file("auth"): f"version: {broken}\n"}, "Roll out a failing migration") as commit:
            await until(lambda: sync_failed(cluster, "auth", commit), what="the migration to fail")
            now = cluster.get("deployment", "auth")
            assert now is not None
            assert now["spec"]["template"] == old["spec"]["template"]
        await back(cluster, "auth")
    assert running.failures == []


@sampled
async def test_missing_image_fails_within_seconds_and_next_push_is_synced(cluster: Cluster) -> None:
    old = cluster.get("deployment", "auth")
    assert old is not None
    missing = f"{cluster.version('auth')}-missing"
    with cluster.pushed({version_file("auth"): f"version: {missing}\n"}, "Roll out a missing image") as commit:
        failed = await until(lambda: sync_failed(cluster, "auth", commit), what="the sync to fail")
        now = cluster.get("deployment", "auth")
        assert now is not None
        assert now["spec"]["template"] == old["spec"]["template"]
    # Much less than the deadline of the migration, which would wait for its image.
    reverted = await until(
        lambda: cluster.is_synced("auth", cluster.head()), what="the revert to be rolled out", seconds=120
    )
    print(f"\nThe sync failed after {failed:.0f} s; the revert was rolled out after {reverted:.0f} s.")


@sampled
async def test_invalid_yaml_blocks_one_service_and_its_fix_is_synced(
    cluster: Cluster, version: Callable[[str], str]
) -> None:
    new = version("graphql")
    with cluster.pushed({version_file("media"): "version: [\n"}, "Break the version of media"):
        await until(lambda: complaints(cluster, "media") != [], what="Argo CD to reject the file")
        with cluster.pushed({version_file("graphql"): f"version: {new}\n"}, f"Roll out graphql {new}") as commit:
            await until(
                lambda: cluster.is_synced("graphql", commit) and cluster.images("graphql") == {new},
                what="another service to be rolled out",
            )
    seconds = await until(
        lambda: cluster.is_synced("media", cluster.head()), what="the correction to be rolled out", seconds=120
    )
    print(f"\nThe correction was rolled out after {seconds:.0f} s.")
    await back(cluster, "graphql")


def test_push_that_removes_several_services_is_rejected(cluster: Cluster) -> None:
    for app in cluster.apps():
        envs = f"apps/{app}/deploy/envs"
        cluster.git("mv", f"{envs}/{ENVIRONMENT}", f"{envs}/{ENVIRONMENT}-renamed")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        cluster.push("Rename a folder by mistake")
    assert f"would remove several services from {ENVIRONMENT}: auth graphql media video" in refused.value.stderr
    cluster.git("reset", "--quiet", "--hard", "@{upstream}")


@sampled
async def test_invalid_values_never_reach_the_cluster(cluster: Cluster) -> None:
    before = cluster.get("deployment", "graphql")
    assert before is not None
    values = cluster.clone / VALUES
    wrong = {**(yaml.safe_load(values.read_text()) if values.exists() else {}), "workload": {"graphql": {}}}
    with cluster.pushed({VALUES: yaml.safe_dump(wrong)}, "Misspell a key"):
        await until(
            lambda: any("workload" in sentence for sentence in complaints(cluster, "graphql")),
            what="Argo CD to reject the values and name the key",
        )
        after = cluster.get("deployment", "graphql")
        assert after is not None
        assert after["metadata"]["generation"] == before["metadata"]["generation"]
    await back(cluster, "graphql")


@sampled
async def test_manual_change_is_reverted(cluster: Cluster) -> None:
    """For fields that git sets; fields that others add are left alone."""
    before = cluster.get("deployment", "graphql")
    assert before is not None
    cluster.kubectl("scale", "deployment/graphql", "--replicas=1", "--namespace", APPS)
    cluster.kubectl("set", "env", "deployment/graphql", "KINORA_AUTH_GRPC=nowhere:1", "--namespace", APPS)

    def is_put_back() -> bool:
        now = cluster.get("deployment", "graphql")
        assert now is not None
        return bool(now["spec"] == before["spec"])

    await until(is_put_back, what="replicas and variable to be reverted")
    await until(lambda: cluster.is_rolled_out("graphql"), what="graphql to run")


@sampled
async def test_deleted_deployment_is_recreated(cluster: Cluster) -> None:
    before = cluster.get("deployment", "media")
    assert before is not None
    cluster.kubectl("delete", "deployment", "media", "--namespace", APPS)

    def is_back() -> bool:
        now = cluster.get("deployment", "media")
        return now is not None and now["metadata"]["uid"] != before["metadata"]["uid"]

    await until(is_back, what="the deployment to come back")
    await until(lambda: cluster.is_rolled_out("media"), what="media to run")


@sampled
async def test_removed_service_runs_until_its_application_is_deleted(cluster: Cluster) -> None:
    """Also if a mistake in argocd/services.yaml hides its folder. Its objects are pruned then; stores never are."""
    stores = {each["metadata"]["name"]: each["metadata"]["uid"] for each in cluster.all("statefulset", STORES)}
    claims = {each["metadata"]["name"]: each["metadata"]["uid"] for each in cluster.all("pvc", STORES)}
    assert {"postgres", "mongo", "redis", "rabbitmq", "s3"} <= stores.keys()
    folder = cluster.clone / "apps/graphql/deploy/envs" / ENVIRONMENT
    removed = {str(file.relative_to(cluster.clone)): None for file in folder.iterdir()}
    with cluster.pushed(removed, "Remove graphql"):
        await until(lambda: complaints(cluster, "graphql") != [], what="Argo CD to report that its values are gone")
        assert cluster.is_rolled_out("graphql")
        cluster.kubectl("delete", "application", "graphql", "--namespace", GITOPS)
        for kind in ("deployment", "service", "networkpolicy", "ingressroute", "serviceaccount"):
            await until(lambda kind=kind: cluster.get(kind, "graphql") is None, what=f"its {kind} to go")  # type: ignore[misc]
        assert (await gateway_status(cluster, "/graphql")) == 404
    await back(cluster, "graphql")
    assert {each["metadata"]["name"]: each["metadata"]["uid"] for each in cluster.all("statefulset", STORES)} == stores
    assert {each["metadata"]["name"]: each["metadata"]["uid"] for each in cluster.all("pvc", STORES)} == claims


def test_argocd_has_no_permission_on_stores(cluster: Cluster) -> None:
    controller = f"--as=system:serviceaccount:{GITOPS}:argocd-application-controller"
    for verb in ("create", "delete", "patch", "update"):
        for kind in ("statefulset", "persistentvolumeclaim", "secret", "pod"):
            with_no = subprocess.run(
                [*cluster.kubectl_command, "auth", "can-i", verb, kind, "--namespace", STORES, controller],
                capture_output=True,
                text=True,
                check=False,
            )
            assert with_no.stdout.strip() == "no", f"{verb} {kind}: {with_no.stdout}{with_no.stderr}"


async def back(cluster: Cluster, app: str) -> None:
    """Wait until an app is synced to the head of the branch."""
    await until(lambda: cluster.is_synced(app, cluster.head()), what=f"{app} to be rolled back")
    await until(lambda: all(map(cluster.is_rolled_out, cluster.workloads(app))), what=f"{app} to run")


def promote(cluster: Cluster, app: str, source: str, target: str) -> None:
    subprocess.run(
        [sys.executable, "local/promote.py", app, source, target], cwd=cluster.clone, check=True, capture_output=True
    )


def restarts(cluster: Cluster, workload: str, version: str) -> int:
    return sum(
        status["restartCount"]
        for pod in cluster.pods(workload)
        if any(each["image"].endswith(f":{version}") for each in pod["spec"]["containers"])
        for status in pod["status"].get("containerStatuses", [])
    )


def addresses(cluster: Cluster, service: str) -> set[str]:
    """The addresses of a service's endpoints."""
    slices = cluster.all("endpointslice", selector=f"kubernetes.io/service-name={service}")
    return {
        address
        for each in slices
        for endpoint in each["endpoints"] or []
        if endpoint["conditions"].get("ready")
        for address in endpoint["addresses"]
    }


def sync_failed(cluster: Cluster, app: str, commit: str) -> bool:
    operation = cluster.application(app).get("operationState", {})
    return operation.get("phase") in ("Failed", "Error") or (
        operation.get("phase") == "Running"
        and operation.get("retryCount", 0) > 0
        and operation.get("operation", {}).get("sync", {}).get("revision") == commit
    )


def complaints(cluster: Cluster, app: str) -> list[str]:
    return [each["message"] for each in cluster.application(app).get("conditions", [])]


async def gateway_status(cluster: Cluster, path: str) -> int:
    return (await asyncio.to_thread(httpx.get, f"{cluster.gateway}{path}")).status_code
