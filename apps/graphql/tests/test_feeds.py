"""commentPosted, mediaPublished and uploadsProgress, over the real broker."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from websockets.asyncio.client import ClientConnection

from kinora.events.media import CHANNELS_EXCHANGE, COMMENTS_EXCHANGE, ChannelSubscribed, CommentPosted, MediaPublished
from kinora.events.video import UPLOADS_EXCHANGE, TranscodeProgressed
from kinora.media.v1 import media_pb2
from kinora_graphql import ids
from kinora_kit.broker import Broker
from kinora_kit.events import Payload, event
from kinora_kit.testing import Proxy

SignIn = Callable[[UUID], Awaitable[ClientConnection]]
World = Any

COMMENTS = "subscription ($id: ID!) { commentPosted(mediaId: $id) { uuid } }"
MEDIA = "subscription { mediaPublished { uuid } }"
UPLOADS = "subscription { uploadsProgress { videoId progress { state version } media { uuid } } }"


async def subscribe(socket: ClientConnection, document: str, **variables: str) -> None:
    payload = {"query": document, "variables": variables}
    await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))


async def hear(socket: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(socket.recv(), 15))


async def got(socket: ClientConnection, field: str) -> Any:
    message = await hear(socket)
    assert message["type"] == "next", message
    assert "errors" not in message["payload"], message
    return message["payload"]["data"][field]


async def refused(socket: ClientConnection) -> list[str]:
    """The codes of the errors that end the subscription."""
    answer = await hear(socket)
    if answer["type"] == "error":
        errors = answer["payload"]
    else:
        errors = answer["payload"]["errors"]
        assert (await hear(socket))["type"] == "complete"
    return [error["extensions"]["code"] for error in errors]


async def tell(bus: Broker, payload: Payload, *, exchange: str, key: UUID | str) -> None:
    message = event("test", payload)
    body = message.model_dump_json().encode()
    await bus.publish(body, exchange=exchange, routing_key=str(key), message_id=str(message.id))


async def until_heard(socket: ClientConnection, field: str, send: Callable[[], Awaitable[None]]) -> Any:
    """Send until the subscription, whose beginning is not confirmed, receives something."""
    receiving = asyncio.ensure_future(got(socket, field))
    while not receiving.done():
        await send()
        await asyncio.wait([receiving], timeout=0.2)
    return await receiving


async def skip(socket: ClientConnection, field: str, seen: Any) -> Any:
    """What follows ``seen``, which may have been sent several times."""
    while (found := await got(socket, field)) == seen:
        pass
    return found


def posted(world: World, media_id: str) -> CommentPosted:
    author_id = world.add_user()
    comment_id = world.add_comment(media_id, author_id)
    return CommentPosted(media_id=media_id, owner_id=author_id, comment_id=comment_id, author_id=author_id)


def published(world: World, owner_id: UUID) -> MediaPublished:
    return MediaPublished(media_id=world.add_video(owner_id, state="ready"), owner_id=owner_id, title="Title")


async def test_comment_posted_ends_when_the_video_turns_private(
    bus: Broker, world: World, signed_in_socket: SignIn, broker_proxy: Proxy
) -> None:
    owner_id = world.add_user()
    media_id = world.add_video(owner_id)
    mine, others = await signed_in_socket(owner_id), await signed_in_socket(world.add_user())
    first, second, third = [posted(world, media_id) for _ in range(3)]

    async def send(payload: CommentPosted) -> None:
        await tell(bus, payload, exchange=COMMENTS_EXCHANGE, key=media_id)

    for socket in (mine, others):
        await subscribe(socket, COMMENTS, id=ids.make("Media", media_id))
        heard = await until_heard(socket, "commentPosted", lambda: send(first))
        assert heard == {"uuid": str(first.comment_id)}
    del world.comments[str(second.comment_id)]  # deleted meanwhile
    world.media[media_id].visibility = media_pb2.VISIBILITY_PRIVATE
    for payload in (second, third):
        await send(payload)
    assert await skip(mine, "commentPosted", heard) == {"uuid": str(third.comment_id)}
    while (message := await hear(others))["type"] == "next":
        assert message["payload"]["data"]["commentPosted"] == heard
    assert message == {"id": "1", "type": "complete"}
    await subscribe(others, COMMENTS, id=ids.make("Media", media_id))
    assert await refused(others) == ["media_not_found"]


async def test_media_published_follows_subscriptions(
    bus: Broker, world: World, signed_in_socket: SignIn, broker_proxy: Proxy
) -> None:
    user_id, followed, later = [world.add_user() for _ in range(3)]
    world.followed[user_id] = {str(followed)}
    socket = await signed_in_socket(user_id)
    await subscribe(socket, MEDIA)
    first = published(world, followed)

    async def send(payload: MediaPublished) -> None:
        await tell(bus, payload, exchange=CHANNELS_EXCHANGE, key=payload.owner_id)

    seen = await until_heard(socket, "mediaPublished", lambda: send(first))
    assert seen == {"uuid": str(first.media_id)}

    world.followed[user_id].add(str(later))
    await tell(
        bus, ChannelSubscribed(channel_id=later, user_id=user_id, version=1), exchange=CHANNELS_EXCHANGE, key=user_id
    )
    second = published(world, later)
    sending = await until_heard_again(socket, seen, lambda: send(second))
    assert sending == {"uuid": str(second.media_id)}

    await broker_proxy.cut()
    await broker_proxy.restore()
    third, last = published(world, followed), published(world, followed)
    seen = await until_heard_again(socket, sending, lambda: send(third))
    hidden, unfollowed = published(world, followed), published(world, later)
    world.media[str(hidden.media_id)].visibility = media_pb2.VISIBILITY_PRIVATE
    world.followed[user_id].remove(str(later))
    for payload in (hidden, unfollowed, last):
        await send(payload)
    assert await skip(socket, "mediaPublished", seen) == {"uuid": str(last.media_id)}


async def until_heard_again(socket: ClientConnection, seen: Any, send: Callable[[], Awaitable[None]]) -> Any:
    while (found := await until_heard(socket, "mediaPublished", send)) == seen:
        pass
    return found


async def test_uploads_progress_has_all_own_uploads(
    bus: Broker, world: World, signed_in_socket: SignIn, broker_proxy: Proxy
) -> None:
    owner_id = world.add_user()
    begun, ended = world.add_video(owner_id, version=3), world.add_video(owner_id, state="ready")
    socket = await signed_in_socket(owner_id)
    await subscribe(socket, UPLOADS)

    def state(video_id: str, state: str, version: int) -> dict[str, Any]:
        progress = {"state": state.upper(), "version": version}
        return {"videoId": ids.make("Video", video_id), "progress": progress, "media": {"uuid": video_id}}

    async def send(video_id: str, version: int, state: str = "processing") -> None:
        payload = TranscodeProgressed(
            video_id=video_id,
            owner_id=owner_id,
            state=state,
            version=version,
            bytes_received=1,
            bytes_total=1,
            progress=0.5,
        )
        await tell(bus, payload, exchange=UPLOADS_EXCHANGE, key=owner_id)

    assert await got(socket, "uploadsProgress") == state(begun, "processing", 3)
    new = world.add_video(owner_id)
    await send(new, 5)
    assert await got(socket, "uploadsProgress") == state(new, "processing", 5)
    await send(begun, 2)  # late
    await send(begun, 9, "ready")
    assert await got(socket, "uploadsProgress") == state(begun, "ready", 9)

    await broker_proxy.cut()
    world.progress[new].state, world.progress[new].version = "ready", 12
    await broker_proxy.restore()
    assert await got(socket, "uploadsProgress") == state(new, "ready", 12), "it ended while nobody heard of it"
    await send(ended, 99)
    assert await got(socket, "uploadsProgress") == state(ended, "processing", 99)


async def test_subscriptions_of_users_require_a_sign_in(address: str, open_socket: Any) -> None:
    async with open_socket(address) as socket:
        await socket.send(json.dumps({"type": "connection_init"}))
        assert (await hear(socket))["type"] == "connection_ack"
        for document in (MEDIA, UPLOADS):
            await subscribe(socket, document)
            assert await refused(socket) == ["not_signed_in"]
