"""Playlists by GraphQL: the owner, a stranger and an anonymous visitor."""

from collections.abc import Callable

import pytest
from client import Person, global_id
from clips import Clip

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CREATE = """mutation { createPlaylist(input: {title: "Best", visibility: PUBLIC, key: "best"}) {
  ... on CreatePlaylistPayload { playlist { id title itemCount } }
} }"""
PLACE = """mutation ($id: ID!, $media: ID!) { placeInPlaylist(id: $id, mediaId: $media) {
  __typename ... on PlaylistItemPayload { playlist { itemCount } }
} }"""
READ = """query ($id: ID!, $owner: ID!) {
  node(id: $id) { ... on Playlist { title owner { username } items { nodes { media { uuid } } } } }
  playlists(userId: $owner) { nodes { title } }
}"""
LATER = "{ watchLater { id kind visibility items { nodes { media { uuid } } } } }"


async def test_playlist_is_shared_and_watch_later_is_not(
    person: Person, stranger: Person, clip: Callable[[str], Clip]
) -> None:
    video = await person.upload(clip("short").path)

    async def listed() -> bool:
        return (await stranger.get(f"/media/{video}")).status_code == 200

    await until(listed, what="the catalogue to be updated")
    media = global_id("Media", video)
    playlist = (await person.graphql(CREATE))["createPlaylist"]["playlist"]
    assert (await person.graphql(CREATE))["createPlaylist"]["playlist"] == playlist
    about = {"id": playlist["id"], "media": media}
    for _ in range(2):
        assert (await person.graphql(PLACE, about))["placeInPlaylist"]["playlist"] == {"itemCount": 1}
    assert (await stranger.graphql(PLACE, about))["placeInPlaylist"] == {"__typename": "NotTheOwner"}
    shown = {"id": playlist["id"], "owner": global_id("User", person.id)}
    answer = await person.http.post("/graphql", json={"query": READ, "variables": shown})
    assert answer.json()["data"] == {
        "node": {
            "title": "Best",
            "owner": {"username": person.username},
            "items": {"nodes": [{"media": {"uuid": video}}]},
        },
        "playlists": {"nodes": [{"title": "Best"}]},
    }
    later = (await stranger.graphql(LATER))["watchLater"]
    assert (later["kind"], later["visibility"]) == ("WATCH_LATER", "PRIVATE")
    added = await stranger.graphql(PLACE, {"id": later["id"], "media": media})
    assert added["placeInPlaylist"]["playlist"] == {"itemCount": 1}
    assert (await stranger.graphql(LATER))["watchLater"]["items"]["nodes"] == [{"media": {"uuid": video}}]
    hidden = await person.graphql(READ, {"id": later["id"], "owner": global_id("User", stranger.id)})
    assert hidden == {"node": None, "playlists": {"nodes": []}}
