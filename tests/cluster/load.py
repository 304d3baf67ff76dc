"""A steady user load: reads, writes and uploads through the gateway, with a record of every failure."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from client import TUS, Person, global_id, video_id

# Bounded, even if nobody stops it: at most this many sequential requests of each kind, with pauses between them.
MOST_REQUESTS = 20_000
# Often enough to meet each moment of a rollout. More of them delay the pods that start on the same cores.
PAUSE_SECONDS = 0.2
# Password hashing is expensive on purpose.
LOGIN_PAUSE_SECONDS = 1
UPLOAD_CHUNK_BYTES = 128 << 10
# One upload is always in progress, but each has to be transcoded, too.
CHUNK_PAUSE_SECONDS = 1.5
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
    return {"query": DESCRIBE, "variables": {"id": global_id("Media", video), "text": f"description {number}"}}


@dataclass
class Load:
    answers: Counter[str] = field(default_factory=Counter)
    """Kind of request -> the number of correct responses; 0 for those without any."""
    failures: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    """The ids of the uploaded videos; an upload was in progress at all times. Every other one is concatenated."""

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

    running.answers.update(dict.fromkeys(kinds, 0))

    async def upload() -> None:
        for way in itertools.islice(itertools.cycle((upload_slowly, upload_in_parts)), MOST_UPLOADS):
            running.uploads.append(await way(person, clip))
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
    # An upload whose creation response was lost expires.
    created = await persist(lambda: person.create(path.name, len(content)))
    location = created.headers["Location"]
    await send_slowly(person, location, content)
    return video_id(location)


async def upload_in_parts(person: Person, path: Path) -> str:
    """As upload_slowly, in two parallel partial uploads and a final upload that concatenates them."""
    content, title = path.read_bytes(), f"concatenated {secrets.token_hex(6)}"
    half = len(content) // 2

    async def upload_part(part: bytes) -> str:
        created = await persist(lambda: person.create_partial(len(part)))
        location = str(created.headers["Location"])
        await send_slowly(person, location, part)
        return location

    parts = await asyncio.gather(upload_part(content[:half]), upload_part(content[half:]))
    final = await persist(lambda: person.concatenate(path.name, parts, title=title), accept=410)
    if final.status_code == 201:
        return video_id(final.headers["Location"])
    # The parts have been used: an earlier attempt succeeded, but its response was lost.
    assert final.json()["code"] == "upload_ended", final.text
    return await find(person, title)


async def find(person: Person, title: str) -> str:
    """The id of the person's new video of that title, once the catalogue has it."""
    for _ in range(UPLOAD_TRIES):
        listed = await persist(lambda: person.get(f"/media/users/{person.id}"))
        for item in listed.json()["items"]:
            if item["title"] == title:
                return str(item["id"])
        await asyncio.sleep(UPLOAD_PAUSE_SECONDS)
    raise AssertionError(f"the video {title} is lost")


async def persist(
    ask: Callable[[], Coroutine[Any, Any, httpx.Response]], *, accept: int | None = None
) -> httpx.Response:
    """Repeat a request until it succeeds, or the response has the status ``accept``."""
    said = ""
    for _ in range(UPLOAD_TRIES):
        try:
            answer = await ask()
            if answer.is_success or answer.status_code == accept:
                return answer
            said = answer.text
        except httpx.HTTPError as error:
            said = repr(error)
        await asyncio.sleep(UPLOAD_PAUSE_SECONDS)
    raise AssertionError(said)


async def send_slowly(person: Person, location: str, content: bytes) -> None:
    offset, tries = 0, 0
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
        await asyncio.sleep(CHUNK_PAUSE_SECONDS)
