"""graphql-transport-ws: authentication, limits, and what closes a socket."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from socket import SO_RCVBUF, SOL_SOCKET, create_connection
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from kinora_graphql import ids
from kinora_kit.identity import LEEWAY_SECONDS
from kinora_kit.ids import new_id
from kinora_kit.revocations import announce
from kinora_kit.testing import eventually

Open = Callable[..., Any]
Start = Callable[..., AbstractAsyncContextManager[str]]
SignIn = Callable[[UUID], Awaitable[ClientConnection]]
World = Any
Keys = Any

INIT = {"type": "connection_init"}
ACK = {"type": "connection_ack"}


async def say(socket: ClientConnection, *messages: object) -> None:
    for message in messages:
        await socket.send(json.dumps(message))


async def hear(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 10))
    return message


async def close_code(socket: ClientConnection) -> int:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(socket.recv(), 10)
    assert socket.close_code is not None
    return socket.close_code


def subscribe(document: str, *, operation_id: str = "1", **variables: object) -> dict[str, Any]:
    return {"id": operation_id, "type": "subscribe", "payload": {"query": document, "variables": variables}}


def watch(video_id: str, *, operation_id: str = "1") -> dict[str, Any]:
    document = "subscription ($id: ID!) { videoProgress(id: $id) { state } }"
    return subscribe(document, operation_id=operation_id, id=ids.make("Video", video_id))


async def test_connection_init_token_identifies_the_caller(world: World, signed_in_socket: SignIn) -> None:
    user_id = world.add_user()
    socket = await signed_in_socket(user_id)
    await say(socket, subscribe("{ me { user { id } } }"))
    answer = await hear(socket)
    assert answer["payload"]["data"]["me"]["user"]["id"] == ids.make("User", user_id)
    assert await hear(socket) == {"id": "1", "type": "complete"}


async def test_sockets_have_separate_callers(world: World, signed_in_socket: SignIn) -> None:
    users = [world.add_user(), world.add_user()]
    sockets = [await signed_in_socket(user_id) for user_id in users]
    for _ in range(2):
        for user_id, socket in zip(users, sockets, strict=True):
            await say(socket, subscribe("{ me { user { id } } }"))
            assert (await hear(socket))["payload"]["data"]["me"]["user"]["id"] == ids.make("User", user_id)
            await hear(socket)


@pytest.mark.parametrize(
    "init", [INIT, {**INIT, "payload": None}, {**INIT, "payload": {}}, {**INIT, "payload": {"authorization": ""}}]
)
async def test_socket_without_token_is_anonymous(address: str, open_socket: Open, init: dict[str, Any]) -> None:
    async with open_socket(address) as socket:
        await say(socket, init, subscribe("{ me { email } }"))
        assert await hear(socket) == ACK
        assert (await hear(socket))["payload"]["errors"][0]["extensions"]["code"] == "not_signed_in"


async def test_ping_gets_pong(address: str, open_socket: Open) -> None:
    async with open_socket(address) as socket:
        await say(socket, INIT, {"type": "ping"})
        assert [await hear(socket), await hear(socket)] == [ACK, {"type": "pong"}]


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([subscribe("{ me { email } }")], 4401),
        ([INIT, INIT], 4429),
        ([{"type": "connection_init", "payload": {"authorization": "Bearer x"}}], 4403),
        ([{"type": "connection_init", "payload": {"Authorization": "x"}}], 4403),
        ([{"type": "connection_init", "payload": {"authorization": 1}}], 4403),
        ([{"type": "connection_init", "payload": []}], 4400),
        ([INIT, {"type": "nonsense"}], 4400),
        ([INIT, []], 4400),
        ([INIT, 1], 4400),
        ([INIT, {"type": "subscribe", "id": "1", "payload": []}], 4400),
        ([INIT, {"type": "subscribe", "id": 1, "payload": {"query": "{ me { email } }"}}], 4400),
        ([INIT, {"type": "subscribe", "id": "1", "payload": {"query": "{ me { email } }", "variables": 1}}], 4400),
        ([INIT, {"type": "subscribe", "id": "1"}], 4400),
        ([INIT, {"type": "complete", "id": []}], 4400),
        ([INIT, {"type": None}], 4400),
        ([INIT, {"type": "é" * 500}], 4400),
    ],
)
async def test_protocol_violation_closes_socket(
    address: str, open_socket: Open, messages: list[object], code: int
) -> None:
    async with open_socket(address) as socket:
        await say(socket, *messages)
        assert await close_code(socket) == code


@pytest.mark.parametrize(
    "text",
    ["{", '{"type": "connection_init", "payload": {"x": "\\ud800"}}', '{"type": "\\u0000"}', '{"type":' * 20_000],
    ids=lambda text: text[:50],
)
async def test_invalid_json_closes_socket(address: str, open_socket: Open, text: str) -> None:
    async with open_socket(address) as socket:
        await socket.send(text)
        assert await close_code(socket) == 4400


async def test_duplicate_operation_id_closes_socket(world: World, signed_in_socket: SignIn) -> None:
    user_id = world.add_user()
    socket = await signed_in_socket(user_id)
    await say(socket, *[watch(world.add_video(user_id))] * 2)
    assert await close_code(socket) == 4409


async def test_duplicate_long_operation_id_closes_socket(world: World, signed_in_socket: SignIn) -> None:
    """A close frame has room for 123 bytes of reason."""
    user_id = world.add_user()
    socket = await signed_in_socket(user_id)
    await say(socket, *[watch(world.add_video(user_id), operation_id="é" * 500)] * 2)
    assert await close_code(socket) == 4409


async def test_empty_operation_name_and_variables_count_as_absent(address: str, open_socket: Open) -> None:
    async with open_socket(address) as socket:
        payload = {"query": "{ __typename }", "operationName": "", "variables": ""}
        await say(socket, INIT, {"id": "1", "type": "subscribe", "payload": payload})
        assert await hear(socket) == ACK
        assert (await hear(socket))["payload"] == {"data": {"__typename": "Query"}}


class Raw:
    """A WebSocket whose frames are written by the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, opcode: int, data: bytes, *, final: bool = True, times: int = 1) -> None:
        masked = bytes([opcode | (0x80 if final else 0), 0x80 | len(data), 0, 0, 0, 0]) + data
        for _ in range(0, times, 1000):
            self.writer.write(masked * min(times, 1000))
            await self.writer.drain()

    async def receive(self) -> tuple[int, bytes]:
        async with asyncio.timeout(15):
            head = await self.reader.readexactly(2)
            return head[0] & 0x0F, await self.reader.readexactly(head[1])

    async def until(self, end: bytes) -> int:
        """The number of bytes before ``end``."""
        count, last = 0, b""
        async with asyncio.timeout(15):
            while end not in last:
                count += len(last)
                last = last[-len(end) :] + await self.reader.read(1 << 16)
        return count


@contextlib.asynccontextmanager
async def opened(address: str) -> AsyncIterator[Raw]:
    host, _, port = address.partition(":")
    connection = create_connection((host, int(port)))
    connection.setsockopt(SOL_SOCKET, SO_RCVBUF, 1 << 16)  # so that little is on its way
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(
        b"GET /graphql HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


CONTINUATION, TEXT, CLOSE, PING = 0, 1, 8, 9


async def test_pings_of_client_that_does_not_read_fill_no_memory(address: str) -> None:
    sent = 100_000
    async with opened(address) as client:
        await client.send(PING, b"x" * 125, times=sent)
        await client.send(TEXT, b'{"type":"ping"}')
        received = await client.until(b'{"type":"pong"}')
        assert 0 < received < sent * 125 / 2


async def test_message_of_endless_empty_frames_closes_socket(address: str) -> None:
    async with opened(address) as client:
        await client.send(TEXT, b"", final=False)
        await client.send(CONTINUATION, b"", final=False, times=3000)
        opcode, data = await client.receive()
        assert (opcode, int.from_bytes(data[:2])) == (CLOSE, 1009)


async def test_socket_without_connection_init_is_closed(start: Start, open_socket: Open) -> None:
    async with start(socket_init_seconds=0.1) as address, open_socket(address) as socket:
        assert await close_code(socket) == 4408


async def test_expired_token_closes_socket(world: World, keys: Keys, address: str, open_socket: Open) -> None:
    user_id = world.add_user()
    async with open_socket(address) as socket:
        expiry = time.time() + 3
        token = keys.token(user_id, seconds=3 - LEEWAY_SECONDS)
        await say(socket, {"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}})
        assert await hear(socket) == ACK
        await say(socket, watch(world.add_video(user_id)))
        assert (await hear(socket))["payload"]["data"]["videoProgress"] == {"state": "PROCESSING"}
        assert await close_code(socket) == 4403
        assert expiry - 0.1 < time.time() < expiry + 5


async def test_ended_session_closes_socket(
    world: World, keys: Keys, revocations: Redis, start: Start, open_socket: Open
) -> None:
    user_id, session_id = world.add_user(), new_id()
    token = keys.token(user_id, session_id=session_id)
    async with start(session_check_seconds=60) as address, open_socket(address) as socket:
        await say(socket, {"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}})
        assert await hear(socket) == ACK
        await say(socket, {"type": "ping"})
        assert await hear(socket) == {"type": "pong"}
        await announce(revocations, {session_id: 60})
        assert await close_code(socket) == 4403


async def test_operations_per_socket_are_limited(world: World, keys: Keys, start: Start, open_socket: Open) -> None:
    user_id = world.add_user()
    async with start(socket_operations=2) as address, open_socket(address) as socket:
        payload = {"authorization": f"Bearer {keys.token(user_id)}"}
        await say(socket, {"type": "connection_init", "payload": payload})
        await hear(socket)
        for operation_id in "12":
            await say(socket, watch(world.add_video(user_id), operation_id=operation_id))
            assert (await hear(socket))["type"] == "next"
        await say(socket, watch(world.add_video(user_id), operation_id="3"))
        assert (await hear(socket))["type"] == "error"
        await say(socket, {"type": "complete", "id": "1"}, watch(world.add_video(user_id), operation_id="4"))
        assert (await hear(socket))["type"] == "next"


async def test_sockets_per_process_are_limited(start: Start, open_socket: Open) -> None:
    async with start(streams=1) as address:
        async with open_socket(address) as socket, open_socket(address) as one_too_many:
            assert await close_code(one_too_many) == 1013
            await say(socket, INIT)
            assert await hear(socket) == ACK
        async with open_socket(address) as socket:
            await say(socket, INIT)
            assert await hear(socket) == ACK


async def test_sockets_per_address_are_limited(start: Start, open_socket: Open) -> None:
    async with (
        start(streams_per_address=2, socket_init_seconds=120) as address,
        open_socket(address) as first,
        open_socket(address) as second,
        open_socket(address) as one_too_many,
        open_socket(address, additional_headers={"X-Forwarded-For": "2001:db8::1"}) as other,
        open_socket(address, additional_headers={"X-Forwarded-For": "2001:db8::2"}) as of_its_network,
        open_socket(address, additional_headers={"X-Forwarded-For": "2001:db8::ffff"}) as one_too_many_there,
    ):
        assert await close_code(one_too_many) == 1013
        assert await close_code(one_too_many_there) == 1013
        for socket in (first, second, other, of_its_network):
            await say(socket, INIT)
            assert await hear(socket) == ACK


async def test_sockets_per_user_are_limited_across_addresses(
    *, world: World, keys: Keys, start: Start, open_socket: Open
) -> None:
    users = [world.add_user(), world.add_user()]
    init = [{"type": "connection_init", "payload": {"authorization": f"Bearer {keys.token(user)}"}} for user in users]
    async with start(streams_per_user=2, streams_per_address=1) as address, contextlib.AsyncExitStack() as stack:

        async def opened(user: int, forwarded_for: str) -> ClientConnection:
            socket: ClientConnection = await stack.enter_async_context(
                open_socket(address, additional_headers={"X-Forwarded-For": forwarded_for})
            )
            await say(socket, init[user])
            return socket

        sockets = [await opened(0, "192.0.2.1")]
        assert await hear(sockets[0]) == ACK
        sockets.append(await opened(0, "192.0.2.1"))
        assert await hear(sockets[1]) == ACK
        assert await close_code(await opened(0, "192.0.2.2")) == 1013
        assert await hear(await opened(1, "192.0.2.1")) == ACK
        await sockets[0].close()
        assert await hear(await opened(0, "192.0.2.2")) == ACK


async def test_accounts_of_one_address_can_take_half_of_the_sockets(
    *, world: World, keys: Keys, start: Start, open_socket: Open
) -> None:
    async with start(streams=4) as address, contextlib.AsyncExitStack() as stack:

        async def signed_in(forwarded_for: str) -> ClientConnection:
            socket: ClientConnection = await stack.enter_async_context(
                open_socket(address, additional_headers={"X-Forwarded-For": forwarded_for})
            )
            token = keys.token(world.add_user())
            await say(socket, {"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}})
            return socket

        first, second = await signed_in("192.0.2.1"), await signed_in("192.0.2.1")
        assert (await hear(first), await hear(second)) == (ACK, ACK)
        async with open_socket(address, additional_headers={"X-Forwarded-For": "192.0.2.1"}) as one_too_many:
            assert await close_code(one_too_many) == 1013
        assert await hear(await signed_in("192.0.2.2")) == ACK
        await first.close()

        async def accepted() -> bool:
            with contextlib.suppress(ConnectionClosed):
                return await hear(await signed_in("192.0.2.1")) == ACK
            return False

        await eventually(accepted)


async def test_socket_opens_from_any_origin_by_default(address: str, open_socket: Open) -> None:
    """Authentication is by a token that only the application holds, never by a cookie."""
    for origin in ("https://app.example", "http://localhost:5173", "null", "capacitor://localhost"):
        async with open_socket(address, origin=origin) as socket:
            await say(socket, INIT)
            assert await hear(socket) == ACK


async def test_socket_rejects_unconfigured_origin(start: Start, open_socket: Open) -> None:
    async with start(socket_origins=["https://app.example", "https://other.example"]) as address:
        for other in ("https://evil.example", "https://app.example.evil.example", "http://app.example", "null"):
            with pytest.raises(InvalidStatus):
                async with open_socket(address, origin=other):
                    pass
        for origin in ("https://app.example", "https://other.example", None):  # browsers always send an Origin
            async with open_socket(address, origin=origin) as socket:
                await say(socket, INIT)
                assert await hear(socket) == ACK


async def test_document_limits_apply_to_sockets(address: str, open_socket: Open) -> None:
    async with open_socket(address) as socket:
        many = " ".join(f"a{index}: me {{ email }}" for index in range(21))
        await say(socket, INIT, subscribe(f"{{ {many} }}"))
        assert await hear(socket) == ACK
        answer = await hear(socket)
        assert answer["type"] == "error"
        assert answer["payload"][0]["extensions"]["code"] == "invalid_query"


@pytest.mark.parametrize(
    "document",
    ["{", "fragment A on Query { me { email } }", "{ x }", ""],
)
async def test_invalid_document_ends_the_operation_but_not_the_socket(
    address: str, open_socket: Open, document: str
) -> None:
    async with open_socket(address) as socket:
        await say(socket, INIT, subscribe(document))
        assert await hear(socket) == ACK
        answer = await hear(socket)
        code = "invalid_query" if document else "malformed_request"
        assert (answer["type"], answer["payload"][0]["extensions"]["code"]) == ("error", code)
        await say(socket, {"type": "ping"})
        assert await hear(socket) == {"type": "pong"}
