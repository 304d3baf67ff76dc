"""Services without pods: 503 with a problem document on every route, because the fallback has pods of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
from client import Person
from live import APPS, GITOPS, Cluster, until
from outages import USE_CASES, Scene, is_problem

AWAY = ("auth", "media", "video", "graphql", "tusd")
Ask = Callable[[], Awaitable[httpx.Response]]
CONTROLLER = "statefulset/argocd-application-controller"


@contextlib.asynccontextmanager
async def without_pods(cluster: Cluster, workloads: tuple[str, ...]) -> AsyncIterator[None]:
    """Within the block they have none; Argo CD, which would bring them back within a second, is stopped meanwhile."""
    cluster.kubectl("scale", CONTROLLER, "--replicas=0", "--namespace", GITOPS)
    try:
        await until(
            lambda: not cluster.all("pod", GITOPS, "app.kubernetes.io/name=argocd-application-controller"),
            what="Argo CD to stop",
        )
        deployments = [f"deployment/{each}" for each in workloads]
        cluster.kubectl("scale", *deployments, "--replicas=0", "--namespace", APPS)
        await until(lambda: not any(cluster.pods(each) for each in workloads), what="the pods to go")
        yield
    finally:
        cluster.kubectl("scale", CONTROLLER, "--replicas=1", "--namespace", GITOPS)
        await until(lambda: all(cluster.pods(each) for each in workloads), what="Argo CD to bring the pods back")
        await until(lambda: all(map(cluster.is_rolled_out, workloads)), what="the services to be rolled out")


async def test_services_without_pods_are_answered_with_503_and_a_problem(
    cluster: Cluster, person: Person, video: str
) -> None:
    scene = Scene(person, video)
    asked: dict[str, Ask] = {
        **{name: lambda case=case: case.ask(scene) for name, case in USE_CASES.items() if name != "register"},  # type: ignore[misc]
        "begin an upload": lambda: person.create("clip.mp4", 10),
        "an unknown path": lambda: person.get("/nothing"),
    }
    async with without_pods(cluster, AWAY):

        async def all_problems() -> bool:
            return all([is_problem(await ask()) for ask in asked.values()])

        await until(all_problems, what="every route to answer 503 with a problem document")

    async def signed_in() -> bool:
        renewed = await person.http.post("/auth/refresh", json={"refresh_token": person.tokens["refresh_token"]})
        if renewed.status_code == 200:
            person.tokens = renewed.json()
        return renewed.status_code == 200

    # The access token may have expired while the pods came back.
    await until(signed_in, what="auth to renew the tokens")
    for name, ask in asked.items():
        expected = 404 if name == "an unknown path" else 201 if name == "begin an upload" else 200

        async def as_before(name: str = name, ask: Ask = ask, expected: int = expected) -> bool:
            answer = await ask()
            print(name, answer.status_code, answer.text[:300])  # shown if it never answers
            return answer.status_code == expected

        await until(as_before, what=f"{name!r} to answer {expected} again")
