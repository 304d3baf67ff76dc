"""videoProgress over the real broker: current state first, never older ones, to the end, despite network failures."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from websockets.asyncio.client import ClientConnection

from kinora.events.video import PROGRESS_EXCHANGE, RenditionProgress, TranscodeProgressed, UploadProgressed
from kinora_graphql import ids
from kinora_graphql.progress import Watcher
from kinora_kit.broker import Broker
from kinora_kit.events import event
from kinora_kit.ids import new_id
from kinora_kit.testing import Proxy, eventually

SignIn = Callable[[UUID], Awaitable[ClientConnection]]
World = Any

DOCUMENT = """
subscription ($id: ID!) {
  videoProgress(id: $id) {
    state version bytesReceived bytesTotal progress timeLeft renditions { name progress } failure { code detail }
  }
}
"""


async def watch(socket: ClientConnection, video_id: str, *, operation_id: str = "1") -> None:
    await subscribe(socket, ids.make("Video", video_id), operation_id=operation_id)


async def subscribe(socket: ClientConnection, given: str, *, operation_id: str = "1") -> None:
    payload = {"query": DOCUMENT, "variables": {"id": given}}
    await socket.send(json.dumps({"id": operation_id, "type": "subscribe", "payload": payload}))


async def hear(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 15))
    return message


async def state(socket: ClientConnection) -> dict[str, Any]:
    message = await hear(socket)
    assert "errors" not in message["payload"], message
    progress: dict[str, Any] = message["payload"]["data"]["videoProgress"]
    return progress


def progressed(video_id: str, version: int, *, state: str = "processing", **more: Any) -> TranscodeProgressed:
    return TranscodeProgressed(
        video_id=UUID(video_id),
        owner_id=new_id(),
        state=state,
        version=version,
        bytes_received=5 << 30,
        bytes_total=5 << 30,
        progress=version / 100,
        **more,
    )


async def tell(bus: Broker, *told: TranscodeProgressed | UploadProgressed) -> None:
    for payload in told:
        message = event("video", payload)
        await bus.publish(
            message.model_dump_json().encode(),
            exchange=PROGRESS_EXCHANGE,
            routing_key=payload.subject,
            message_id=str(message.id),
        )


async def test_progress_starts_with_current_state_and_ends_when_ready(
    bus: Broker, world: World, signed_in_socket: SignIn
) -> None:
    owner_id = world.add_user()
    video_id = world.add_video(owner_id, state="uploading", version=3)
    socket = await signed_in_socket(owner_id)
    await watch(socket, video_id)
    assert await state(socket) == {
        "state": "UPLOADING",
        "version": 3,
        "bytesReceived": 0,
        "bytesTotal": 5 << 30,
        "progress": 0,
        "timeLeft": None,
        "renditions": [],
        "failure": None,
    }
    half = progressed(video_id, 50, time_left=2.5, renditions=(RenditionProgress(name="1080p", progress=0.25),))
    await tell(bus, half)
    assert await state(socket) == {
        "state": "PROCESSING",
        "version": 50,
        "bytesReceived": 5 << 30,
        "bytesTotal": 5 << 30,
        "progress": 0.5,
        "timeLeft": 2.5,
        "renditions": [{"name": "1080p", "progress": 0.25}],
        "failure": None,
    }
    await tell(bus, progressed(video_id, 100, state="ready"))
    assert (await state(socket))["state"] == "READY"
    assert await hear(socket) == {"id": "1", "type": "complete"}


@pytest.mark.parametrize("pattern", ["#", "*", "x", ids.make("Video", "#"), ids.make("Video", "*")])
async def test_progress_of_anything_but_an_id_is_invalid(world: World, signed_in_socket: SignIn, pattern: str) -> None:
    socket = await signed_in_socket(world.add_user())
    await subscribe(socket, pattern)
    answer = await hear(socket)
    errors = answer["payload"] if answer["type"] == "error" else answer["payload"]["errors"]
    assert [error["extensions"]["code"] for error in errors] == ["invalid_input"]
    assert world.calls == {}


@pytest.mark.parametrize("end", ["failed", "deleted"])
async def test_progress_ends_when_failed_or_deleted(
    bus: Broker, world: World, signed_in_socket: SignIn, end: str
) -> None:
    owner_id = world.add_user()
    video_id = world.add_video(owner_id)
    socket = await signed_in_socket(owner_id)
    await watch(socket, video_id)
    await state(socket)
    await tell(bus, progressed(video_id, 9, state=end, failure_code="broken", failure_detail="It is broken"))
    last = await state(socket)
    assert (last["state"], last["failure"]) == (end.upper(), {"code": "broken", "detail": "It is broken"})
    assert (await hear(socket))["type"] == "complete"


async def test_progress_of_finished_video_is_sent_once(world: World, signed_in_socket: SignIn) -> None:
    owner_id = world.add_user()
    socket = await signed_in_socket(owner_id)
    await watch(socket, world.add_video(owner_id, state="ready"))
    assert (await state(socket))["state"] == "READY"
    assert (await hear(socket))["type"] == "complete"


async def test_progress_ignores_reordered_and_duplicate_messages(
    bus: Broker, world: World, signed_in_socket: SignIn
) -> None:
    owner_id = world.add_user()
    video_id = world.add_video(owner_id, version=10)
    socket = await signed_in_socket(owner_id)
    await watch(socket, video_id)
    seen = [(await state(socket))["version"]]
    versions = [*range(1, 60), *range(1, 60)]
    random.shuffle(versions)
    await tell(bus, *(progressed(video_id, version) for version in versions))
    await tell(bus, progressed(video_id, 60, state="ready"), progressed(video_id, 59))
    while (message := await hear(socket))["type"] == "next":
        seen.append(message["payload"]["data"]["videoProgress"]["version"])
    assert seen == sorted(set(seen))
    assert (seen[0], seen[-1]) == (10, 60)


async def test_progress_reaches_all_subscribers_of_the_video_only(
    bus: Broker, world: World, signed_in_socket: SignIn
) -> None:
    owner_id = world.add_user()
    mine, other = world.add_video(owner_id), world.add_video(owner_id)
    one, two = await signed_in_socket(owner_id), await signed_in_socket(owner_id)
    for socket, video_id in ((one, mine), (two, mine)):
        await watch(socket, video_id)
        await state(socket)
    await watch(two, other, operation_id="2")
    await state(two)
    await one.send(json.dumps({"type": "complete", "id": "1"}))  # the other subscribers keep the binding
    await tell(bus, progressed(mine, 2), progressed(other, 3))
    assert [(await state(two))["version"], (await state(two))["version"]] == [2, 3]


@pytest.mark.parametrize("signed_in", [True, False])
async def test_progress_is_for_the_owner_only(world: World, signed_in_socket: SignIn, signed_in: bool) -> None:
    video_id = world.add_video(world.add_user()) if signed_in else str(new_id())
    socket = await signed_in_socket(world.add_user())
    await watch(socket, video_id)
    answer = await hear(socket)
    errors = answer["payload"] if answer["type"] == "error" else answer["payload"]["errors"]
    assert [error["extensions"]["code"] for error in errors] == ["video_not_found"]


async def test_progress_is_fetched_again_after_broker_outage(
    bus: Broker, world: World, signed_in_socket: SignIn, broker_proxy: Proxy
) -> None:
    owner_id = world.add_user()
    ends, goes_on = world.add_video(owner_id), world.add_video(owner_id)
    socket = await signed_in_socket(owner_id)
    for operation_id, video_id in (("1", ends), ("2", goes_on)):
        await watch(socket, video_id, operation_id=operation_id)
        await state(socket)
    await broker_proxy.cut()
    # Nobody receives this message; GetProgress has the state.
    await tell(bus, progressed(ends, 7, state="ready"))
    world.progress[ends].state, world.progress[ends].version = "ready", 7
    accepted = broker_proxy.accepted
    await broker_proxy.restore()
    assert (await state(socket))["state"] == "READY"
    assert await hear(socket) == {"id": "1", "type": "complete"}
    assert broker_proxy.accepted > accepted
    # The other video is bound again.
    await tell(bus, progressed(goes_on, 8))
    assert (await state(socket))["version"] == 8


async def test_progress_can_be_subscribed_during_broker_outage(
    bus: Broker, world: World, signed_in_socket: SignIn, broker_proxy: Proxy
) -> None:
    owner_id = world.add_user()
    video_id = world.add_video(owner_id)
    socket = await signed_in_socket(owner_id)
    await broker_proxy.cut()
    await watch(socket, video_id)
    assert (await state(socket))["version"] == 1
    world.progress[video_id].version = 2
    await broker_proxy.restore()
    assert (await state(socket))["version"] == 2
    await tell(bus, progressed(video_id, 3, state="ready"))
    assert (await state(socket))["version"] == 3


async def test_disconnecting_subscribers_do_not_affect_others(
    bus: Broker, world: World, signed_in_socket: SignIn, broker_proxy: Proxy
) -> None:
    owner_id = world.add_user()
    video_id = world.add_video(owner_id)
    staying = await signed_in_socket(owner_id)
    await watch(staying, video_id)
    await state(staying)
    asked = world.calls["GetProgress"]
    for turn in range(20):
        leaving = await signed_in_socket(owner_id)
        await watch(leaving, world.add_video(owner_id, state="ready" if turn % 2 else "processing"))
        if turn % 3:
            await state(leaving)
        await leaving.close()
    await tell(bus, progressed(video_id, 2))
    assert (await state(staying))["version"] == 2
    assert world.calls["GetProgress"] <= asked + 20  # more would mean that the queue was lost and declared again


async def test_malformed_progress_message_is_skipped(bus: Broker, world: World, signed_in_socket: SignIn) -> None:
    owner_id = world.add_user()
    video_id = world.add_video(owner_id)
    socket = await signed_in_socket(owner_id)
    await watch(socket, video_id)
    await state(socket)
    await bus.publish(b"{", exchange=PROGRESS_EXCHANGE, routing_key=video_id, message_id="x")
    await tell(bus, progressed(video_id, 2))
    assert (await state(socket))["version"] == 2


async def test_slow_subscriber_gets_only_the_newest_state() -> None:
    watcher = Watcher()
    video_id = str(new_id())
    for version in (1, 5, 3, 9, 2):
        watcher.offer(event("video", progressed(video_id, version)))
    assert (watcher.take()[1].version, watcher.newer) == (9, {})


async def test_operation_metrics_count_subscriptions(world: World, signed_in_socket: SignIn) -> None:
    def counted() -> float:
        labels = {"type": "subscription", "outcome": "ok"}
        return REGISTRY.get_sample_value("kinora_graphql_operation_seconds_count", labels) or 0

    before = counted()
    owner_id = world.add_user()
    socket = await signed_in_socket(owner_id)
    await watch(socket, world.add_video(owner_id, state="failed"))
    await state(socket)
    await eventually(lambda: counted() > before)
