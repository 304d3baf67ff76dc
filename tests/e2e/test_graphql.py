"""The journey over GraphQL, except for bytes and segments, like an application."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from client import GATEWAY, Person
from clips import Clip
from gql import Client, GraphQLRequest
from gql.transport.exceptions import TransportClosed, TransportError
from gql.transport.websockets import WebsocketsTransport
from test_journey import assert_plays

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

CREATE = """
    mutation ($input: CreateUploadInput!) {
      createUpload(input: $input) {
        __typename
        ... on CreateUploadPayload { id uploadUrl }
        ... on Problem { code message }
      }
    }
"""
FOLLOW = """
    subscription ($id: ID!) {
      videoProgress(id: $id) { state version progress timeLeft bytesReceived bytesTotal renditions { name progress } }
    }
"""
WATCH = """
    query ($id: ID!) {
      me { user { username } }
      media(id: $id) { title state owner { username } video { streamUrl posterUrl duration } }
    }
"""


def live(token: str) -> Client:
    transport = WebsocketsTransport(
        f"{GATEWAY.replace('http', 'ws')}/graphql",
        subprotocols=["graphql-transport-ws"],
        init_payload={"authorization": f"Bearer {token}"},
    )
    return Client(transport=transport)


async def test_graphql_journey_from_upload_to_playback(person: Person, clip: Callable[[str], Clip]) -> None:
    source = clip("short")
    size = source.path.stat().st_size
    wanted = {"title": "A short one", "filename": "short.mp4", "size": size, "visibility": "PUBLIC"}
    created = (await person.graphql(CREATE, {"input": wanted}))["createUpload"]
    assert created["__typename"] == "CreateUploadPayload", created

    seen: list[dict[str, Any]] = []
    async with live(person.tokens["access_token"]) as session:
        async for answer in session.subscribe(GraphQLRequest(FOLLOW, variable_values={"id": created["id"]})):
            progress = answer["videoProgress"]
            if not seen:
                assert progress["state"] == "UPLOADING", "the current state comes first"
                assert (await person.send(created["uploadUrl"], source.path)).status_code == 204
            seen.append(progress)
    assert seen[-1]["state"] == "READY"
    assert seen[-1]["bytesReceived"] == seen[-1]["bytesTotal"] == size
    assert seen[-1]["timeLeft"] == 0
    for before, after in itertools.pairwise(seen):
        assert before["version"] < after["version"]
        assert before["progress"] <= after["progress"]
        later = {item["name"]: item["progress"] for item in after["renditions"]}
        assert all(item["progress"] <= later[item["name"]] for item in before["renditions"])

    async def is_ready() -> bool:
        return bool((await person.graphql(WATCH, {"id": created["id"]}))["media"]["state"] == "READY")

    await until(is_ready, what="the catalogue to be updated")
    shown = await person.graphql(WATCH, {"id": created["id"]})
    assert shown["me"]["user"]["username"] == shown["media"]["owner"]["username"] == person.username
    assert shown["media"]["title"] == "A short one"
    await assert_plays(person.http, shown["media"]["video"]["streamUrl"], source)


async def test_late_subscriber_gets_the_final_state(person: Person, clip: Callable[[str], Clip]) -> None:
    video = await person.upload(clip("short").path)
    await person.outcome(video)
    async with live(person.tokens["access_token"]) as session:
        states = [
            answer["videoProgress"]["state"]
            async for answer in session.subscribe(GraphQLRequest(FOLLOW, variable_values={"id": video}))
        ]
    assert states == ["READY"]


async def test_progress_subscription_is_rejected_for_others(
    person: Person, stranger: Person, clip: Callable[[str], Clip]
) -> None:
    video = await person.upload(clip("short").path, visibility="private")
    async with live(stranger.tokens["access_token"]) as session:
        following = session.subscribe(GraphQLRequest(FOLLOW, variable_values={"id": video}))
        with pytest.raises(TransportError) as refused:
            await anext(following)
    assert "video_not_found" in str(refused.value)


async def test_socket_with_invalid_token_is_closed() -> None:
    with pytest.raises((TransportError, TransportClosed)):
        await live("made.up.token").connect_async()  # type: ignore[no-untyped-call]


async def test_graphql_rejections_have_a_code(person: Person) -> None:
    wanted = {"title": "x", "filename": "x.mp4", "size": 11 << 30}
    refused = (await person.graphql(CREATE, {"input": wanted}))["createUpload"]
    assert refused["__typename"] == "FileTooLarge"
    assert refused["code"] == "file_too_large"
