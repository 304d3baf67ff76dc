"""Views, history and retention by GraphQL and REST: the owner of a video, a user and an anonymous visitor."""

import time
from collections.abc import Callable

import pytest
from client import Person, global_id
from clips import Clip

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

WATCH = """mutation ($input: RecordViewInput!) { recordView(input: $input) { __typename } }"""
MINE = """query ($id: ID!) {
  media(id: $id) { viewCount viewerPosition }
  history { nodes { position media { uuid } } }
}"""


async def test_view_counts_and_resumes(person: Person, stranger: Person, clip: Callable[[str], Clip]) -> None:
    video = await person.upload(clip("short").path)
    assert (await person.outcome(video))["state"] == "ready"
    media = {"id": global_id("Media", video)}

    async def listed() -> bool:
        return bool((await stranger.get(f"/media/{video}")).json().get("state") == "ready")

    await until(listed, what="the catalogue to be updated")
    duration = (await stranger.get(f"/media/{video}")).json()["duration"]
    started = time.monotonic()
    reached = 0.0

    async def both_counted() -> bool:
        nonlocal reached
        reached = min(1.9 * (time.monotonic() - started), duration)
        anonymous = await person.http.post(f"/media/{video}/views", json={"position": reached})
        assert anonymous.status_code == 204
        for someone in (person, stranger):
            wanted = {"mediaId": media["id"], "position": reached}
            assert await someone.graphql(WATCH, {"input": wanted}) == {
                "recordView": {"__typename": "RecordViewPayload"}
            }
        return bool((await stranger.graphql(MINE, media))["media"]["viewCount"] == 2)

    await until(both_counted, what="two views")
    mine = await stranger.graphql(MINE, media)
    assert mine["history"]["nodes"] == [{"position": reached, "media": {"uuid": video}}]
    assert mine["media"]["viewerPosition"] == reached
    assert (await stranger.delete(f"/media/{video}/history")).status_code == 204
    mine = await stranger.graphql(MINE, media)
    assert (mine["history"]["nodes"], mine["media"]["viewerPosition"]) == ([], None)

    parts = (await person.get(f"/media/{video}/retention")).json()["parts"]
    assert (len(parts), max(parts)) == (100, 2)
