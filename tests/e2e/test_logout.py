"""After the response to a logout, no process accepts the session's tokens, although all remembered it as live."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from client import GATEWAY, Person, global_id, video_id
from environment import load
from websockets import ConnectionClosedError, Subprotocol
from websockets.asyncio.client import connect

from kinora.auth.v1 import auth_pb2, auth_pb2_grpc
from kinora.media.v1 import media_pb2, media_pb2_grpc
from kinora.video.v1 import video_pb2, video_pb2_grpc
from kinora_kit import rpc
from kinora_kit.errors import DomainError

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ROUNDS = 5
AT_ONCE_SECONDS = 3
"""Until long-lived connections end: less than the time after which their session is checked anyway."""
FOLLOW = "subscription ($id: ID!) { videoProgress(id: $id) { state } }"

Ask = Callable[[str], Awaitable[bool]]
"""Whether a token is accepted."""


@contextlib.asynccontextmanager
async def processes(person: Person) -> AsyncIterator[dict[str, Ask]]:
    """Each process that verifies tokens."""

    async def rest(token: str) -> bool:
        answer = await person.http.get("/user/profile", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code in (200, 401), answer.text
        return answer.status_code == 200

    async def graphql(token: str) -> bool:
        headers = {"Authorization": f"Bearer {token}"}
        answer = await person.http.post("/graphql", headers=headers, json={"query": "{ me { email } }"})
        errors = answer.json().get("errors")
        assert not errors or errors[0]["extensions"]["code"] == "invalid_token", errors
        return not errors

    def called(call: Callable[[], Awaitable[object]]) -> Ask:
        async def ask(token: str) -> bool:
            rpc.access_token.set(token)
            try:
                await call()
            except DomainError as error:
                if error.code != "invalid_token":
                    raise
                return False
            return True

        return ask

    addresses = load("graphql")
    async with contextlib.AsyncExitStack() as stack:
        auth, media, video = [
            await stack.enter_async_context(rpc.connect(addresses[f"KINORA_{name}_GRPC"]))
            for name in ("AUTH", "MEDIA", "VIDEO")
        ]
        users = auth_pb2_grpc.UsersStub(auth)
        catalogue = media_pb2_grpc.CatalogueStub(media)
        videos = video_pb2_grpc.VideosStub(video)
        yield {
            "gateway": rest,
            "graphql": graphql,
            "auth": called(lambda: users.ListUsers(auth_pb2.ListUsersRequest(ids=[person.id]))),
            "media": called(lambda: catalogue.ListMedia(media_pb2.ListMediaRequest(ids=[person.id]))),
            "video": called(lambda: videos.ListVideos(video_pb2.ListVideosRequest(ids=[person.id]))),
        }


async def accepting(asks: dict[str, Ask], token: str) -> set[str]:
    answers = await asyncio.gather(*(ask(token) for ask in asks.values()))
    return {name for name, accepted in zip(asks, answers, strict=True) if accepted}


async def test_logout_is_answered_when_every_process_rejects_the_token(person: Person) -> None:
    upload = video_id((await person.create("clip.mp4", 10)).headers["location"])
    login = {"login": person.username, "password": person.password}
    async with processes(person) as asks:
        for _ in range(ROUNDS):
            token = (await person.http.post("/auth/login", json=login)).json()["access_token"]
            headers = {"Authorization": f"Bearer {token}"}
            for _ in range(2):  # the second time, they remember the session
                assert await accepting(asks, token) == set(asks)
            subscribing, events = asyncio.Event(), asyncio.Event()
            closed = asyncio.create_task(until_closed(token, upload, subscribing))
            ended = asyncio.create_task(until_end(person.http, headers, upload, events))
            await asyncio.gather(subscribing.wait(), events.wait())
            assert (await person.http.post("/auth/logout", headers=headers)).status_code == 204
            assert await accepting(asks, token) == set()
            async with asyncio.timeout(AT_ONCE_SECONDS):
                await asyncio.gather(closed, ended)


async def until_closed(token: str, upload: str, started: asyncio.Event) -> None:
    """Subscribes over a WebSocket; returns when the server closes it because of the token."""
    variables = {"id": global_id("Video", upload)}
    subscribe = {"id": "1", "type": "subscribe", "payload": {"query": FOLLOW, "variables": variables}}
    url = f"{GATEWAY.replace('http', 'ws')}/graphql"
    async with connect(url, subprotocols=[Subprotocol("graphql-transport-ws")]) as socket:
        payload = {"authorization": f"Bearer {token}"}
        await socket.send(json.dumps({"type": "connection_init", "payload": payload}))
        await socket.send(json.dumps(subscribe))
        with contextlib.suppress(ConnectionClosedError):
            async for message in socket:
                if json.loads(message)["type"] == "next":
                    started.set()
        assert socket.close_code == 4403


async def until_end(http: httpx.AsyncClient, headers: dict[str, str], upload: str, started: asyncio.Event) -> None:
    """Follows an upload by server-sent events; returns when the stream ends."""
    async with http.stream("GET", f"/video/{upload}/progress", headers=headers) as answer:
        async for _ in answer.aiter_lines():
            started.set()
