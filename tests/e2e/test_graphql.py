"""The journey over GraphQL, except for bytes and segments, like an application."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from client import GATEWAY, Person, global_id
from clips import Clip
from gql import Client, GraphQLRequest
from gql.transport.exceptions import TransportClosed, TransportError
from gql.transport.websockets import WebsocketsTransport
from npm import Subscriber, audits
from test_journey import assert_plays

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

CREATE = """
    mutation ($input: CreateUploadInput!) {
      createUpload(input: $input) {
        __typename
        ... on CreateUploadPayload { mediaId videoId uploadUrl }
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
      media(id: $id) {
        title description tags visibility category { slug } state
        owner { username }
        video { streamUrl posterUrl duration }
      }
    }
"""


LISTS = """
    query ($id: ID!) {
      feed(first: 1) { nodes { id } }
      channel(id: $id) { media { nodes { id } } }
      search(query: "ONE short", category: "film", ownerId: $id, sort: POPULAR) { nodes { id } }
    }
"""


def live(token: str) -> Client:
    transport = WebsocketsTransport(
        f"{GATEWAY.replace('http', 'ws')}/graphql",
        subprotocols=["graphql-transport-ws"],
        init_payload={"authorization": f"Bearer {token}"},
    )
    return Client(transport=transport)


async def test_graphql_journey_from_upload_to_playback(
    person: Person, stranger: Person, clip: Callable[[str], Clip]
) -> None:
    source = clip("short")
    size = source.path.stat().st_size
    described = {"title": "A short one", "description": "x" * 10_000, "tags": ["a", "b"], "visibility": "PUBLIC"}
    wanted = {**described, "category": "film", "filename": "short.mp4", "size": size}
    created = (await person.graphql(CREATE, {"input": wanted}))["createUpload"]
    assert created["__typename"] == "CreateUploadPayload", created

    seen: list[dict[str, Any]] = []
    async with live(person.tokens["access_token"]) as session:
        async for answer in session.subscribe(GraphQLRequest(FOLLOW, variable_values={"id": created["videoId"]})):
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
        return bool((await person.graphql(WATCH, {"id": created["mediaId"]}))["media"]["state"] == "READY")

    await until(is_ready, what="the catalogue to be updated")
    shown = await person.graphql(WATCH, {"id": created["mediaId"]})
    assert shown["me"]["user"]["username"] == shown["media"]["owner"]["username"] == person.username
    assert {name: shown["media"][name] for name in described} == described
    assert shown["media"]["category"] == {"slug": "film"}
    listed = await stranger.graphql(LISTS, {"id": global_id("User", person.id)})
    assert listed["feed"]["nodes"][0]["id"] == created["mediaId"]
    assert listed["channel"]["media"]["nodes"] == [{"id": created["mediaId"]}]
    assert listed["search"]["nodes"] == [{"id": created["mediaId"]}]
    await assert_plays(person.http, shown["media"]["video"]["streamUrl"], source)


async def test_late_subscriber_gets_the_final_state(person: Person, clip: Callable[[str], Clip]) -> None:
    video = await person.upload(clip("short").path)
    await person.outcome(video)
    async with live(person.tokens["access_token"]) as session:
        states = [
            answer["videoProgress"]["state"]
            async for answer in session.subscribe(
                GraphQLRequest(FOLLOW, variable_values={"id": global_id("Video", video)})
            )
        ]
    assert states == ["READY"]


@pytest.mark.parametrize("protocol", ["ws", "sse"])
async def test_npm_client_follows_an_upload_beyond_the_end_of_its_session(
    person: Person, clip: Callable[[str], Clip], protocol: str
) -> None:
    source = clip("short").path
    wanted = {"title": "A short one", "filename": "short.mp4", "size": source.stat().st_size}
    created = (await person.graphql(CREATE, {"input": wanted}))["createUpload"]
    ending = await sign_in(person)
    tokens = [ending.tokens["access_token"], person.tokens["access_token"]]
    operation = {"query": FOLLOW, "variables": {"id": created["videoId"]}}
    async with Subscriber(protocol, GATEWAY.removeprefix("http://"), tokens, operation) as client:
        assert (await client.next())["data"]["videoProgress"]["state"] == "UPLOADING"
        assert (await ending.http.post("/auth/logout", headers=ending.headers)).status_code == 204
        if protocol == "ws":
            assert (await client.until("closed"))["code"] == 4403
        assert (await client.next())["data"]["videoProgress"]["state"] == "UPLOADING"
        assert (await person.send(created["uploadUrl"], source)).status_code == 204
        while (await client.next())["data"]["videoProgress"]["state"] != "READY":
            pass
        await client.until("complete")


async def test_graphql_over_http_passes_all_audits() -> None:
    results = await audits(f"{GATEWAY}/graphql")
    assert len(results) == 61
    assert [result for result in results if result["status"] != "ok"] == []


async def test_socket_with_invalid_token_is_closed() -> None:
    with pytest.raises((TransportError, TransportClosed)):
        await live("made.up.token").connect_async()  # type: ignore[no-untyped-call]


async def test_graphql_rejections_have_a_code(person: Person) -> None:
    wanted = {"title": "x", "filename": "x.mp4", "size": 11 << 30}
    refused = (await person.graphql(CREATE, {"input": wanted}))["createUpload"]
    assert refused["__typename"] == "FileTooLarge"
    assert refused["code"] == "file_too_large"


REVOKE = """
    mutation ($id: ID!) {
      revokeSession(id: $id) { __typename ... on RevokeSessionPayload { sessionId } ... on Problem { code } }
    }
"""
CHANGE_PASSWORD = "mutation ($input: ChangePasswordInput!) { changePassword(input: $input) { __typename } }"
DELETE_ACCOUNT = "mutation ($input: DeleteAccountInput!) { deleteAccount(input: $input) { __typename } }"
LOGIN = """
    mutation ($input: LoginInput!) {
      login(input: $input) { __typename ... on LoginPayload { tokens { accessToken refreshToken } } }
    }
"""


async def sign_in(person: Person) -> Person:
    """The same user on another device."""
    answer = await person.graphql(LOGIN, {"input": {"login": person.username, "password": person.password}})
    tokens = answer["login"]["tokens"]
    return replace(person, tokens={"access_token": tokens["accessToken"], "refresh_token": tokens["refreshToken"]})


async def is_signed_in(person: Person) -> bool:
    return (await person.get("/user/token_verify")).status_code == 200


async def test_sessions_end_by_revocation_new_password_and_logout_of_all(person: Person) -> None:
    phone = await sign_in(person)
    sessions = (await phone.graphql("{ sessions { id current address createdAt lastUsedAt } }"))["sessions"]
    assert [session["current"] for session in sessions] == [True, False]
    others = sessions[1]["id"]
    assert (await phone.graphql(REVOKE, {"id": others}))["revokeSession"]["sessionId"] == others
    assert (await is_signed_in(person), await is_signed_in(phone)) == (False, True)

    tablet = await sign_in(phone)
    wanted = {"currentPassword": "wrong password", "newPassword": "another good password"}
    assert (await tablet.graphql(CHANGE_PASSWORD, {"input": wanted}))["changePassword"]["__typename"] == "WrongPassword"
    wanted["currentPassword"] = person.password
    answer = await tablet.graphql(CHANGE_PASSWORD, {"input": wanted})
    assert answer["changePassword"]["__typename"] == "ChangePasswordPayload"
    person.password = tablet.password = wanted["newPassword"]  # person: for the deletion after the test
    assert (await is_signed_in(phone), await is_signed_in(tablet)) == (False, True)

    watch = await sign_in(tablet)
    assert (await watch.graphql("mutation { logoutAll { done } }"))["logoutAll"]["done"]
    assert (await is_signed_in(watch), await is_signed_in(tablet)) == (False, False)
    person.tokens = (await sign_in(person)).tokens  # likewise


async def test_users_are_found_by_id_until_their_account_is_deleted(person: Person, stranger: Person) -> None:
    query = "query ($id: ID!, $ids: [ID!]!) { user(id: $id) { username } users(ids: $ids) { username } }"
    ids = {
        "id": global_id("User", person.id),
        "ids": [global_id("User", user.id) for user in (stranger, person)],
    }
    found = await stranger.graphql(query, ids)
    assert found["user"]["username"] == person.username
    assert [user["username"] for user in found["users"]] == [stranger.username, person.username]

    wrong = await person.graphql(DELETE_ACCOUNT, {"input": {"currentPassword": "wrong password"}})
    assert wrong["deleteAccount"]["__typename"] == "WrongPassword"
    deleted = await person.graphql(DELETE_ACCOUNT, {"input": {"currentPassword": person.password}})
    assert deleted["deleteAccount"]["__typename"] == "DeleteAccountPayload"
    assert not await is_signed_in(person)
    assert await stranger.graphql(query, ids) == {"user": None, "users": [{"username": stranger.username}, None]}
