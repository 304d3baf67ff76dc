"""Notifications by GraphQL: the recipient, the owner of a video, and an anonymous visitor."""

from collections.abc import Callable
from typing import Any

import pytest
from client import Person, global_id
from clips import Clip

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MINE = """{
  unreadNotifications
  notifications { nodes { id uuid kind isRead createdAt media { uuid title } comment { body author { username } } } }
}"""
READ = """mutation ($input: MarkNotificationsReadInput!) { markNotificationsRead(input: $input) {
  ... on MarkNotificationsReadPayload { unreadNotifications }
} }"""
DELETE = "mutation ($id: ID!) { deleteNotification(id: $id) { __typename } }"
NODE = "query ($id: ID!) { node(id: $id) { ... on Notification { kind } } }"


async def test_subscriber_is_notified_of_video_and_reply(
    person: Person, stranger: Person, clip: Callable[[str], Clip]
) -> None:
    subscription = f"/media/users/{person.id}/subscription"
    assert (await stranger.http.put(subscription, headers=stranger.headers)).status_code == 200
    video = await person.upload(clip("short").path)

    async def post(by: Person, body: str, parent: str | None = None) -> Any:
        wanted = {"body": body, "parent_id": parent}
        headers = {**by.headers, "Idempotency-Key": body}
        return (await by.http.post(f"/media/{video}/comments", json=wanted, headers=headers)).json()

    async def kinds(*expected: str) -> list[Any]:
        found: list[Any] = []

        async def arrived() -> bool:
            found[:] = (await stranger.graphql(MINE))["notifications"]["nodes"]
            return [each["kind"] for each in found] == list(expected)

        await until(arrived, what="the notifications")
        return found

    (published,) = await kinds("VIDEO")
    assert (published["media"]["uuid"], published["comment"], published["isRead"]) == (video, None, False)
    comment = await post(stranger, "First")
    await post(person, "Thanks", comment["id"])
    reply, _ = await kinds("REPLY", "VIDEO")
    assert reply["comment"] == {"body": "Thanks", "author": {"username": person.username}}
    assert (await stranger.graphql(MINE))["unreadNotifications"] == 2
    assert (await person.graphql(MINE))["notifications"]["nodes"] == []

    about = {"id": reply["id"]}
    assert (await stranger.graphql(NODE, about))["node"] == {"kind": "REPLY"}
    assert (await person.graphql(NODE, about))["node"] is None
    assert (await person.graphql(DELETE, about))["deleteNotification"] == {"__typename": "NotificationNotFound"}
    read = {"input": {"until": published["createdAt"]}}
    assert (await stranger.graphql(READ, read))["markNotificationsRead"] == {"unreadNotifications": 1}
    assert (await stranger.graphql(DELETE, about))["deleteNotification"] == {"__typename": "DeleteNotificationPayload"}
    assert [each["isRead"] for each in await kinds("VIDEO")] == [True]
    for query in (MINE, DELETE):
        refused = await person.http.post("/graphql", json={"query": query, "variables": about})
        assert refused.json()["errors"][0]["extensions"]["code"] == "not_signed_in"

    assert (await person.patch(f"/media/{video}", {"visibility": "private"})).status_code == 200
    assert (await stranger.graphql(MINE))["notifications"]["nodes"] == []
    assert (await person.patch(f"/media/{video}", {"visibility": "public"})).status_code == 200
    assert [each["uuid"] for each in await kinds("VIDEO")] == [published["uuid"]]
    assert published["id"] == global_id("Notification", published["uuid"])
