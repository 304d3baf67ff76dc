"""WebSocket and server-sent events, with their own client libraries: npm's graphql-ws and graphql-sse."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from npm import Subscriber
from redis.asyncio import Redis

from kinora.events.video import PROGRESS_EXCHANGE, TranscodeProgressed
from kinora_graphql import ids
from kinora_kit.broker import Broker
from kinora_kit.events import event
from kinora_kit.identity import LEEWAY_SECONDS
from kinora_kit.ids import new_id
from kinora_kit.revocations import announce
from kinora_kit.testing import proxy

Start = Callable[..., AbstractAsyncContextManager[str]]
World = Any
Keys = Any

FOLLOW = "subscription ($id: ID!) { videoProgress(id: $id) { state version } }"
both = pytest.mark.parametrize("protocol", ["ws", "sse"])


def follow(video_id: str) -> dict[str, Any]:
    return {"query": FOLLOW, "variables": {"id": ids.make("Video", video_id)}}


def progress(state: str, version: int) -> dict[str, Any]:
    return {"data": {"videoProgress": {"state": state, "version": version}}}


async def finish(bus: Broker, world: World, video_id: str, *, version: int) -> None:
    """As the video service does when a video is ready."""
    world.progress[video_id].version = version
    world.progress[video_id].state = "ready"
    payload = TranscodeProgressed(
        video_id=video_id,
        owner_id=new_id(),
        state="ready",
        version=version,
        bytes_received=1,
        bytes_total=1,
        progress=1,
    )
    message = event("video", payload)
    await bus.publish(
        message.model_dump_json().encode(),
        exchange=PROGRESS_EXCHANGE,
        routing_key=payload.subject,
        message_id=str(message.id),
    )


@both
async def test_client_receives_progress_and_completes(
    *, bus: Broker, world: World, keys: Keys, address: str, protocol: str
) -> None:
    user_id = world.add_user()
    videos = [world.add_video(user_id) for _ in range(2)]
    async with Subscriber(protocol, address, [keys.token(user_id)], *map(follow, videos)) as client:
        assert [await client.next(), await client.next()] == [progress("PROCESSING", 1)] * 2
        for video_id in videos:
            await finish(bus, world, video_id, version=2)
            assert await client.next() == progress("READY", 2)
            await client.until("complete")
    assert client.count("connected") == (1 if protocol == "ws" else 2)


async def test_clients_reconnect_with_new_token_when_the_old_one_expires(
    bus: Broker, world: World, keys: Keys, address: str
) -> None:
    user_id = world.add_user()

    async def runs(protocol: str) -> None:
        video_id = world.add_video(user_id)
        seconds = 5  # for Node.js to start
        tokens = [keys.token(user_id, seconds=seconds - LEEWAY_SECONDS), keys.token(user_id)]
        async with Subscriber(protocol, address, tokens, follow(video_id)) as client:
            assert await client.next() == progress("PROCESSING", 1)
            if protocol == "ws":
                assert (await client.until("closed"))["code"] == 4403
            assert await client.next() == progress("PROCESSING", 1), "the current state, again"
            await finish(bus, world, video_id, version=2)
            assert await client.next() == progress("READY", 2)
            await client.until("complete")
        assert client.count("connected") == 2

    await asyncio.gather(runs("ws"), runs("sse"))


@both
async def test_client_is_told_when_its_session_has_ended(
    *, world: World, keys: Keys, revocations: Redis, start: Start, protocol: str
) -> None:
    user_id, session_id = world.add_user(), new_id()
    token = keys.token(user_id, session_id=session_id)
    async with (
        start(session_check_seconds=60) as address,
        Subscriber(protocol, address, [token], follow(world.add_video(user_id))) as client,
    ):
        assert await client.next() == progress("PROCESSING", 1)
        await announce(revocations, {session_id: 60})
        if protocol == "ws":
            for _ in range(6):  # the first connection, and five attempts
                assert (await client.until("closed"))["code"] == 4403
        else:
            (error,) = (await client.next())["errors"]
            assert error["extensions"]["code"] == "invalid_token"


@both
async def test_client_resumes_after_broken_connection(
    *, bus: Broker, world: World, keys: Keys, address: str, protocol: str
) -> None:
    user_id = world.add_user()
    video_id = world.add_video(user_id)
    async with proxy(f"http://{address}") as cable:
        through = cable.url.removeprefix("http://")
        async with Subscriber(protocol, through, [keys.token(user_id)], follow(video_id)) as client:
            assert await client.next() == progress("PROCESSING", 1)
            await cable.cut()
            await finish(bus, world, video_id, version=2)
            await cable.restore()
            assert await client.next() == progress("READY", 2)
            await client.until("complete")


async def test_duplicate_operation_id_ends_both(world: World, keys: Keys, address: str) -> None:
    user_id = world.add_user()
    operations = [follow(world.add_video(user_id)) for _ in range(2)]
    async with Subscriber("ws", address, [keys.token(user_id)], *operations, id="same") as client:
        assert (await client.until("closed"))["code"] == 4409
        assert [(await client.until("error"))["code"] for _ in range(2)] == [4409, 4409]


async def test_websocket_answers_heartbeats(world: World, keys: Keys, address: str) -> None:
    user_id = world.add_user()
    operation = follow(world.add_video(user_id))
    async with Subscriber("ws", address, [keys.token(user_id)], operation, keepAlive=50) as client:
        for _ in range(3):
            await client.until("pong")


@both
async def test_client_runs_queries_and_gets_request_errors(
    *, world: World, keys: Keys, address: str, protocol: str
) -> None:
    user_id = world.add_user()
    async with Subscriber(protocol, address, [keys.token(user_id)], {"query": "{ me { uuid } }"}) as client:
        assert (await client.next())["data"] == {"me": {"uuid": str(user_id)}}
        await client.until("complete")
    async with Subscriber(protocol, address, [keys.token(user_id)], {"query": "{ nothing }"}) as client:
        if protocol == "ws":
            await client.until("error")
        else:
            assert (await client.next())["errors"][0]["extensions"]["code"] == "invalid_query"


# Server-sent events, without a client library
# ------------------------------------------------------------------------------------------------------

STREAM = {"accept": "text/event-stream"}


async def test_idle_stream_has_heartbeats_and_no_buffering(world: World, keys: Keys, start: Start) -> None:
    user_id = world.add_user()
    headers = {**STREAM, "authorization": f"Bearer {keys.token(user_id)}"}
    async with (
        start(keepalive_seconds=0.05) as address,
        httpx.AsyncClient(base_url=f"http://{address}", headers=headers) as http,
        http.stream("POST", "/graphql", json=follow(world.add_video(user_id))) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")
        lines = answer.aiter_lines()
        while await anext(lines) != "event: next":  # heartbeats, until the first state was fetched
            pass
        seen = [await anext(lines) for _ in range(6)]
    assert seen[1:] == ["", ":", "", ":", ""]


async def test_streams_per_user_and_address_are_limited(world: World, keys: Keys, start: Start) -> None:
    user_id = world.add_user()
    operation = follow(world.add_video(user_id))
    async with (
        start(streams_per_user=1, streams_per_address=1) as address,
        httpx.AsyncClient(base_url=f"http://{address}", headers=STREAM) as http,
    ):
        signed_in = {"authorization": f"Bearer {keys.token(user_id)}"}
        async with http.stream("POST", "/graphql", json=operation, headers=signed_in):
            answer = await http.post("/graphql", json=operation, headers=signed_in)
            assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (429, "too_many_at_once")
            assert "complete" in (await http.post("/graphql", json={"query": "{ __typename }"})).text
        async with asyncio.timeout(10):
            while (await http.post("/graphql", json={"query": "{ __typename }"}, headers=signed_in)).status_code != 200:
                pass


@pytest.mark.parametrize(
    ("accept", "operation", "media_type"),
    [
        ("text/event-stream", "{ __typename }", "text/event-stream"),
        ("text/event-stream, */*", "{ __typename }", "text/event-stream"),
        ("application/json, text/event-stream", "{ __typename }", "application/json"),
        ("application/json, text/event-stream", FOLLOW, "text/event-stream"),
        ("application/json, text/event-stream;q=0", FOLLOW, "application/json"),
    ],
)
async def test_stream_is_for_subscriptions_and_who_accepts_nothing_else(
    http: httpx.AsyncClient, accept: str, operation: str, media_type: str
) -> None:
    body = {"query": operation, "variables": {"id": ids.make("Video", new_id())}}
    answer = await http.post("/graphql", json=body, headers={"accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == media_type


async def test_mutation_by_get_is_405_for_streams_too(http: httpx.AsyncClient) -> None:
    answer = await http.get("/graphql", params={"query": "mutation { logout { done } }"}, headers=STREAM)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
