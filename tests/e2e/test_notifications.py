"""Notifications by GraphQL, for a subscriber of a channel."""

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

    about = {"id": reply["id"]}
    read = {"input": {"until": published["createdAt"]}}
    assert (await stranger.graphql(READ, read))["markNotificationsRead"] == {"unreadNotifications": 1}
    assert (await stranger.graphql(DELETE, about))["deleteNotification"] == {"__typename": "DeleteNotificationPayload"}
    assert [each["isRead"] for each in await kinds("VIDEO")] == [True]

    assert (await person.patch(f"/media/{video}", {"visibility": "private"})).status_code == 200
    assert (await stranger.graphql(MINE))["notifications"]["nodes"] == []
    assert (await person.patch(f"/media/{video}", {"visibility": "public"})).status_code == 200
    assert [each["uuid"] for each in await kinds("VIDEO")] == [published["uuid"]]
    assert published["id"] == global_id("Notification", published["uuid"])
