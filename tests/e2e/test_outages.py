"""During a store's outage, everything that does not need it works, services stay ready, and errors name the cause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import ctl
import httpx
import pytest
from client import Person, register
from clips import Clip
from outages import USE_CASES, Scene, assert_outage_stays_where_it_is, is_problem

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

SERVICES = {"auth": 8101, "media": 8102, "video": 8103, "graphql": 8105, "video-worker": 8113}
# The process of each store, by its dependency name, and the services that use it.
STORES = {
    "postgres": ("postgres", {"auth", "video", "video-worker"}),
    "mongo": ("mongo", {"media"}),
    "redis": ("redis", {"auth", "media", "video", "graphql"}),
    "rabbitmq": ("rabbitmq", {"auth", "media", "video", "graphql", "video-worker"}),
    "object_store": ("minio", {"video", "video-worker"}),
}


@pytest.fixture(scope="module")
async def scene(clip: Callable[[str], Clip]) -> AsyncIterator[Scene]:
    async with register() as person:
        video = await person.upload(clip("short").path)
        assert (await person.outcome(video))["state"] == "ready"

        async def listed() -> bool:
            return bool((await person.get(f"/media/{video}")).json().get("state") == "ready")

        await until(listed, what="the catalogue to be updated")
        yield Scene(person, video)


async def readyz(service: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
        return await http.get(f"http://127.0.0.1:{SERVICES[service]}/readyz")


async def reported(service: str) -> dict[str, str]:
    """The unavailable dependencies of a service, with the reported problem."""
    dependencies: dict[str, str] = (await readyz(service)).json()["dependencies"]
    return {name: said for name, said in dependencies.items() if said != "ok"}


async def recovered(process: str) -> bool:
    """Whether the process answers, and all services reach all their dependencies."""
    try:
        if any([await reported(service) for service in SERVICES]):
            return False
    except httpx.HTTPError:
        return False
    return not await asyncio.to_thread(lambda: ctl.trouble(process, ctl.processes()[process]))


@asynccontextmanager
async def stopped(process: str) -> AsyncIterator[None]:
    """Stop one process for a while; afterwards, waits until all services have recovered."""
    await asyncio.to_thread(ctl.stop, [process])
    try:
        yield
    finally:
        await asyncio.to_thread(ctl.start, [process])
        await until(lambda: recovered(process), what=f"all services to recover after {process} came back")


@pytest.mark.parametrize("store", STORES)
async def test_store_outage_stops_only_what_needs_the_store(scene: Scene, store: str) -> None:
    process, users = STORES[store]
    async with stopped(process):
        await assert_outage_stays_where_it_is(scene, store)

        async def named() -> bool:
            return {service for service in SERVICES if store in await reported(service)} == users

        await until(named, what=f"{users} to report {store}")
        assert {(await readyz(service)).status_code for service in SERVICES} == {200}
        infos = ctl.processes()
        said: dict[str, Any] = ctl.troubles(SERVICES, infos)
        assert {service for service, what in said.items() if store in what} == users, "reported by `make status`"
        await assert_outage_stays_where_it_is(scene, store)
    await assert_outage_stays_where_it_is(scene, None)


async def test_ended_session_stays_ended_without_redis(person: Person) -> None:
    login = {"login": person.username, "password": person.password}
    other = (await person.http.post("/auth/login", json=login)).json()["access_token"]
    headers = {"Authorization": f"Bearer {other}"}
    assert (await person.http.post("/auth/logout", headers=headers)).status_code == 204
    query = {"query": "{ me { email } }"}
    async with stopped("redis"):
        for _ in range(3):
            assert (await person.http.get("/user/profile", headers=headers)).status_code == 401
            asked = await person.http.post("/graphql", headers=headers, json=query)
            assert asked.json()["errors"][0]["extensions"]["code"] == "invalid_token"
        assert (await person.get("/user/profile")).status_code == 200
        living = await person.http.post("/auth/logout", headers=person.headers)
        assert (living.status_code, living.json()["code"]) == (503, "unavailable"), "it cannot be enforced yet"


async def begin_upload(scene: Scene) -> httpx.Response:
    return await scene.person.create("clip.mp4", 10)


# Requests that each process serves, or that depend on it through ForwardAuth.
AWAY: dict[str, list[Callable[[Scene], Awaitable[httpx.Response]]]] = {
    "auth": [USE_CASES["own profile"].ask, USE_CASES["read it signed in"].ask, USE_CASES["sign in"].ask, begin_upload],
    "media": [USE_CASES["read the catalogue"].ask],
    "video": [USE_CASES["playlist"].ask, USE_CASES["segment"].ask, begin_upload],
    "graphql": [lambda scene: scene.person.http.post("/graphql", json={"query": "{ __typename }"})],
    "tusd": [begin_upload],
}


@pytest.mark.parametrize("process", AWAY)
async def test_service_outage_is_answered_with_503_and_a_problem(scene: Scene, process: str) -> None:
    async with stopped(process):
        for ask in AWAY[process]:
            answer = await ask(scene)
            assert is_problem(answer), (process, answer.status_code, answer.headers, answer.text)
    for ask in AWAY[process]:
        answer = await ask(scene)
        assert answer.is_success, (process, answer.status_code, answer.headers, answer.text)


async def test_upload_without_the_object_store_is_answered_with_503_and_a_problem(scene: Scene) -> None:
    """tusd's own response is a 500 that quotes the store's address."""
    async with stopped("minio"):
        answer = await begin_upload(scene)
        assert is_problem(answer), (answer.status_code, answer.headers, answer.text)
        assert answer.headers["tus-resumable"] == "1.0.0"
        assert "8900" not in answer.text
    assert (await begin_upload(scene)).is_success
