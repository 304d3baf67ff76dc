"""Protection of every service against slow, hostile and vanishing clients."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from kinora_kit.testing import eventually

Running = Any
Run = Callable[..., contextlib.AbstractAsyncContextManager[Running]]

SOMEBODY, SOMEBODY_ELSE = "127.0.0.2", "127.0.0.3"
"""Loopback addresses that are not trusted proxies: each is a separate client."""

HALF_HEAD = b"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
HALF_BODY = HALF_HEAD + b"Content-Length: 20\r\n\r\n" + b'{"name":'


@pytest.fixture(scope="module")
async def service(running: Run, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(
        tmp_path_factory.mktemp("example"), head_timeout_seconds="1", body_timeout_seconds="1"
    ) as service:
        yield service


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """All data until the server closes the connection."""
        async with asyncio.timeout(15):
            try:
                return await self.reader.read()
            except ConnectionError:  # reset, or an earlier write failed
                return b""

    async def status(self) -> int:
        async with asyncio.timeout(15):
            return int((await self.reader.readuntil(b"\r\n\r\n")).split()[1])


@contextlib.asynccontextmanager
async def connected(service: Running, address: str = SOMEBODY) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port, local_addr=(address, 0))
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


async def get(service: Running, path: str, address: str = SOMEBODY_ELSE) -> int:
    async with connected(service, address) as connection:
        await connection.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return await connection.status()


async def counted(service: Running, status: int) -> float:
    text = (await service.client.get("/metrics")).text
    counts = re.findall(rf'^kinora_http_request_seconds_count{{.*status="{status}"}} (\S+)$', text, re.MULTILINE)
    return sum(map(float, counts))


# Malformed requests ---------------------------------------------------------------------------------------------------


async def test_malformed_http_gets_400_although_more_data_follows(service: Running) -> None:
    """Closing earlier would reset the connection, and the client would lose the response."""
    async with connected(service) as client:
        await client.send(b"delete /things HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await client.status() == 400
        for _ in range(3):  # on a closed connection the second one fails
            await client.send(b"6\r\npoison\r\n")
            await asyncio.sleep(0.01)
        client.writer.write_eof()
        assert b"Invalid HTTP request" in await client.rest()


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"name": "\xff"}',
        '{"name": "x"}'.encode("utf-16"),
        b'{"name": "\\ud800"}',
        b'{"name": "\\udc00\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"name": "\\u0000"}',
        b'{"name": ' + b"[" * 100_000,
        b'{"name": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"name": ' * 30_000,
        b'{"size": NaN}',
        b'{"size": 1e999}',
        b'{"size": ' + b"9" * 5000 + b"}",
        b"{" + b",".join(b'"%d": 1' % number for number in range(50_000)) + b"}",
        b'{"size": [' + b"0," * 50_000 + b"0]}",
    ],
    ids=lambda body: str(body[:16]),
)
@pytest.mark.parametrize("path", ["/things", "/raw"])
@pytest.mark.parametrize("content_type", ["application/json", "Application/Problem+JSON; charset=utf-8"])
async def test_unrepresentable_json_is_malformed(
    *, service: Running, path: str, content_type: str, body: bytes
) -> None:
    answer = await service.client.post(path, content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert "ud800" not in answer.text


@pytest.mark.parametrize(
    ("name", "kept"), [("\\ud83d\\ude00", "\U0001f600"), ("\\\\ud80", "\\ud80"), ("\\u00e9", "\u00e9")]
)
async def test_json_with_surrogate_pairs_is_accepted(service: Running, name: str, kept: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await service.client.post("/things", content=f'{{"name": "{name}"}}', headers=headers)
    assert answer.json() == {"name": kept}


@pytest.mark.parametrize("path", ["/things/%00", "/things/1?x=%00", "/nothing/a%00b"])
async def test_url_with_nul_is_malformed(service: Running, path: str) -> None:
    answer = await service.client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("sent", [HALF_BODY, HALF_HEAD + b"Transfer-Encoding: chunked\r\n\r\n8\r\n{"])
@pytest.mark.parametrize("path", [b"/things", b"/raw", b"/nothing"])
async def test_client_disconnect_in_body_is_recorded_as_499(service: Running, path: bytes, sent: bytes) -> None:
    failures, left, given = await counted(service, 500), await counted(service, 499), f"gone-{uuid4()}"
    async with connected(service) as connection:
        head, _, rest = sent.replace(b"/things", path).partition(b"\r\n")
        await connection.send(head + f"\r\nX-Request-Id: {given}\r\n".encode() + rest)
    (line,) = await service.logged(given)
    assert (line["status"], line["level"]) == (499, "info")
    assert (await counted(service, 500), await counted(service, 499)) == (failures, left + 1)


HANDSHAKE = (
    b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        (b"/", b"", 403),
        (b"/unrouted/nothing", b"", 404),
        (b"/" + b"a" * 9000, b"", 414),
        (b"/", b"X: " + b"a" * 9000 + b"\r\n", 431),
        (b"/", b"X: a\r\n" * 150, 431),
        (b"/", b"Content-Length: 5\r\n", 400),
        (b"/", b"Transfer-Encoding: chunked\r\n", 400),
    ],
    ids=lambda each: str(each)[:20],
)
async def test_refused_websocket_handshake_is_answered(
    service: Running, target: bytes, headers: bytes, status: int
) -> None:
    mark = f"before-{uuid4()}"
    await service.client.get("/nothing", headers={"X-Request-Id": mark})
    async with connected(service) as client:
        await client.send(b"GET " + target + b" HTTP/1.1\r\n" + HANDSHAKE + headers + b"\r\n")
        assert await client.status() == status
        await client.rest()  # closed
    await service.client.get("/healthz")  # the process has done with the handshake
    assert '"level": "error"' not in service.output.read_text().partition(mark)[2]


async def test_trailers_are_not_merged_into_headers(service: Running) -> None:
    async with connected(service) as connection:
        head = b"GET /who HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-User-Id\r\n"
        await connection.send(head + b"Connection: close\r\n\r\n0\r\nX-User-Id: %s\r\n\r\n" % str(uuid4()).encode())
        assert json.loads((await connection.rest()).rpartition(b"\r\n\r\n")[2]) == {"user_id": None}


# Slow requests
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "trickle"),
    [(b"", b""), (b"\r\n", b"\r\n"), (b"POST /thi", b"x"), (HALF_HEAD, b""), (HALF_HEAD + b"X: ", b"x")],
)
async def test_incomplete_head_times_out(service: Running, sent: bytes, trickle: bytes) -> None:
    started = time.monotonic()
    async with connected(service) as connection:
        await connection.send(sent)

        async def on() -> None:
            with contextlib.suppress(ConnectionError):
                while trickle:
                    await connection.send(trickle)
                    await asyncio.sleep(0.1)

        trickling = asyncio.create_task(on())
        assert await connection.rest() == b""
        trickling.cancel()
    assert 0.9 < time.monotonic() - started < 6


async def test_incomplete_second_head_times_out(service: Running) -> None:
    async with connected(service) as connection:
        await connection.send(b"GET /things/1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await connection.status() == 200
        await connection.send(b"GET /things/1 HTTP/1.1\r\nHo")
        assert b"HTTP/1.1" not in await connection.rest()


async def test_oversized_head_closes_the_connection(service: Running) -> None:
    async with connected(service) as connection:
        with contextlib.suppress(ConnectionError):
            await connection.send(HALF_HEAD)
            for number in range(100):
                await connection.send(b"X-%d: %s\r\n" % (number, b"x" * 4096))
        assert await connection.rest() == b""


@pytest.mark.parametrize("trickle", [b"", b" "])
@pytest.mark.parametrize("path", [b"/things", b"/raw", b"/nothing"])
async def test_incomplete_body_answers_408(service: Running, path: bytes, trickle: bytes) -> None:
    started, sent = time.monotonic(), HALF_BODY.replace(b"/things", path).replace(b"20", b"2000")
    async with connected(service) as connection:
        await connection.send(sent)

        async def on() -> None:
            with contextlib.suppress(ConnectionError):
                while trickle:
                    await connection.send(trickle)
                    await asyncio.sleep(0.1)

        trickling = asyncio.create_task(on())
        assert await connection.status() == (404 if path == b"/nothing" else 408)
        assert 0.9 < time.monotonic() - started < 5
        await connection.rest()  # data after the response does not keep the connection open
        trickling.cancel()
    assert time.monotonic() - started < 12


async def test_body_at_minimum_rate_does_not_time_out(service: Running) -> None:
    async with connected(service) as connection:
        body = b'{"name": "x"' + b" " * 40_000 + b"}"
        await connection.send(HALF_HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 2000):  # 20 KB/s, for twice the time that a body has without its bytes
            await connection.send(body[at : at + 2000])
            await asyncio.sleep(0.1)
        assert await connection.status() == 201


# Many requests
# ---------------------------------------------------------------------------------------------------------


async def test_incomplete_bodies_are_limited_per_client(running: Run, tmp_path: Path) -> None:
    async with (
        running(tmp_path, unfinished_bodies_per_client="2") as service,
        connected(service) as first,
        connected(service) as second,
    ):
        await first.send(HALF_BODY)
        await second.send(HALF_BODY)

        async def one_too_many() -> bool:
            async with connected(service) as third:
                await third.send(HALF_BODY)
                head = (await third.reader.readuntil(b"\r\n\r\n")).lower()
                return head.startswith(b"http/1.1 429") and b"retry-after: 1" in head

        await eventually(one_too_many)
        async with connected(service, SOMEBODY_ELSE) as other:
            await other.send(HALF_BODY + b' "x"       }')
            assert await other.status() == 201
        await first.send(b' "x"       }')
        assert await first.status() == 201


async def test_full_process_answers_503_but_serves_probes(running: Run, tmp_path: Path) -> None:
    until = tmp_path / "until"
    async with running(tmp_path, max_requests="1") as service:
        slow = asyncio.create_task(service.client.get("/slow", params={"until": str(until)}))
        await eventually(until.with_suffix(".begun").exists)
        answer = await service.client.get("/things/1")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"
        for probe in ("/healthz", "/readyz", "/metrics"):
            assert (await service.client.get(probe)).status_code == 200
        until.touch()
        assert (await slow).status_code == 200
        assert (await service.client.get("/things/1")).status_code == 200


async def test_thousand_incomplete_requests_of_one_client_do_not_block_others(running: Run, tmp_path: Path) -> None:
    async with (
        running(tmp_path, head_timeout_seconds="8", body_timeout_seconds="8") as service,
        contextlib.AsyncExitStack() as stack,
    ):
        held = [await stack.enter_async_context(connected(service)) for _ in range(1100)]
        for number, connection in enumerate(held):
            await connection.send(HALF_BODY if number % 2 else HALF_HEAD)
        for address in (SOMEBODY, SOMEBODY_ELSE):
            for path in ("/things/1", "/healthz", "/readyz", "/metrics"):
                assert await get(service, path, address) == 200
        async with connected(service, SOMEBODY_ELSE) as other:
            await other.send(HALF_BODY + b' "x"       }')
            assert await other.status() == 201
        answers = await asyncio.gather(*(connection.rest() for connection in held))
        assert {answer[:12] for answer in answers} == {b"", b"HTTP/1.1 408", b"HTTP/1.1 429"}
        assert await counted(service, 500) + await counted(service, 503) == 0
