"""Test helpers for every service: a proxy to simulate network failures, and waiting for conditions."""

import asyncio
import contextlib
import functools
import http.server
import inspect
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from uuid import UUID

from redis.asyncio import Redis

from kinora_kit import revocations

POLL_SECONDS = 0.02


async def eventually(condition: Callable[[], object | Awaitable[object]], *, seconds: float = 15) -> None:
    """Return once ``condition`` is true. It may raise AssertionError; the last one is raised on timeout."""
    deadline = time.monotonic() + seconds
    while True:
        failure = AssertionError(f"still not true after {seconds} s")
        try:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return
        except AssertionError as error:
            failure = error
        if time.monotonic() > deadline:
            raise failure
        await asyncio.sleep(POLL_SECONDS)


async def no_session_has_ended(client: Redis) -> None:
    """Write to Redis what verifiers must find there, as auth does."""

    async def none() -> dict[UUID, float]:
        return {}

    await revocations.restore(client, none)


def free_port() -> int:
    """A port of 127.0.0.1 below the range from which Linux takes the ports of connections (32768 and up by default).

    A port that the kernel chooses would be from that range, so a connection could take it before the caller listens.
    """
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def served(path: Path) -> str:
    """A local HTTP URL that serves ``path``, with range requests, for the whole test run."""
    return f"http://127.0.0.1:{_file_server()}{quote(str(path.absolute()))}"


@functools.cache
def _file_server() -> int:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


class _Files(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = Path(unquote(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        with path.open("rb") as content:
            size = content.seek(0, 2)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted else 0
            if start >= size > 0:
                self.send_error(416)
                return
            content.seek(start)
            self.send_response(206 if wanted and size else 200)
            self.send_header("Content-Length", str(size - start))
            if wanted and size:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has read enough
                shutil.copyfileobj(content, self.wfile)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Proxy:
    """A TCP proxy in front of a real store; use ``proxy``. It can be cut (refuses and resets) and restored."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port)
        self._port = free_port()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.accepted = 0
        """How many connections were made through it."""
        credentials, at, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self._port}"))
        """The store's URL, by way of this proxy."""

    async def restore(self) -> None:
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    async def cut(self) -> None:
        """Refuse new connections and reset those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()
        self._flowing.set()
        await eventually(lambda: not self._open)

    def stall(self) -> None:
        """Hold back all data without closing connections, until restored or cut, like a vanished host."""
        self._flowing.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._open.add(writer)
        try:
            there, onward = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(onward)
        try:
            await asyncio.gather(self._pump(reader, onward), self._pump(there, writer))
        finally:
            for end in (writer, onward):
                end.transport.abort()
                self._open.discard(end)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._flowing.wait()
                target.write(data)
                await target.drain()
        # When one side closes, close the other, too.
        target.transport.abort()


@contextlib.asynccontextmanager
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """A proxy to the host and port of ``url``, open at first."""
    cable = Proxy(url)
    await cable.restore()
    try:
        yield cable
    finally:
        await cable.cut()
