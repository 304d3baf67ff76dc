"""Counters through the real gateway, while the media service is killed."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable

import ctl
import httpx
import pytest
from client import Person, global_id, register
from clips import Clip
from test_kills import kill

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

WRITERS = 64
WRITES = 4
RESTORED_SECONDS = 5

LIKED = """query ($id: ID!) { media(id: $id) { likeCount viewerHasLiked } likedMedia { nodes { uuid } } }"""


@contextlib.asynccontextmanager
async def people(count: int) -> AsyncIterator[list[Person]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(register()) for _ in range(count)]


async def test_counter_equals_the_truth_after_a_kill(clip: Callable[[str], Clip]) -> None:
    """64 writers like and unlike one video while its service is killed; nothing is repaired afterwards."""
    async with people(8) as fans, register() as owner:
        video = await owner.upload(clip("short").path)

        async def listed() -> bool:
            return (await owner.get(f"/media/{video}")).status_code == 200

        await until(listed, what="the catalogue to be updated")
        path = f"/media/{video}/like"

        async def write(number: int) -> None:
            chance, fan = random.Random(number), fans[number % len(fans)]
            for _ in range(WRITES):
                method = chance.choice(["PUT", "PUT", "DELETE"])
                with contextlib.suppress(httpx.TransportError):
                    answer = await fan.http.request(method, path, headers=fan.headers)
                    assert answer.status_code in (200, 503), answer.text

        async with asyncio.TaskGroup() as writers:
            for number in range(WRITERS):
                writers.create_task(write(number))
            await asyncio.sleep(random.Random(WRITERS).uniform(0.5, 1.5))
            await asyncio.to_thread(kill, "media")

        async def healthy() -> bool:
            return not (await asyncio.to_thread(lambda: ctl.troubles(["media"], ctl.processes())))["media"]

        await until(healthy, what="media to be healthy again")

        async def exact() -> None:
            while True:
                states = [await fan.graphql(LIKED, {"id": global_id("Media", video)}) for fan in fans]
                likes = sum(state["media"]["viewerHasLiked"] for state in states)
                if {state["media"]["likeCount"] for state in states} == {likes}:
                    return

        await asyncio.wait_for(exact(), RESTORED_SECONDS)
        for fan in fans:
            state = await fan.graphql(LIKED, {"id": global_id("Media", video)})
            assert (state["likedMedia"]["nodes"] == [{"uuid": video}]) == state["media"]["viewerHasLiked"]


async def test_likes_follow_visibility_and_leave_with_the_account(
    person: Person, stranger: Person, clip: Callable[[str], Clip]
) -> None:
    video = await person.upload(clip("short").path)

    async def listed() -> bool:
        return (await person.get(f"/media/{video}")).status_code == 200

    await until(listed, what="the catalogue to be updated")
    path = f"/media/{video}/like"
    for someone in (person, stranger):
        assert (await someone.http.put(path, headers=someone.headers)).status_code == 200
    assert (await person.get(f"/media/{video}")).json()["counters"]["likes"] == 2
    assert [each["id"] for each in (await stranger.get("/media/likes")).json()["items"]] == [video]
    assert (await person.patch(f"/media/{video}", {"visibility": "private"})).status_code == 200
    assert (await stranger.http.put(path, headers=stranger.headers)).status_code == 404
    assert (await stranger.get("/media/likes")).json() == {"items": [], "next_cursor": None}
    gone = await stranger.delete("/user/profile", {"current_password": stranger.password})
    assert gone.status_code == 204

    async def withdrawn() -> bool:
        return bool((await person.get(f"/media/{video}")).json()["counters"]["likes"] == 1)

    await until(withdrawn, what="the account's like to be gone")
