"""Every request is idempotent, because clients retry requests without a response (docs/adr/0011-repeats.md).

A state-changing request that is missing here fails the tests: add it with the effect of its second attempt.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
from client import TUS, Person, global_id
from clips import Clip
from graphql import build_schema

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

OPENAPI = json.loads(resources.files("kinora").joinpath("openapi.json").read_text())
SCHEMA = build_schema((Path(__file__).resolve().parents[2] / "apps" / "graphql" / "schema.graphql").read_text())
NEW_PASSWORD = "another correct horse"


@dataclass
class Asked:
    """The user and the objects of the requests."""

    person: Person
    media_id: str
    video_id: str
    comment_id: str
    user_id: str
    """Of another user."""
    playlist_id: str
    notification_id: str
    session_id: str
    refresh_token: str
    """Of a second session of the user."""
    account: dict[str, str]
    """The account to register."""

    @property
    def login(self) -> dict[str, str]:
        return {"login": self.person.username, "password": self.person.password}


@pytest.fixture
async def asked(person: Person, stranger: Person, clip: Callable[[str], Clip]) -> AsyncIterator[Asked]:
    document, video = [await person.upload(clip("short").path) for _ in range(2)]
    assert [(await person.outcome(each))["state"] for each in (document, video)] == ["ready", "ready"]
    login = {"login": person.username, "password": person.password}
    tokens = (await person.http.post("/auth/login", json=login)).json()
    sessions = (await person.get("/auth/sessions")).json()["items"]
    other = next(session["id"] for session in sessions if not session["current"])
    name = f"{person.username}-2"
    account = {"username": name, "email": f"{name}@example.org", "password": person.password}
    try:
        posted = await person.http.post(
            f"/media/{document}/comments", json={"body": "Hello"}, headers={**person.headers, "Idempotency-Key": "1"}
        )
        listed = await person.http.post(
            "/media/playlists", json={"title": "Mine"}, headers={**person.headers, "Idempotency-Key": "1"}
        )
        yield Asked(
            person=person,
            media_id=document,
            video_id=video,
            comment_id=posted.json()["id"],
            user_id=stranger.id,
            playlist_id=listed.json()["id"],
            notification_id=await notified(person, stranger, document, posted.json()["id"]),
            session_id=other,
            refresh_token=tokens["refresh_token"],
            account=account,
        )
    finally:
        signed_in = await person.http.post("/auth/login", json={"login": name, "password": account["password"]})
        headers = {"Authorization": f"Bearer {signed_in.json()['access_token']}"}
        password = {"current_password": account["password"]}
        await person.http.request("DELETE", "/user/profile", json=password, headers=headers)


async def notified(person: Person, stranger: Person, media_id: str, comment_id: str) -> str:
    """The id of a notification: of another user's reply."""
    await stranger.http.post(
        f"/media/{media_id}/comments",
        json={"body": "Reply", "parent_id": comment_id},
        headers={**stranger.headers, "Idempotency-Key": "1"},
    )

    async def items() -> list[Any]:
        found: list[Any] = (await person.get("/media/notifications")).json()["items"]
        return found

    async def arrived() -> bool:
        return bool(await items())

    await until(arrived, what="the notification")
    return str((await items())[0]["id"])


def nothing(_: Asked) -> None:
    return None


@dataclass(frozen=True)
class Request:
    body: Callable[[Asked], Any]
    first: int
    second: int
    """The statuses of both responses; if they are equal, so are the bodies."""
    creates: bool = False
    """Creates something new each time, which expires if unused."""
    headers: dict[str, str] = field(default_factory=dict)


# The order matters: the last ones delete what the others need.
REST = {
    "POST /auth/register": Request(lambda it: it.account, 201, 201),
    "POST /auth/login": Request(lambda it: it.login, 200, 200, creates=True),
    "POST /auth/refresh": Request(lambda it: {"refresh_token": it.refresh_token}, 200, 200),
    "POST /user/list": Request(lambda it: {"ids": [it.person.id]}, 200, 200),
    "PATCH /user/profile": Request(lambda _: {"display_name": "Ada", "bio": "Counts."}, 200, 200),
    "POST /user/export": Request(nothing, 202, 202),
    "DELETE /user/export": Request(nothing, 204, 204),
    "POST /media": Request(lambda _: {"title": "T", "filename": "t.mp4", "size": 10}, 201, 201, creates=True),
    "PATCH /media/{media_id}": Request(lambda _: {"title": "A title", "tags": ["a", "b"]}, 200, 200),
    "POST /media/{media_id}/comments": Request(
        lambda _: {"body": "Once"}, 201, 201, headers={"Idempotency-Key": "once"}
    ),
    "PATCH /media/{media_id}/comments/{comment_id}": Request(lambda _: {"body": "Edited"}, 200, 200),
    "PUT /media/{media_id}/comments/{comment_id}/like": Request(nothing, 200, 200),
    "DELETE /media/{media_id}/comments/{comment_id}/like": Request(nothing, 200, 200),
    "PUT /media/{media_id}/comments/{comment_id}/pin": Request(nothing, 200, 200),
    "DELETE /media/{media_id}/comments/{comment_id}/pin": Request(nothing, 200, 200),
    "PUT /media/notifications/read": Request(lambda it: {"ids": [it.notification_id]}, 200, 200),
    "DELETE /media/notifications/{notification_id}": Request(nothing, 204, 404),
    "DELETE /media/{media_id}/comments/{comment_id}": Request(nothing, 204, 404),
    "PUT /media/users/{user_id}/subscription": Request(nothing, 200, 200),
    "DELETE /media/users/{user_id}/subscription": Request(nothing, 200, 200),
    "PUT /media/users/{user_id}/hidden": Request(nothing, 204, 204),
    "DELETE /media/users/{user_id}/hidden": Request(nothing, 204, 204),
    "POST /media/playlists": Request(lambda _: {"title": "Once"}, 201, 201, headers={"Idempotency-Key": "once"}),
    "PATCH /media/playlists/{playlist_id}": Request(lambda _: {"title": "Edited"}, 200, 200),
    "PUT /media/playlists/{playlist_id}/items/{media_id}": Request(lambda _: {"index": 0}, 200, 200),
    "DELETE /media/playlists/{playlist_id}/items/{media_id}": Request(nothing, 200, 200),
    "DELETE /media/playlists/{playlist_id}": Request(nothing, 204, 404),
    "POST /media/{media_id}/views": Request(lambda _: {"position": 1.5}, 204, 204),
    "POST /media/impressions": Request(
        lambda it: {"impressions": [{"media_id": it.media_id, "surface": "feed", "position": 0}]},
        204,
        204,
        headers={"Idempotency-Key": "once"},
    ),
    "PUT /media/personalisation": Request(lambda _: {"enabled": True}, 200, 200),
    "DELETE /media/{media_id}/history": Request(nothing, 204, 204),
    "DELETE /media/history": Request(nothing, 204, 204),
    "PUT /media/{media_id}/hidden": Request(nothing, 204, 204),
    "DELETE /media/{media_id}/hidden": Request(nothing, 204, 204),
    "PUT /media/{media_id}/like": Request(nothing, 200, 200),
    "DELETE /media/{media_id}/like": Request(nothing, 200, 200),
    "PATCH /video/{video_id}": Request(lambda _: {"poster_time": 2.5}, 202, 202),
    "DELETE /media/{media_id}": Request(nothing, 204, 404),
    "DELETE /video/{video_id}": Request(nothing, 204, 404),
    "DELETE /auth/sessions/{session_id}": Request(nothing, 204, 404),
    "PUT /auth/password": Request(
        lambda it: {"current_password": it.person.password, "new_password": NEW_PASSWORD}, 204, 204
    ),
    "POST /auth/logout": Request(nothing, 204, 401),
    "POST /auth/logout-all": Request(nothing, 204, 401),
    "DELETE /user/profile": Request(lambda _: {"current_password": NEW_PASSWORD}, 204, 401),
}


async def test_rest_requests_are_idempotent(asked: Asked) -> None:
    assert set(REST) == {
        f"{method.upper()} {path}"
        for path, operations in OPENAPI["paths"].items()
        for method in set(operations) - {"get", "head", "options"}
        if not path.startswith("/video/upload")  # bytes, below
    }
    person = asked.person
    for name, request in REST.items():
        if name in ("POST /auth/logout-all", "DELETE /user/profile"):  # the session has just ended
            person.tokens = (await person.http.post("/auth/login", json=asked.login)).json()
        method, path = name.split()
        address, body = path.format(**vars(asked)), request.body(asked)
        first, second = [
            await person.http.request(method, address, json=body, headers=person.headers | request.headers)
            for _ in range(2)
        ]
        assert (first.status_code, second.status_code) == (request.first, request.second), (name, second.text)
        if request.first == request.second:
            assert (said(first) != said(second)) == request.creates, name
        if name == "PUT /auth/password":
            person.password = NEW_PASSWORD


def said(answer: httpx.Response) -> Any:
    """The body of a response, without time-dependent values."""
    if not answer.content:
        return None
    return {name: value for name, value in answer.json().items() if name != "expires_in"}


@dataclass(frozen=True)
class Mutation:
    call: Callable[[Asked], str]
    second: str = ""
    """The type of the second response, if it differs from the first."""
    creates: bool = False


def media(result: str) -> Callable[[Asked], str]:
    return lambda it: f'(mediaId: "{global_id("Media", it.media_id)}") {{ __typename ... on {result} }}'


def channel(result: str) -> Callable[[Asked], str]:
    return lambda it: f'(channelId: "{global_id("Channel", it.user_id)}") {{ __typename ... on {result} }}'


def playlist(more: str, result: str) -> Callable[[Asked], str]:
    return lambda it: f'(id: "{global_id("Playlist", it.playlist_id)}" {more}) {{ __typename ... on {result} }}'


def item(it: Asked) -> str:
    media_id = global_id("Media", it.media_id)
    return playlist(f'mediaId: "{media_id}"', "PlaylistItemPayload { playlist { itemCount } }")(it)


def comment(result: str) -> Callable[[Asked], str]:
    return lambda it: f'(id: "{global_id("Comment", it.comment_id)}") {{ __typename ... on {result} }}'


MUTATIONS = {
    "register": Mutation(
        lambda it: (
            f"""(input: {{username: "{it.account["username"]}", email: "{it.account["email"]}",
            password: "{it.account["password"]}"}}) {{ ... on RegisterPayload {{ profile {{ user {{ id }} }} }} }}"""
        )
    ),
    "login": Mutation(
        lambda it: (
            f"""(input: {{login: "{it.person.username}", password: "{it.person.password}"}})
            {{ ... on LoginPayload {{ tokens {{ refreshToken }} }} }}"""
        ),
        creates=True,
    ),
    "refresh": Mutation(
        lambda it: (
            f"""(input: {{refreshToken: "{it.refresh_token}"}})
            {{ ... on RefreshPayload {{ tokens {{ refreshToken }} }} }}"""
        )
    ),
    "updateProfile": Mutation(
        lambda _: '(input: {bio: "Counts."}) { ... on UpdateProfilePayload { profile { user { bio } } } }'
    ),
    "requestExport": Mutation(lambda _: "{ export { createdAt } }"),
    "cancelExport": Mutation(lambda _: "{ done }"),
    "updateMedia": Mutation(
        lambda it: (
            f"""(id: "{global_id("Media", it.media_id)}", input: {{title: "A title"}})
            {{ ... on UpdateMediaPayload {{ media {{ title updatedAt }} }} }}"""
        )
    ),
    "createUpload": Mutation(
        lambda _: '(input: {title: "T", filename: "t.mp4", size: 10}) { ... on CreateUploadPayload { uploadUrl } }',
        creates=True,
    ),
    "postComment": Mutation(
        lambda it: (
            f"""(input: {{mediaId: "{global_id("Media", it.media_id)}", body: "Once", key: "once"}})
            {{ ... on PostCommentPayload {{ comment {{ id }} }} }}"""
        )
    ),
    "editComment": Mutation(
        lambda it: (
            f"""(id: "{global_id("Comment", it.comment_id)}", body: "Edited")
            {{ ... on EditCommentPayload {{ comment {{ editedAt }} }} }}"""
        )
    ),
    "likeComment": Mutation(comment("LikeCommentPayload { comment { likeCount } }")),
    "unlikeComment": Mutation(comment("LikeCommentPayload { comment { likeCount } }")),
    "pinComment": Mutation(comment("PinCommentPayload { comment { isPinned } }")),
    "unpinComment": Mutation(comment("PinCommentPayload { comment { isPinned } }")),
    "markNotificationsRead": Mutation(
        lambda it: (
            f"""(input: {{ids: ["{global_id("Notification", it.notification_id)}"]}})
            {{ ... on MarkNotificationsReadPayload {{ unreadNotifications }} }}"""
        )
    ),
    "deleteNotification": Mutation(
        lambda it: f'(id: "{global_id("Notification", it.notification_id)}") {{ __typename }}',
        second="NotificationNotFound",
    ),
    "deleteComment": Mutation(comment("DeleteCommentPayload { commentId }"), second="CommentNotFound"),
    **{
        name: Mutation(channel(result))
        for name, result in (
            ("subscribe", "SubscribePayload { channel { subscriberCount } }"),
            ("unsubscribe", "SubscribePayload { channel { subscriberCount } }"),
            ("hideChannel", "HideChannelPayload { channelId }"),
            ("unhideChannel", "HideChannelPayload { channelId }"),
        )
    },
    "createPlaylist": Mutation(
        lambda _: '(input: {title: "Once", key: "once"}) { ... on CreatePlaylistPayload { playlist { id } } }'
    ),
    "updatePlaylist": Mutation(
        playlist('input: {title: "Edited"}', "UpdatePlaylistPayload { playlist { title updatedAt } }")
    ),
    "placeInPlaylist": Mutation(item),
    "removeFromPlaylist": Mutation(item),
    "deletePlaylist": Mutation(playlist("", "DeletePlaylistPayload { playlistId }"), second="PlaylistNotFound"),
    "recordView": Mutation(
        lambda it: (
            f"""(input: {{mediaId: "{global_id("Media", it.media_id)}", position: 1.5}})
            {{ ... on RecordViewPayload {{ mediaId }} }}"""
        )
    ),
    "recordImpressions": Mutation(
        lambda it: (
            f"""(input: {{impressions: [{{mediaId: "{global_id("Media", it.media_id)}", surface: FEED, position: 0}}],
            key: "once"}}) {{ ... on RecordImpressionsPayload {{ done }} }}"""
        )
    ),
    "setPersonalisation": Mutation(lambda _: "(enabled: true) { enabled }"),
    "removeFromHistory": Mutation(media("RemoveFromHistoryPayload { mediaId }")),
    "clearHistory": Mutation(lambda _: "{ done }"),
    "notInterested": Mutation(media("NotInterestedPayload { mediaId }")),
    "interested": Mutation(media("NotInterestedPayload { mediaId }")),
    "like": Mutation(media("LikePayload { media { likeCount } }")),
    "unlike": Mutation(media("LikePayload { media { likeCount } }")),
    "choosePoster": Mutation(
        lambda it: (
            f"""(id: "{global_id("Video", it.video_id)}", time: 0.5)
            {{ __typename ... on ChoosePosterPayload {{ videoId }} }}"""
        )
    ),
    "deleteMedia": Mutation(
        lambda it: f'(id: "{global_id("Media", it.media_id)}") {{ __typename }}', second="MediaNotFound"
    ),
    "deleteVideo": Mutation(
        lambda it: f'(id: "{global_id("Video", it.video_id)}") {{ __typename }}', second="VideoNotFound"
    ),
    "revokeSession": Mutation(
        lambda it: f'(id: "{global_id("Session", it.session_id)}") {{ __typename }}', second="SessionNotFound"
    ),
    "changePassword": Mutation(
        lambda it: (
            f"""(input: {{currentPassword: "{it.person.password}", newPassword: "{NEW_PASSWORD}"}})
            {{ ... on ChangePasswordPayload {{ done }} }}"""
        )
    ),
    # The session has ended.
    "logout": Mutation(lambda _: "{ done }", second="invalid_token"),
    "logoutAll": Mutation(lambda _: "{ done }", second="invalid_token"),
    "deleteAccount": Mutation(
        lambda _: f'(input: {{currentPassword: "{NEW_PASSWORD}"}}) {{ ... on DeleteAccountPayload {{ done }} }}',
        second="invalid_token",
    ),
}


async def test_mutations_are_idempotent(asked: Asked) -> None:
    assert SCHEMA.mutation_type
    assert set(MUTATIONS) == set(SCHEMA.mutation_type.fields)
    person = asked.person
    for name, mutation in MUTATIONS.items():
        if name in ("logoutAll", "deleteAccount"):  # the session has just ended
            person.tokens = (await person.http.post("/auth/login", json=asked.login)).json()
        query = {"query": f"mutation {{ {name}{mutation.call(asked)} }}"}
        first, second = [await person.http.post("/graphql", json=query, headers=person.headers) for _ in range(2)]
        assert first.json().get("data", {}).get(name), (name, first.text)
        if mutation.second:
            assert mutation.second not in first.text, name
            assert mutation.second in second.text, name
        else:
            assert "errors" not in second.json(), (name, second.text)
            assert (first.text != second.text) == mutation.creates, name
        if name == "changePassword":
            person.password = NEW_PASSWORD


async def test_upload_bytes_are_idempotent(person: Person) -> None:
    """The client then asks for the offset (tus 1.0, PATCH)."""
    other, location = [(await person.create("t.mp4", 10)).headers["location"] for _ in range(2)]
    assert other != location, "one of them stays unused"
    headers = {**person.headers, **TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    answers = [await person.http.patch(location, headers=headers, content=b"12345") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [204, 409]
    assert await person.offset(location) == 5
    answers = [await person.http.delete(location, headers={**person.headers, **TUS}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [204, 410]
