"""A steady user load: reads, writes and uploads through the gateway, with a record of every failure."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from client import TUS, Person, video_id

# Bounded, even if nobody stops it: at most this many sequential requests of each kind, with pauses between them.
MOST_REQUESTS = 20_000
PAUSE_SECONDS = 0.05
# Password hashing is expensive on purpose.
LOGIN_PAUSE_SECONDS = 1
UPLOAD_CHUNK_BYTES = 256 << 10
UPLOAD_PAUSE_SECONDS = 0.5
UPLOAD_TRIES = 100
MOST_UPLOADS = 200
# Often enough that the person's own session is among the 100 most recently used, beyond which a login ends the others.
REFRESH_SECONDS = 60

ME = {"query": "{ me { user { id username } } }"}
DESCRIBE = """
    mutation ($id: ID!, $text: String!) {
      answer: updateMedia(id: $id, input: {description: $text}) {
        ... on UpdateMediaPayload { media { description } }
        ... on Problem { code message }
      }
    }
"""


def describe(video: str, number: int) -> dict[str, Any]:
    return {"query": DESCRIBE, "variables": {"id": video, "text": f"description {number}"}}


@dataclass
class Load:
    answers: Counter[str] = field(default_factory=Counter)
    """Kind of request -> the number of correct responses."""
    failures: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    """The ids of the uploaded videos; an upload was in progress at all times."""

    async def repeat(self, kind: str, ask: Callable[[], Coroutine[Any, Any, httpx.Response]]) -> None:
        for _ in range(MOST_REQUESTS):
            try:
                answer = await ask()
                if answer.status_code < 400 and '"errors"' not in answer.text and '"code"' not in answer.text:
                    self.answers[kind] += 1
                else:
                    self.failures.append(f"{kind}: {answer.status_code} {answer.text[:500]}")
            except httpx.HTTPError as error:
                self.failures.append(f"{kind}: {error!r}")
            await asyncio.sleep(PAUSE_SECONDS)


@contextlib.asynccontextmanager
async def load(person: Person, video: str, clip: Path) -> AsyncIterator[Load]:
    """During the block, ``person`` uses their own ``video`` and uploads ``clip`` repeatedly."""
    running = Load()
    count = itertools.count()
    ended = asyncio.Event()
    stream = (await person.get(f"/video/{video}")).json()["stream_url"]

    async def sign_in() -> httpx.Response:
        await asyncio.sleep(LOGIN_PAUSE_SECONDS)
        return await person.http.post("/auth/login", json={"login": person.username, "password": person.password})

    kinds: dict[str, Callable[[], Coroutine[Any, Any, httpx.Response]]] = {
        "profile": lambda: person.get("/user/profile"),
        "keys": lambda: person.http.get("/auth/.well-known/jwks.json"),
        "media": lambda: person.get(f"/media/{video}"),
        "video": lambda: person.get(f"/video/{video}"),
        "playlist": lambda: person.http.get(stream),
        "login": sign_in,
        "edit": lambda: person.patch(f"/media/{video}", {"title": f"title {next(count)}"}),
        "query": lambda: person.http.post("/graphql", headers=person.headers, json=ME),
        "mutation": lambda: person.http.post("/graphql", headers=person.headers, json=describe(video, next(count))),
    }

    async def upload() -> None:
        for _ in range(MOST_UPLOADS):
            running.uploads.append(await upload_slowly(person, clip))
            if ended.is_set():
                return

    async def stay_signed_in() -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            answer = await person.http.post("/auth/refresh", json={"refresh_token": person.tokens["refresh_token"]})
            person.tokens = answer.raise_for_status().json()

    async with asyncio.TaskGroup() as group:
        group.create_task(upload())
        tasks = [group.create_task(running.repeat(kind, ask)) for kind, ask in kinds.items()]
        tasks.append(group.create_task(stay_signed_in()))
        try:
            yield running
        finally:
            ended.set()
            for task in tasks:
                task.cancel()


async def upload_slowly(person: Person, path: Path) -> str:
    """Upload in small chunks and resume after errors, like a tus client. Returns the video's id.

    Raises AssertionError if there is no progress after many attempts.
    """
    content = path.read_bytes()
    location, offset, tries = "", 0, 0
    while True:  # an upload whose creation response was lost expires by itself
        try:
            created = await person.create(path.name, len(content))
            if location := created.headers.get("location", ""):
                break
            said = created.text
        except httpx.HTTPError as error:
            said = repr(error)
        tries += 1
        assert tries < UPLOAD_TRIES, said
        await asyncio.sleep(UPLOAD_PAUSE_SECONDS)
    while offset < len(content):
        headers = {**person.headers, **TUS, "Upload-Offset": str(offset)}
        chunk = content[offset : offset + UPLOAD_CHUNK_BYTES]
        try:
            answer = await person.http.patch(
                location, headers={**headers, "Content-Type": "application/offset+octet-stream"}, content=chunk
            )
            answer.raise_for_status()
            offset = int(answer.headers["Upload-Offset"])
        except httpx.HTTPError:
            tries += 1
            assert tries < UPLOAD_TRIES, f"{location} is stuck at {offset} of {len(content)} bytes"
            await asyncio.sleep(UPLOAD_PAUSE_SECONDS)
            with contextlib.suppress(httpx.HTTPError):
                offset = await person.offset(location)
        await asyncio.sleep(UPLOAD_PAUSE_SECONDS)
    return video_id(location)
