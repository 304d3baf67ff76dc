"""Documents follow the events of their videos, over the real broker and store."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kinora import queues
from kinora.events import auth, media, video
from kinora_kit import consumer, mongo, tasks
from kinora_kit.broker import Broker
from kinora_kit.consumer import Handler
from kinora_kit.errors import Unavailable
from kinora_kit.events import Event, Payload, event
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.mongo import OUTBOX, Collection, Database, Document, Relay
from kinora_kit.testing import eventually
from kinora_media.catalogue import Catalogue
from kinora_media.domain import Changes, Media, State, Visibility
from kinora_media.events import Reactions
from kinora_media.pages import CachedPages
from kinora_media.store import media as store
from kinora_media.store.media import Tombstone

if TYPE_CHECKING:
    from conftest import Streams

Call = Callable[..., Awaitable[httpx.Response]]


def life(video_id: UUID, owner_id: UUID, *, visibility: Visibility = Visibility.PUBLIC) -> list[Event]:
    """All events of a video, from upload_started to failed and then ready."""
    ids = {"video_id": video_id, "owner_id": owner_id}
    begun = video.UploadStarted(**ids, title="Title", filename="a.mp4", size=9, visibility=visibility.value)
    payloads: list[Payload] = [
        begun,
        video.Uploaded(**ids, size=9),
        video.Playable(**ids, duration=9.9, width=426, height=240),
        video.Failed(**ids, code="broken", detail="It is broken"),
        video.Ready(**ids, duration=10, width=1920, height=1080),
    ]
    return [event("video", payload) for payload in payloads]


def deleted(video_id: UUID, owner_id: UUID) -> Event:
    return event("video", video.Deleted(video_id=video_id, owner_id=owner_id))


def user_deleted(owner_id: UUID) -> Event:
    return event("auth", auth.UserDeleted(user_id=owner_id))


async def pending(documents: Collection, media_id: UUID) -> list[Event]:
    document: Document | None = await documents.find_one({"_id": media_id})
    assert document is not None
    return [Event.model_validate_json(entry["event"]) for entry in document[OUTBOX]]


async def found(database: Database, media_id: UUID) -> Media:
    """The document without version and times of writes, which depend on their number."""
    media = await store.find(database, media_id)
    assert isinstance(media, Media)
    published_at = media.created_at if media.published_at else None
    return dataclasses.replace(media, version=0, updated_at=media.created_at, published_at=published_at)


@pytest.fixture(scope="session")
def on_video(reactions: Reactions) -> Handler:
    return reactions.to_video


@pytest.fixture(scope="session")
def on_user(reactions: Reactions) -> Handler:
    return reactions.to_auth


async def publish(bus: Broker, exchange: str, sent: Sequence[Event]) -> None:
    for one in sent:
        await bus.publish(
            one.model_dump_json().encode(), exchange=exchange, routing_key=one.type, message_id=str(one.id)
        )


@pytest.fixture
async def consuming(bus: Broker, reactions: Reactions) -> AsyncIterator[None]:
    """Both consumers, on separate queues for this test."""
    mark = new_id().hex
    of_video = dataclasses.replace(queues.MEDIA_VIDEO, name=f"{queues.MEDIA_VIDEO.name}.{mark}")
    of_auth = dataclasses.replace(queues.MEDIA_AUTH, name=f"{queues.MEDIA_AUTH.name}.{mark}")
    channel = await bus.channel()
    for queue in (of_video, of_auth):
        await consumer.declare(channel, queue)
    async with tasks.background(
        video=lambda: consumer.consume(bus, of_video, reactions.to_video),
        auth=lambda: consumer.consume(bus, of_auth, reactions.to_auth),
    ):
        yield
    for queue in (of_video, of_auth):
        for name in (queue.name, queue.dead, *(queue.retry(attempt) for attempt in range(4))):
            await channel.queue_delete(name)
    await channel.close()


async def test_each_event_updates_the_document(database: Database, on_video: Handler) -> None:
    media_id, owner_id = new_id(), new_id()
    seen = []
    for one in life(media_id, owner_id):
        await on_video(one)
        media = await found(database, media_id)
        seen.append((media.state, media.duration, media.failure_code))
    assert seen == [
        (State.DRAFT, None, ""),
        (State.PROCESSING, None, ""),
        (State.PLAYABLE, 9.9, ""),
        (State.FAILED, 9.9, "broken"),
        (State.READY, 10, ""),
    ]


async def test_events_in_any_order_give_the_same_document(database: Database, on_video: Handler) -> None:
    owner_id, at = new_id(), datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
    ends = []
    for order in itertools.islice(itertools.permutations(range(5)), 0, None, 7):  # every seventh of 120 is enough
        media_id = new_id()
        sent = life(media_id, owner_id)
        for index in order:
            await on_video(sent[index].model_copy(update={"time": at}))
        ends.append(dataclasses.replace(await found(database, media_id), id=owner_id))
    assert all(end == ends[0] for end in ends)
    assert (ends[0].title, ends[0].state, ends[0].width, ends[0].created_at) == ("Title", State.READY, 1920, at)


@hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(list(range(6)) * 2))
async def test_deleted_video_stays_deleted_in_any_order_of_events(
    database: Database, documents: Collection, on_video: Handler, order: list[int]
) -> None:
    media_id, owner_id = new_id(), new_id()
    sent = [*life(media_id, owner_id), deleted(media_id, owner_id)]
    for index in order:
        await on_video(sent[index])
    assert isinstance(await store.find(database, media_id), Tombstone)
    assert [one.type for one in await pending(documents, media_id)].count(media.MediaDeleted.type) == 1


async def test_concurrent_events_are_all_applied(database: Database, on_video: Handler) -> None:
    media_id, owner_id = new_id(), new_id()
    sent = life(media_id, owner_id) * 2
    random.shuffle(sent)
    await asyncio.gather(*(on_video(one) for one in sent))
    document = await found(database, media_id)
    assert (document.title, document.state, document.width) == ("Title", State.READY, 1920)


async def test_redelivery_writes_nothing(documents: Collection, on_video: Handler) -> None:
    media_id, owner_id = new_id(), new_id()
    sent = life(media_id, owner_id)
    for one in sent:
        await on_video(one)
    before = await documents.find_one({"_id": media_id})
    for one in sent:
        await on_video(one)
    assert await documents.find_one({"_id": media_id}) == before


async def test_document_without_upload_started_is_not_found(call: Call, on_video: Handler) -> None:
    media_id, owner_id = new_id(), new_id()
    await on_video(life(media_id, owner_id)[-1])
    assert (await call("GET", f"/media/{media_id}", owner_id)).status_code == 404
    assert (await call("GET", f"/media/users/{owner_id}", owner_id)).json()["items"] == []


async def test_consumers_receive_the_events_of_videos_and_users(
    bus: Broker, database: Database, consuming: None
) -> None:
    media_id, owner_id = new_id(), new_id()
    sent = life(media_id, owner_id)
    await publish(bus, video.EXCHANGE, [*reversed(sent), *sent])

    async def is_ready() -> bool:
        media = await store.find(database, media_id)
        return isinstance(media, Media) and media.begun and media.state is State.READY

    await eventually(is_ready)
    await publish(bus, auth.EXCHANGE, [user_deleted(owner_id)])

    async def is_gone() -> bool:
        return isinstance(await store.find(database, media_id), Tombstone)

    await eventually(is_gone)


# Users ---------------------------------------------------------------------------------------------------------------


async def test_user_deleted_removes_all_documents(
    documents: Collection, call: Call, on_video: Handler, on_user: Handler
) -> None:
    owner_id, ids = new_id(), [new_id() for _ in range(3)]
    for media_id in ids[:2]:
        for one in life(media_id, owner_id):
            await on_video(one)
    await on_video(life(ids[2], owner_id)[-1])  # not begun yet
    await on_user(user_deleted(owner_id))
    await on_user(user_deleted(owner_id))
    for media_id in ids:
        document = await documents.find_one({"_id": media_id})
        assert document is not None
        assert set(document) == {"_id", "deleted_at", "count", OUTBOX}
        assert [one.type for one in await pending(documents, media_id)].count(media.MediaDeleted.type) == 1
    assert await documents.find_one({"owner_id": owner_id}) is None
    assert (await call("GET", f"/media/users/{owner_id}", owner_id)).json()["items"] == []


async def test_events_after_user_deleted_are_removed(
    database: Database, documents: Collection, on_video: Handler, on_user: Handler
) -> None:
    media_id, owner_id = new_id(), new_id()
    await on_user(user_deleted(owner_id))
    for one in life(media_id, owner_id):
        await on_video(one)
    assert isinstance(await store.find(database, media_id), Tombstone)
    assert await documents.find_one({"owner_id": owner_id}) is None


async def test_user_deleted_during_other_events_removes_all_documents(
    documents: Collection, on_video: Handler, on_user: Handler
) -> None:
    for _ in range(10):
        owner_id, ids = new_id(), [new_id() for _ in range(3)]
        begun = [life(media_id, owner_id)[0] for media_id in ids]
        await asyncio.gather(*(on_video(one) for one in begun), on_user(user_deleted(owner_id)))
        assert await documents.find_one({"owner_id": owner_id}) is None


# Published events ----------------------------------------------------------------------------------------------------


async def made(on_video: Handler, *, visibility: Visibility) -> tuple[UUID, UUID]:
    media_id, owner_id = new_id(), new_id()
    for one in life(media_id, owner_id, visibility=visibility):
        await on_video(one)
    return media_id, owner_id


async def test_public_video_is_published_once_when_ready(documents: Collection, on_video: Handler) -> None:
    media_id, _ = await made(on_video, visibility=Visibility.PUBLIC)
    (published,) = await pending(documents, media_id)
    assert published.type == media.MediaPublished.type
    assert published.read(media.MediaPublished).duration == 10


async def test_ready_video_is_published_when_it_becomes_public(
    catalogue: Catalogue, documents: Collection, call: Call, on_video: Handler
) -> None:
    media_id, owner_id = await made(on_video, visibility=Visibility.PRIVATE)
    assert await pending(documents, media_id) == []
    told: dict[UUID, Event] = {}
    for visibility in ("public", "unlisted", "unlisted", "public"):
        answer = await call("PATCH", f"/media/{media_id}", owner_id, json={"visibility": visibility})
        assert answer.status_code == 200
        told |= {one.id: one for one in await pending(documents, media_id)}
    assert [one.type for one in told.values()] == [
        "media.updated",
        "media.published",
        "media.updated",
        "media.updated",
        "media.published",
    ]
    updates = [one.read(media.MediaUpdated) for one in told.values() if one.type == "media.updated"]
    assert [one.visibility for one in updates] == ["public", "unlisted", "public"]
    publications = [one.read(media.MediaPublished) for one in told.values() if one.type == "media.published"]
    versions = [one.version for one in updates]
    assert versions == sorted(set(versions))
    assert [one.version for one in publications] == [versions[0], versions[2]]
    assert publications[0].published_at == publications[1].published_at is not None


async def test_concurrent_edits_are_all_saved(
    catalogue: Catalogue, database: Database, documents: Collection, call: Call, on_video: Handler
) -> None:
    media_id, owner_id = await made(on_video, visibility=Visibility.PRIVATE)
    fields = [{"title": "New"}, {"description": "New"}, {"category": "music"}, {"tags": ["new"]}]
    answers = await asyncio.gather(*(call("PATCH", f"/media/{media_id}", owner_id, json=one) for one in fields))
    assert [answer.status_code for answer in answers] == [200] * 4
    document = await found(database, media_id)
    assert (document.title, document.description, document.category, document.tags) == ("New", "New", "music", ("new",))
    saved = await store.find(database, media_id)
    assert isinstance(saved, Media)
    (updated,) = [one.read(media.MediaUpdated) for one in await pending(documents, media_id)]
    assert (updated.version, updated.title, updated.tags) == (saved.version, "New", ("new",))


async def test_edit_supersedes_pending_events(
    database: Database, documents: Collection, call: Call, on_video: Handler
) -> None:
    """While the broker is away, a document must not grow to MongoDB's limit of 16 MB."""
    media_id, owner_id = await made(on_video, visibility=Visibility.PUBLIC)
    for visibility in ("private", "public", "private", "public"):
        edit = {"visibility": visibility, "title": f"$title {visibility}", "attributes": {"price": "$5", "none": None}}
        answer = await call("PATCH", f"/media/{media_id}", owner_id, json=edit)
        assert (answer.status_code, {**answer.json(), **edit}) == (200, answer.json())
    saved = await store.find(database, media_id)
    assert isinstance(saved, Media)
    assert (saved.title, saved.attributes) == ("$title public", {"price": "$5", "none": None})
    updated, published = await pending(documents, media_id)
    assert (updated.type, updated.read(media.MediaUpdated).version) == ("media.updated", saved.version)
    assert (published.type, published.read(media.MediaPublished).title) == ("media.published", "$title public")


class Dying(Broker):
    """Fails after publishing, as if the relay's process had died before it removed the event."""

    def __init__(self, bus: Broker) -> None:
        self._bus = bus

    async def publish(self, *arguments: object, **more: object) -> None:
        await self._bus.publish(*arguments, **more)  # type: ignore[arg-type]
        raise Unavailable


async def test_pending_events_are_published_again_after_a_crash_and_then_removed(
    bus: Broker, documents: Collection, relay: Relay, on_video: Handler
) -> None:
    channel = await bus.channel()
    listening = await channel.declare_queue(exclusive=True)
    await listening.bind(media.EXCHANGE, "media.*")
    while await relay.publish_pending():
        pass
    media_id, _ = await made(on_video, visibility=Visibility.PUBLIC)
    (told,) = await pending(documents, media_id)

    with pytest.raises(Unavailable):
        await mongo.Relay([documents], Dying(bus)).publish_pending()
    assert await pending(documents, media_id) == [told]
    assert await relay.publish_pending() == 1
    assert await pending(documents, media_id) == []
    assert await relay.publish_pending() == 0

    heard = []
    while (message := await listening.get(no_ack=True, fail=False)) is not None:
        heard.append(Event.model_validate_json(message.body))
    assert [one.id for one in heard if one.subject == str(media_id)] == [told.id] * 2
    await channel.close()


async def test_a_running_relay_publishes_at_once(
    bus: Broker,
    database: Database,
    documents: Collection,
    *,
    on_video: Handler,
    streams: Streams,
    pages: CachedPages,
) -> None:
    media_id, owner_id = await made(on_video, visibility=Visibility.PRIVATE)
    relay = Relay([documents], bus)
    async with relay.running():
        woken = Catalogue(database, relay, streams, pages, {})
        begin = datetime.now(UTC)
        await woken.edit(Caller(owner_id), media_id, Changes(title="New"))

        async def is_published() -> bool:
            return await pending(documents, media_id) == []

        await eventually(is_published)
        assert (datetime.now(UTC) - begin).total_seconds() < mongo.POLL_SECONDS
