"""Subscriptions by GraphQL and REST, for the owner of a channel, a subscriber and an anonymous visitor."""

from collections.abc import Callable

import pytest
from client import Person, global_id
from clips import Clip

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SUBSCRIBE = """mutation ($id: ID!) { subscribe(channelId: $id) {
  __typename ... on SubscribePayload { channel { subscriberCount viewerIsSubscribed } }
} }"""
CHANNEL = "query ($id: ID!) { channel(id: $id) { user { username } subscriberCount viewerIsSubscribed } }"
MINE = "{ subscriptions { nodes { uuid } } subscribedMedia { nodes { uuid owner { username } } } }"


async def test_subscriber_sees_what_is_new(person: Person, stranger: Person, clip: Callable[[str], Clip]) -> None:
    channel = {"id": global_id("Channel", person.id)}
    subscribed = (await stranger.graphql(SUBSCRIBE, channel))["subscribe"]["channel"]
    assert subscribed == {"subscriberCount": 1, "viewerIsSubscribed": True}
    anonymous = (await person.http.post("/graphql", json={"query": CHANNEL, "variables": channel})).json()["data"]
    shown = {"user": {"username": person.username}, "subscriberCount": 1, "viewerIsSubscribed": False}
    assert anonymous["channel"] == shown

    video = await person.upload(clip("short").path)
    assert (await person.outcome(video))["state"] == "ready"

    async def listed() -> bool:
        mine = await stranger.graphql(MINE)
        assert mine["subscriptions"]["nodes"] == [{"uuid": person.id}]
        return bool(mine["subscribedMedia"]["nodes"] == [{"uuid": video, "owner": {"username": person.username}}])

    await until(listed, what="the new video in the subscriber's list")
    assert (await stranger.http.delete(f"/media/users/{person.id}/subscription", headers=stranger.headers)).json() == {
        "user_id": person.id,
        "subscribers": 0,
        "views": 0,
    }
    assert await stranger.graphql(MINE) == {"subscriptions": {"nodes": []}, "subscribedMedia": {"nodes": []}}
