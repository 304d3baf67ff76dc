"""The memory of graphql does not grow with the subscriptions that it has had."""

import json
from pathlib import Path

import psutil
from client import Person, global_id, register, video_id
from measure import Row, platform
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

GATEWAY = "ws://localhost:8080/graphql"
PROTOCOL = Subprotocol("graphql-transport-ws")
SUBSCRIPTIONS = 10_000
AT_ONCE = 20
"""Of one socket."""
ROUNDS = 10
"""Of one socket."""
DOCUMENT = "subscription ($id: ID!) { videoProgress(id: $id) { state progress } }"


async def bench(_folder: Path) -> list[Row]:
    async with register() as person:
        upload = await person.create("unfinished.mp4", 1)
        video = global_id("Video", video_id(upload.headers["location"]))
        graphql = platform()["graphql"]
        await subscribe(person, video, SUBSCRIPTIONS // 10)  # warm-up
        sizes = [megabytes(graphql)]
        for _ in range(2):
            await subscribe(person, video, SUBSCRIPTIONS // 2)
            sizes.append(megabytes(graphql))
    before, half, after = sizes
    return [
        Row("graphql's memory after 5,000 subscriptions", f"{half:.1f} MB", f"{before:.1f} MB before", half / before),
        Row("graphql's memory after 10,000 subscriptions", f"{after:.1f} MB", f"{half:.1f} MB at 5,000", after / half),
    ]


def megabytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6


async def subscribe(person: Person, video: str, count: int) -> None:
    """Open and close ``count`` subscriptions, each after its first result."""
    for _ in range(count // (AT_ONCE * ROUNDS)):
        async with connect(GATEWAY, subprotocols=[PROTOCOL]) as socket:
            await socket.send(json.dumps({"type": "connection_init", "payload": person.headers}))
            await expect(socket, "connection_ack")
            payload = {"query": DOCUMENT, "variables": {"id": video}}
            for turn in range(ROUNDS):
                ids = [f"{turn}-{number}" for number in range(AT_ONCE)]
                for each in ids:
                    await socket.send(json.dumps({"id": each, "type": "subscribe", "payload": payload}))
                for _ in ids:
                    await expect(socket, "next")
                for each in ids:
                    await socket.send(json.dumps({"id": each, "type": "complete"}))


async def expect(socket: ClientConnection, kind: str) -> None:
    message = json.loads(await socket.recv())
    if message["type"] != kind:
        raise SystemExit(f"unexpected message: {message}")
