"""A tool's network: every socket() of it is a connection to its own source, wherever it then connects to.

The tool has no network. The kernel stops it at socket() and tells us (seccomp user notification); the answer is one end
of a socket pair. On the other end stands `_serve`, which reads ranges of the one address that was given, over HTTP, and
passes on the answer. No address that the tool names is ever looked at. It does not learn the source's either.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import select
import socket
import struct
from urllib.parse import urlsplit

URL = "http://127.0.0.1/source"
"""What a tool is told to read."""

_CONNECTIONS = 16  # at a time; ffmpeg has one, and opens the next one when it seeks
_CHUNK_BYTES = 256 << 10
_HEAD_BYTES = 16 << 10
_CONNECT_SECONDS = 5
_SILENCE_SECONDS = 30
_RANGE = re.compile(rb"\r\nRange: bytes=(\d+-\d*)\r\n", re.IGNORECASE)

# linux/seccomp.h: the sizes of its structures are in the numbers
_NOTIF_RECV, _NOTIF_SEND, _NOTIF_ADDFD = 0xC0502100, 0xC0182101, 0x40182103
_NOTIF_BYTES = 80
_ADDFD_FLAG_SEND = 2


class Feed:
    """Answers the socket() calls that `listener` tells of, until it is closed."""

    def __init__(self, listener: int, url: str | None) -> None:
        self._listener = listener
        self._url = url
        self._connections: set[asyncio.Task[None]] = set()
        asyncio.get_running_loop().add_reader(listener, self._answer)

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        os.close(self._listener)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _answer(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        if not any(events & select.POLLIN for _, events in poll.poll(0)):
            # Only POLLHUP, as the tool ended: receiving would block on kernels before 6.6.
            asyncio.get_running_loop().remove_reader(self._listener)
            return
        call = bytearray(_NOTIF_BYTES)
        try:
            fcntl.ioctl(self._listener, _NOTIF_RECV, call)
            (identifier,) = struct.unpack_from("=Q", call)
            if self._url is None or len(self._connections) >= _CONNECTIONS:
                refusal = struct.pack("=Qqii", identifier, 0, -errno.EACCES, 0)
                fcntl.ioctl(self._listener, _NOTIF_SEND, refusal)
                return
            ours, theirs = socket.socketpair()
            with theirs:
                # The descriptor's number in the tool becomes what socket() returns.
                answer = struct.pack("=QIIII", identifier, _ADDFD_FLAG_SEND, theirs.fileno(), 0, os.O_CLOEXEC)
                try:
                    fcntl.ioctl(self._listener, _NOTIF_ADDFD, answer)
                except OSError:
                    ours.close()
                    raise
        except FileNotFoundError:  # the tool ended meanwhile
            return
        connection = asyncio.create_task(_serve(ours, self._url))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)


async def _serve(connection: socket.socket, url: str) -> None:
    """Answer one request for a range, and close."""
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_HEAD_BYTES)
    try:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            wanted = _RANGE.search(head)
            await _pass_on(url, wanted[1].decode() if wanted else "0-", writer)
    finally:
        writer.close()


async def _pass_on(url: str, wanted: str, writer: asyncio.StreamWriter) -> None:
    """Ask for the range, and write what is answered, as it is. What breaks off there breaks off here."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            source, asking = await asyncio.open_connection(
                parts.hostname, parts.port or (443 if secure else 80), ssl=secure, limit=_CHUNK_BYTES
            )
    except OSError:  # TimeoutError is one
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        return
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        headers = f"Host: {parts.netloc}\r\nRange: bytes={wanted}\r\nConnection: close\r\n"
        asking.write(f"GET {target} HTTP/1.1\r\n{headers}\r\n".encode())
        while chunk := await asyncio.wait_for(source.read(_CHUNK_BYTES), _SILENCE_SECONDS):
            writer.write(chunk)
            await writer.drain()
    finally:
        asking.close()
