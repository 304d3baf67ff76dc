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
    own = await person.graphql(SUBSCRIBE, channel)
    assert own["subscribe"]["__typename"] == "InvalidInput"
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


DASHBOARD = """{
  dashboard { totals { subscribers likes } days { date changes { subscribers } } }
  uploads { nodes { uuid state video { state } } }
}"""


async def test_dashboard_of_the_owner(person: Person, stranger: Person, clip: Callable[[str], Clip]) -> None:
    video = await person.upload(clip("short").path)
    await stranger.graphql(SUBSCRIBE, {"id": global_id("Channel", person.id)})

    async def shown() -> bool:
        mine = await person.graphql(DASHBOARD)
        (day,) = mine["dashboard"]["days"]
        return (
            mine["dashboard"]["totals"] == {"subscribers": 1, "likes": 0}
            and day["changes"] == {"subscribers": 1}
            and [node["uuid"] for node in mine["uploads"]["nodes"]] == [video]
        )

    await until(shown, what="the subscriber and the upload")
    anonymous = await person.http.post("/graphql", json={"query": DASHBOARD})
    assert {error["extensions"]["code"] for error in anonymous.json()["errors"]} == {"not_signed_in"}
