"""A user's client: sign-in, tus uploads, progress and playback, all through the gateway."""

import base64
import contextlib
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

GATEWAY = "http://localhost:8080"
TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = 1 << 20


class Broken(Exception):
    """The connection was broken on purpose."""


@dataclass
class Person:
    http: httpx.AsyncClient
    id: str
    username: str
    email: str
    password: str
    tokens: dict[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens['access_token']}"}

    async def refresh(self) -> None:
        """Get fresh tokens."""
        answer = await self.http.post("/auth/refresh", json={"refresh_token": self.tokens["refresh_token"]})
        assert answer.status_code == 200, answer.text
        self.tokens = answer.json()

    async def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return await self.http.get(path, headers=self.headers, **kwargs)

    async def patch(self, path: str, body: Any) -> httpx.Response:
        return await self.http.patch(path, headers=self.headers, json=body)

    async def delete(self, path: str, body: Any = None) -> httpx.Response:
        return await self.http.request("DELETE", path, headers=self.headers, json=body)

    async def graphql(self, query: str, variables: dict[str, Any] | None = None) -> Any:
        answer = await self.http.post(
            "/graphql", headers=self.headers, json={"query": query, "variables": variables or {}}
        )
        body = answer.json()
        assert not body.get("errors"), body
        return body["data"]

    async def create(self, name: str, size: int, **metadata: str) -> httpx.Response:
        """A tus creation request; returns the response, whatever its status."""
        return await self._create({"Upload-Length": str(size)}, name, metadata)

    async def create_partial(self, size: int) -> httpx.Response:
        """As create, for a partial upload."""
        length = {"Upload-Length": str(size), "Upload-Concat": "partial"}
        return await self.http.post("/video/upload", headers={**self.headers, **TUS, **length})

    async def concatenate(self, name: str, parts: Sequence[str], **metadata: str) -> httpx.Response:
        """As create, for the final upload that concatenates partial ones, given by their locations."""
        return await self._create({"Upload-Concat": "final;" + " ".join(parts)}, name, metadata)

    async def _create(self, headers: dict[str, str], name: str, metadata: dict[str, str]) -> httpx.Response:
        values = {"filename": name, "visibility": "public", **metadata}
        encoded = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())
        return await self.http.post(
            "/video/upload", headers={**self.headers, **TUS, **headers, "Upload-Metadata": encoded}
        )

    async def send(self, location: str, path: Path, *, offset: int = 0, cut_at: int | None = None) -> httpx.Response:
        """Send the bytes from ``offset``. Raises Broken at ``cut_at``, after breaking the connection."""

        async def body() -> AsyncIterator[bytes]:
            position = offset
            with path.open("rb") as file:
                file.seek(offset)
                while chunk := file.read(CHUNK):
                    if cut_at is not None and position + len(chunk) > cut_at:
                        raise Broken
                    yield chunk
                    position += len(chunk)

        return await self.http.patch(
            location,
            headers={
                **self.headers,
                **TUS,
                "Upload-Offset": str(offset),
                "Content-Type": "application/offset+octet-stream",
                "Content-Length": str(path.stat().st_size - offset),
            },
            content=body(),
        )

    async def offset(self, location: str) -> int:
        answer = await self.http.head(location, headers={**self.headers, **TUS})
        answer.raise_for_status()
        return int(answer.headers["Upload-Offset"])

    async def upload(self, path: Path, **metadata: str) -> str:
        """Upload a file; returns the id of the new video."""
        created = await self.create(path.name, path.stat().st_size, **metadata)
        assert created.status_code == 201, created.text
        if path.stat().st_size:
            sent = await self.send(created.headers["location"], path)
            assert sent.status_code == 204, sent.text
        return video_id(created.headers["location"])

    async def follow(self, video: str) -> AsyncGenerator[dict[str, Any], None]:
        """The progress of a video by server-sent events, until the final state."""
        path = f"/video/{video}/progress"
        async with self.http.stream("GET", path, headers=self.headers, timeout=300) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    async def outcome(self, video: str) -> dict[str, Any]:
        """The final state of a video: ready, failed or deleted."""
        return [progress async for progress in self.follow(video)][-1]


def global_id(kind: str, uuid: str) -> str:
    """The id in GraphQL, which clients do not make: they get it from a query. Tests know more."""
    return base64.b64encode(f"{kind}:{uuid}".encode()).decode()


def video_id(location: str) -> str:
    return location.rpartition("/")[2].partition("+")[0]


@contextlib.asynccontextmanager
async def register(gateway: str = GATEWAY) -> AsyncIterator[Person]:
    """A new signed-in account; deleted afterwards with everything that it owns."""
    name, password = f"e2e-{secrets.token_hex(6)}", secrets.token_urlsafe(16)
    async with httpx.AsyncClient(base_url=gateway, timeout=60) as http:
        account = {"username": name, "email": f"{name}@example.org", "password": password}
        profile = await http.post("/auth/register", json=account)
        assert profile.status_code == 201, profile.text
        tokens = await http.post("/auth/login", json={"login": name, "password": password})
        assert tokens.status_code == 200, tokens.text
        person = Person(http, profile.json()["id"], name, account["email"], password, tokens.json())
        try:
            yield person
        finally:
            with contextlib.suppress(httpx.HTTPError):
                await person.delete("/user/profile", {"current_password": password})
