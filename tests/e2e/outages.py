"""Use cases and the stores that they need, to test that an outage affects nothing else, natively and in a cluster.

Uses only the gateway; the caller stops the store.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
from client import Person, global_id

# Longer than any driver's timeout for an unresponsive store.
ANSWER_SECONDS = 8

Store = str
"""postgres, mongo, redis, rabbitmq, object_store."""


@dataclass(frozen=True)
class Scene:
    """A user with a public video that is ready."""

    person: Person
    video: str

    async def graphql(self, query: str) -> httpx.Response:
        body = {"query": query, "variables": {"id": global_id("Media", self.video)}}
        return await self.person.http.post("/graphql", headers=self.person.headers, json=body)

    async def progress(self) -> httpx.Response:
        """The first event of the stream."""
        path = f"/video/{self.video}/progress"
        async with self.person.http.stream("GET", path, headers=self.person.headers) as answer:
            if answer.status_code == 200:
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        return httpx.Response(200, text=line)
            await answer.aread()
            return answer

    @property
    def login(self) -> dict[str, str]:
        return {"login": self.person.username, "password": self.person.password}

    @property
    def newcomer(self) -> dict[str, str]:
        name = f"e2e-{secrets.token_hex(6)}"
        return {"username": name, "email": f"{name}@example.org", "password": secrets.token_urlsafe(16)}


@dataclass(frozen=True)
class UseCase:
    needs: frozenset[Store]
    """The stores that it needs: without one of them it must answer 503, without any other it must work."""
    ask: Callable[[Scene], Awaitable[httpx.Response]]


def needs(*stores: Store) -> Callable[[Callable[[Scene], Awaitable[httpx.Response]]], UseCase]:
    return lambda ask: UseCase(frozenset(stores), ask)


USE_CASES: dict[str, UseCase] = {
    "key set": needs()(lambda it: it.person.http.get("/auth/.well-known/jwks.json")),
    "who am I": needs()(lambda it: it.person.get("/user/token_verify")),
    "sign in": needs("postgres", "redis")(lambda it: it.person.http.post("/auth/login", json=it.login)),
    "register": needs("postgres", "redis")(lambda it: it.person.http.post("/auth/register", json=it.newcomer)),
    "own profile": needs("postgres")(lambda it: it.person.get("/user/profile")),
    "sessions": needs("postgres")(lambda it: it.person.get("/auth/sessions")),
    "read the catalogue": needs("mongo")(lambda it: it.person.http.get(f"/media/{it.video}")),
    "read it signed in": needs("mongo")(lambda it: it.person.get(f"/media/{it.video}")),
    "change a title": needs("mongo")(lambda it: it.person.patch(f"/media/{it.video}", {"title": "Another"})),
    "look at a video": needs("postgres")(lambda it: it.person.get(f"/video/{it.video}")),
    "playlist": needs("postgres")(lambda it: it.person.http.get(f"/video/{it.video}/master.m3u8")),
    "segment": needs("postgres", "object_store")(lambda it: it.person.http.get(f"/video/{it.video}/240p/init.mp4")),
    "progress": needs("postgres")(lambda it: it.progress()),
    "query the catalogue": needs("mongo")(lambda it: it.graphql("query ($id: ID!) { media(id: $id) { title } }")),
    "query oneself": needs("postgres")(lambda it: it.graphql("{ me { email } }")),
}


async def assert_outage_stays_where_it_is(scene: Scene, away: Store | None, *, register: bool = True) -> None:
    """Run all use cases concurrently while ``away`` is down: those that need it get 503, all others work.

    ``register``: also register an account, which is limited to 60 per hour and address.
    """
    cases = {name: use_case for name, use_case in USE_CASES.items() if register or name != "register"}
    asked = [_assert_held(name, use_case, scene, away) for name, use_case in cases.items()]
    troubles = [trouble for trouble in await asyncio.gather(*asked) if trouble]
    assert not troubles, f"without {away}: {troubles}"


async def _assert_held(name: str, use_case: UseCase, scene: Scene, away: Store | None) -> str:
    """The failure, or empty."""
    started = time.monotonic()
    answer = await use_case.ask(scene)
    seconds = time.monotonic() - started
    if seconds > ANSWER_SECONDS:
        return f"{name} took {seconds:.1f} s"
    if away in use_case.needs:
        wrong = not is_unavailable(answer)
    else:
        wrong = answer.status_code >= 400 or '"errors"' in answer.text
    return f"{name}: {answer.status_code} {answer.text[:300]}" if wrong else ""


def is_unavailable(answer: httpx.Response) -> bool:
    """Whether the response is a well-formed 503 for its protocol."""
    if answer.status_code == 200 and answer.request.url.path == "/graphql":
        return bool(answer.json().get("errors", [{}])[0].get("extensions", {}).get("code") == "unavailable")
    return is_problem(answer)


def is_problem(answer: httpx.Response) -> bool:
    """Whether it is 503 with a problem document and Retry-After."""
    return (
        answer.status_code == 503
        and answer.headers["content-type"] == "application/problem+json"
        and answer.json()["code"] == "unavailable"
        and int(answer.headers["retry-after"]) > 0
    )
