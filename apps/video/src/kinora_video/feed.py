"""A tool's network: each of its sockets is a connection to its own source, whatever address it connects to.

The tool has no network access. The kernel suspends its socket() calls and notifies this process (seccomp user
notification), which returns one end of a socket pair. `_serve` at the other end fetches the requested range of the
source over HTTP and forwards the response. Addresses from the tool are ignored, and it never learns that of the source.
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
"""The URL of the source for the tool."""

_CONNECTIONS = 16  # concurrently; ffmpeg has one, and opens another when it seeks
_CHUNK_BYTES = 256 << 10
_HEAD_BYTES = 16 << 10
_CONNECT_SECONDS = 5
_SILENCE_SECONDS = 30
_RANGE = re.compile(rb"\r\nRange: bytes=(\d+-\d*)\r\n", re.IGNORECASE)

# linux/seccomp.h; the numbers include the sizes of the structures
_NOTIF_RECV, _NOTIF_SEND, _NOTIF_ADDFD = 0xC0502100, 0xC0182101, 0x40182103
_NOTIF_BYTES = 80


class Feed:
    """Answers the socket() calls that `listener` reports, until it is closed."""

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
            # Only POLLHUP: the tool has ended, and receiving would block on kernels before 6.6.
            asyncio.get_running_loop().remove_reader(self._listener)
            return
        call = bytearray(_NOTIF_BYTES)
        try:
            fcntl.ioctl(self._listener, _NOTIF_RECV, call)
            (identifier,) = struct.unpack_from("=Q", call)
            if self._url is None or len(self._connections) >= _CONNECTIONS:
                self._send(identifier, 0, -errno.EACCES)
                return
            ours, theirs = socket.socketpair()
            with theirs:
                # Not with SECCOMP_ADDFD_FLAG_SEND: if a signal interrupts that ioctl, socket() returns 0, and the
                # kernel refuses to repeat it (EINPROGRESS).
                descriptor = bytearray(struct.pack("=QIIII", identifier, 0, theirs.fileno(), 0, os.O_CLOEXEC))
                try:
                    self._send(identifier, fcntl.ioctl(self._listener, _NOTIF_ADDFD, descriptor), 0)
                except OSError:
                    ours.close()
                    raise
        except (FileNotFoundError, ProcessLookupError):  # the tool ended or interrupted its call meanwhile
            return
        connection = asyncio.create_task(_serve(ours, self._url))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    def _send(self, identifier: int, value: int, error: int) -> None:
        """What socket() returns: a descriptor, or a negative error number."""
        fcntl.ioctl(self._listener, _NOTIF_SEND, struct.pack("=QqiI", identifier, value, error, 0))


async def _serve(connection: socket.socket, url: str) -> None:
    """Serve one request for a range, and close the connection."""
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_HEAD_BYTES)
    try:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            wanted = _RANGE.search(head)
            await _pass_on(url, wanted[1].decode() if wanted else "0-", writer)
    finally:
        writer.close()


async def _pass_on(url: str, wanted: str, writer: asyncio.StreamWriter) -> None:
    """Fetch the range and forward the response unchanged. If the source breaks off, so does this connection."""
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
        while True:
            async with asyncio.timeout(_SILENCE_SECONDS):
                chunk = await source.read(_CHUNK_BYTES)
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()
    finally:
        asking.close()
