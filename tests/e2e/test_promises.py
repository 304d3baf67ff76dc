"""Confirmed changes of access take effect at once: without a broker, strangers are rejected from the next request
on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeAlias

import httpx
import pytest
from client import Person, register
from clips import Clip
from outages import is_unavailable
from test_outages import stopped

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


@dataclass(frozen=True)
class Published:
    """A public video that is ready, with all URLs that a stranger can fetch."""

    owner: Person
    id: str
    addresses: dict[str, str]

    async def statuses(self, stranger: Person) -> dict[str, int]:
        return {what: (await stranger.http.get(address)).status_code for what, address in self.addresses.items()}


async def publish(owner: Person, clip: Clip) -> Published:
    video = await owner.upload(clip.path)
    assert (await owner.outcome(video))["state"] == "ready"

    async def listed() -> bool:
        return bool((await owner.get(f"/media/{video}")).json().get("state") == "ready")

    await until(listed, what="the catalogue to be updated")
    shown = (await owner.http.get(f"/video/{video}")).json()
    master = shown["stream_url"]
    playlist = await owner.http.get(master.replace("master", "240p"))
    segment = next(line for line in playlist.text.splitlines() if line.endswith(".m4s"))
    addresses = {
        "video": f"/video/{video}",
        "catalogue": f"/media/{video}",
        "master": master,
        "playlist": master.replace("master", "240p"),
        "init": master.replace("master.m3u8", "240p/init.mp4"),
        "segment": master.replace("master.m3u8", segment),
        "poster": shown["poster_url"],
    }
    return Published(owner, video, addresses)


Promise: TypeAlias = Callable[[Published], Awaitable[httpx.Response]]
PublishAll: TypeAlias = Callable[[Sequence[Promise]], Awaitable[list[Published]]]


@pytest.fixture
async def owner() -> AsyncIterator[Person]:
    async with register() as someone:
        yield someone


async def make_private(it: Published) -> httpx.Response:
    return await it.owner.patch(f"/media/{it.id}", {"visibility": "private"})


async def delete_media(it: Published) -> httpx.Response:
    return await it.owner.delete(f"/media/{it.id}")


async def delete_video(it: Published) -> httpx.Response:
    return await it.owner.delete(f"/video/{it.id}")


async def delete_account(it: Published) -> httpx.Response:
    return await it.owner.delete("/user/profile", {"current_password": it.owner.password})


async def confirm(promise: Promise, published: Published) -> None:
    """Retry until the response is not 503, which confirms nothing and may occur on a busy machine."""

    async def answered() -> bool:
        answer = await promise(published)
        # A retried deletion is confirmed by "not found".
        assert answer.is_success or answer.status_code == 404 or is_unavailable(answer), answer.text
        return not is_unavailable(answer)

    await until(answered, what=f"{promise.__name__} to be confirmed")


@pytest.fixture
async def publish_all(clip: Callable[[str], Clip]) -> AsyncIterator[PublishAll]:
    """Publishes a video for each promise, with an owner of its own."""
    async with AsyncExitStack() as owners:

        async def publish_for(promises: Sequence[Promise]) -> list[Published]:
            return [await publish(await owners.enter_async_context(register()), clip("short")) for _ in promises]

        yield publish_for


async def test_confirmed_changes_take_effect_at_once_without_the_broker(
    stranger: Person, publish_all: PublishAll
) -> None:
    promises = (make_private, delete_media, delete_video, delete_account)
    published = await publish_all(promises)
    for each in published:
        assert set((await each.statuses(stranger)).values()) == {200}
    async with stopped("rabbitmq"):
        for promise, each in zip(promises, published, strict=True):
            await confirm(promise, each)
            statuses = await each.statuses(stranger)
            assert set(statuses.values()) == {404}, (promise.__name__, statuses)


@pytest.mark.parametrize(
    ("away", "promises"), [("video", (make_private, delete_media)), ("media", (delete_video, delete_account))]
)
async def test_unenforceable_change_is_not_confirmed_and_can_be_retried(
    stranger: Person, publish_all: PublishAll, away: str, promises: Sequence[Promise]
) -> None:
    published = await publish_all(promises)
    async with stopped(away):
        for promise, each in zip(promises, published, strict=True):
            answer = await promise(each)
            assert is_unavailable(answer), (promise.__name__, answer.text)
    for promise, each in zip(promises, published, strict=True):
        await confirm(promise, each)
        statuses = await each.statuses(stranger)
        assert set(statuses.values()) == {404}, (promise.__name__, statuses)


async def test_signed_url_is_invalid_after_the_video_turned_public_and_private(
    owner: Person, stranger: Person, clip: Callable[[str], Clip]
) -> None:
    published = await publish(owner, clip("short"))
    assert (await make_private(published)).is_success
    signed = (await owner.get(f"/video/{published.id}")).json()["stream_url"]
    init = signed.replace("master.m3u8", "240p/init.mp4")
    assert [(await stranger.http.get(url)).status_code for url in (signed, init)] == [200, 200]
    for visibility in ("public", "private"):
        assert (await owner.patch(f"/media/{published.id}", {"visibility": visibility})).is_success
    assert [(await stranger.http.get(url)).status_code for url in (signed, init)] == [403, 403]
