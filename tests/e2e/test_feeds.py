"""Subscriptions by GraphQL over WebSocket: the owner of a video, a subscriber of the channel, an anonymous visitor."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from client import GATEWAY, Person, global_id, video_id
from clips import Clip
from gql import Client, GraphQLRequest
from gql.transport.websockets import WebsocketsTransport

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PUBLISHED = "subscription { mediaPublished { uuid } }"
UPLOADS = "subscription { uploadsProgress { videoId progress { state } } }"
COMMENTS = "subscription ($id: ID!) { commentPosted(mediaId: $id) { body author { username } } }"


class Feed:
    """One subscription, which keeps what it received."""

    def __init__(self, person: Person | None, document: str, **variables: str) -> None:
        init = {"authorization": f"Bearer {person.tokens['access_token']}"} if person else {}
        self._transport = WebsocketsTransport(
            f"{GATEWAY.replace('http', 'ws')}/graphql", subprotocols=["graphql-transport-ws"], init_payload=init
        )
        self._request = GraphQLRequest(document, variable_values=variables)
        self.received: list[Any] = []

    async def follow(self) -> None:
        """Until the server completes it."""
        async with Client(transport=self._transport) as session:
            async for answer in session.subscribe(self._request):
                self.received += answer.values()


@contextlib.asynccontextmanager
async def followed(*feeds: Feed) -> AsyncIterator[list[asyncio.Task[None]]]:
    running = [asyncio.create_task(feed.follow()) for feed in feeds]
    try:
        yield running
    finally:
        for each in running:
            each.cancel()
        await asyncio.wait(running)


def has(happened: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return happened()

    return check


async def test_feeds_of_uploads_channels_and_comments(
    person: Person, stranger: Person, clip: Callable[[str], Clip]
) -> None:
    subscription = f"/media/users/{person.id}/subscription"
    assert (await stranger.http.put(subscription, headers=stranger.headers)).status_code == 200
    path = clip("short").path
    location = (await person.create(path.name, path.stat().st_size)).headers["location"]
    video = video_id(location)
    uploads, published = Feed(person, UPLOADS), Feed(stranger, PUBLISHED)

    def states() -> list[str]:
        return [each["progress"]["state"] for each in uploads.received]

    async with followed(uploads, published):
        await until(has(lambda: states() == ["UPLOADING"]), what="the current state")
        assert (await person.send(location, path)).status_code == 204
        await until(has(lambda: states()[-1] == "READY"), what="the upload to be ready")
        assert {each["videoId"] for each in uploads.received} == {global_id("Video", video)}

        async def heard() -> bool:
            """Again and again, because the beginning of a subscription is not confirmed."""
            for visibility in ("private", "public"):
                assert (await person.patch(f"/media/{video}", {"visibility": visibility})).status_code == 200
            return bool(published.received)

        await until(heard, what="the published video")
        assert published.received[0] == {"uuid": video}

    about = {"id": global_id("Media", video)}
    mine, theirs, anonymous = [Feed(each, COMMENTS, **about) for each in (person, stranger, None)]

    async def post(body: str) -> None:
        headers = {**person.headers, "Idempotency-Key": body}
        answer = await person.http.post(f"/media/{video}/comments", json={"body": body}, headers=headers)
        assert answer.status_code == 201, answer.text

    async with followed(mine, theirs, anonymous) as (_, of_theirs, of_anonymous):
        posted: list[str] = []

        async def all_heard() -> bool:
            posted.append(f"public-{len(posted)}")
            await post(posted[-1])
            return all(each.received for each in (mine, theirs, anonymous))

        await until(all_heard, what="the comments")
        assert theirs.received[0]["author"] == {"username": person.username}
        assert (await person.patch(f"/media/{video}", {"visibility": "private"})).status_code == 200
        await post("private")
        await asyncio.wait_for(asyncio.gather(of_theirs, of_anonymous), 30)

        await until(has(lambda: mine.received[-1]["body"] == "private"), what="the owner's comment")
        for feed in (theirs, anonymous):
            assert {each["body"] for each in feed.received} <= set(posted)
