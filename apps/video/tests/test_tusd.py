"""The size limit of uploads, with a real tusd that has a small limit and calls the hooks of this process."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn
from redis.asyncio import Redis

from kinora_kit.app import create_app
from kinora_kit.errors import DomainError, problem
from kinora_kit.health import Checks
from kinora_kit.identity import Caller, RemoteKeys, TokenVerifier
from kinora_kit.ids import new_id
from kinora_kit.streams import Seats
from kinora_kit.testing import eventually, free_port
from kinora_video import internal
from kinora_video.changes import Changes
from kinora_video.errors import TooManyUploads
from kinora_video.tus import parse_path
from kinora_video.wiring import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from conftest import Stage
    from kinora_video.settings import VideoSettings

ROOT = Path(__file__).parents[3]
UPLOADS = "uploads"
TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}
MAX_BYTES = 16 << 20
# Takes longer to send than it takes until a hook stops the upload; hooks are called every second.
ENDLESS_BYTES = 4 << 30
BLOCK = bytes(1 << 20)


@dataclass
class Sender:
    """Sends zeros, and counts them."""

    client: httpx.AsyncClient
    owner: Caller
    sent: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """With the owner's identity, as set by the gateway."""
        return {**self.owner.headers(), **TUS}

    async def create(self, **headers: str) -> str:
        """An upload of deferred length; returns its path."""
        made = await self.client.post("/video/upload/", headers={**self.headers, "Upload-Defer-Length": "1", **headers})
        assert made.status_code == 201, made.text
        return httpx.URL(made.headers["location"]).path

    async def send(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Send zeros until tusd closes the connection; returns its response."""
        return await asyncio.to_thread(self._send, path, {**self.headers, **BYTES, "Upload-Offset": "0", **headers})

    def _send(self, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        # Not httpx, which loses a response that arrives while it is still sending.
        connection = http.client.HTTPConnection(self.client.base_url.host, self.client.base_url.port, timeout=60)
        with contextlib.closing(connection):
            with contextlib.suppress(ConnectionError):
                connection.request("PATCH", path, headers=headers, body=self._zeros())
            with connection.getresponse() as response:
                return response.status, response.read()

    def _zeros(self) -> Iterator[bytes]:
        while self.sent < ENDLESS_BYTES:
            yield BLOCK
            self.sent += len(BLOCK)


@pytest.fixture(scope="module")
async def tusd(stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    """tusd with the platform's options, except for the port, the limit and the URL of the hooks."""
    port, hooks_port = free_port(), free_port()
    settings = stage.uploads.settings.model_copy(update={"http_port": hooks_port, "upload_max_bytes": MAX_BYTES})

    @contextlib.asynccontextmanager
    async def wire(_: VideoSettings) -> AsyncIterator[State]:
        # Hooks use no token.
        verifier = TokenVerifier(keys=RemoteKeys("http://127.0.0.1:1"), issuer="", revocations=Redis())
        uploads = replace(stage.uploads, settings=settings)
        followers = Seats("events", settings)
        yield State(Checks(), stage.watching, stage.videos, uploads, Changes(), followers, verifier)

    app = create_app(settings, wire, [internal.router])
    server = uvicorn.Server(uvicorn.Config(app, port=hooks_port, log_config=None))
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started, seconds=60)
    process = await asyncio.create_subprocess_exec(
        *(ROOT / "local/with-env", "tusd", "--", "local/tusd", f"-port={port}", f"-max-size={MAX_BYTES}"),
        f"-hooks-http=http://127.0.0.1:{hooks_port}/internal/tusd/hooks",
        cwd=ROOT,
    )

    def is_up() -> bool:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    await eventually(is_up, seconds=60)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        yield client
    process.terminate()
    await process.wait()
    server.should_exit = True
    await serving


@pytest.fixture
def sender(tusd: httpx.AsyncClient) -> Sender:
    return Sender(tusd, Caller(new_id()))


@pytest.mark.parametrize("concat", [{}, {"Upload-Concat": "partial"}], ids=["whole", "partial"])
async def test_upload_of_deferred_length_is_stopped_beyond_the_limit(
    stage: Stage, sender: Sender, concat: dict[str, str]
) -> None:
    path = await sender.create(**concat)
    upload_id = parse_path(path).id
    status, body = await sender.send(path, **{"Content-Length": str(ENDLESS_BYTES)})
    assert (status, json.loads(body)["code"]) == (413, "file_too_large")
    assert MAX_BYTES < sender.sent < ENDLESS_BYTES
    assert (await stage.upload(upload_id)).ended
    if not concat:
        assert (await stage.watching.progress(sender.owner, upload_id)).failure_code == "file_too_large"
    assert await stage.left(upload_id) == []
    assert await stage.objects.abort_uploads(UPLOADS, str(upload_id)) == 0, "the object store still has parts"


async def test_chunked_body_of_deferred_length_is_cut_off_at_the_limit(sender: Sender) -> None:
    path = await sender.create()
    status, _ = await sender.send(path)
    assert status == 413
    assert sender.sent < ENDLESS_BYTES
    head = await sender.client.head(path, headers=sender.headers)
    assert int(head.headers["upload-offset"]) <= MAX_BYTES


async def test_create_raises_the_error_of_the_hook(stage: Stage, tusd: httpx.AsyncClient) -> None:
    owner, uploads = Caller(new_id()), replace(stage.uploads, tusd=tusd)
    for _ in range(stage.uploads.settings.uploads_per_user):
        await stage.uploads.begin(owner, size=10, metadata={})
    with pytest.raises(DomainError) as refused:
        await uploads.create(owner, title="A", filename="a.mp4", size=10, visibility="private", draft_id=None, trace={})
    assert problem(refused.value) == problem(TooManyUploads())
