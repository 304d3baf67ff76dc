"""A steady load, as people make it: they read, write and upload through the gateway, and note everything that fails."""

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

# Bounded, also if nobody stops it: so many requests of each kind, one after another, with a pause between them.
MOST_REQUESTS = 20_000
PAUSE_SECONDS = 0.05
UPLOAD_CHUNK_BYTES = 256 << 10
UPLOAD_TRIES = 50

ME = {"query": "{ me { user { id username } } }"}


@dataclass
class Load:
    answers: Counter[str] = field(default_factory=Counter)
    """Kind of request -> how many were answered as they should be."""
    failures: list[str] = field(default_factory=list)

    async def repeat(self, kind: str, ask: Callable[[], Coroutine[Any, Any, httpx.Response]]) -> None:
        for _ in range(MOST_REQUESTS):
            try:
                answer = await ask()
                if answer.status_code < 400 and "errors" not in answer.text[:20]:
                    self.answers[kind] += 1
                else:
                    self.failures.append(f"{kind}: {answer.status_code} {answer.text[:200]}")
            except httpx.HTTPError as error:
                self.failures.append(f"{kind}: {error!r}")
            await asyncio.sleep(PAUSE_SECONDS)


@contextlib.asynccontextmanager
async def load(person: Person, video: str, *, once: bool) -> AsyncIterator[Load]:
    """While the block runs, ``person`` uses the platform; ``video`` is one of theirs, ready to play.

    ``once``: also what may not be asked twice, so that whoever carries it cannot repeat it when a connection breaks.
    """
    running = Load()
    count = itertools.count()
    stream = (await person.get(f"/video/{video}")).json()["stream_url"]
    kinds: dict[str, Callable[[], Coroutine[Any, Any, httpx.Response]]] = {
        "profile": lambda: person.get("/user/profile"),
        "keys": lambda: person.http.get("/auth/.well-known/jwks.json"),
        "media": lambda: person.get(f"/media/{video}"),
        "video": lambda: person.get(f"/video/{video}"),
        "playlist": lambda: person.http.get(stream),
    }
    if once:
        kinds |= {
            "edit": lambda: person.patch(f"/media/{video}", {"title": f"title {next(count)}"}),
            "graphql": lambda: person.http.post("/graphql", headers=person.headers, json=ME),
        }
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(running.repeat(kind, ask)) for kind, ask in kinds.items()]
        try:
            yield running
        finally:
            for task in tasks:
                task.cancel()


async def upload_slowly(person: Person, path: Path, pause_seconds: float) -> str:
    """Upload in small chunks as a tus client does: what broke is asked for and sent again. The id of the video.

    Raises AssertionError when it does not get on in so many tries.
    """
    content = path.read_bytes()
    created = await person.create(path.name, len(content))
    assert created.status_code == 201, created.text
    location, offset, tries = created.headers["location"], 0, 0
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
            assert tries < UPLOAD_TRIES, f"{location} does not go on at {offset} of {len(content)} bytes"
            await asyncio.sleep(pause_seconds)
            with contextlib.suppress(httpx.HTTPError):
                offset = await person.offset(location)
        await asyncio.sleep(pause_seconds)
    return video_id(location)
