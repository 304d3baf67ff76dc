"""The use cases of API and worker on a database of their own, without a broker.

Commands are taken from the outbox by hand, so that they can come in any order, twice, and to workers that die.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import m3u8
import pytest
import urllib3
from pydantic import SecretStr

from kinora_kit import migrate, postgres, s3
from kinora_kit.consumer import Ignore
from kinora_kit.errors import InvalidInput, Unavailable
from kinora_kit.events import Event
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.outages import is_outage
from kinora_kit.postgres import Pool
from kinora_kit.s3 import ObjectStore
from kinora_video import service, store, transcode
from kinora_video.cleanup import EVER_SECONDS, Cleanup
from kinora_video.domain import Upload, Video
from kinora_video.encode import EncodeFailed
from kinora_video.errors import (
    FileTooLarge,
    LinkExpired,
    NotConcatenable,
    NotPlayable,
    NotTheOwner,
    PartialTooSmall,
    TooManyUploads,
    UnsupportedType,
    UploadEnded,
    UploadFull,
    VideoNotFound,
)
from kinora_video.links import Links
from kinora_video.sandbox import Limits
from kinora_video.service import Videos
from kinora_video.settings import VideoSettings, WorkerSettings
from kinora_video.transcode import Transcoder
from kinora_video.uploads import Creation, Name

UPLOADS, STREAMS = "uploads", "streams"
SECRET = "a secret of the tests, long enough"


class Documents:
    """The media service as video knows it."""

    def __init__(self) -> None:
        self.dropped: list[UUID] = []
        self.away = False

    async def drop(self, video_id: UUID) -> None:
        if self.away:
            raise Unavailable
        self.dropped.append(video_id)


@dataclass(frozen=True)
class Stage:
    pool: Pool
    objects: ObjectStore
    videos: Videos
    catalogue: Documents
    transcoder: Transcoder
    cleanup: Cleanup

    async def outbox(self) -> list[tuple[str, Event]]:
        """What was emitted and not taken yet, with the exchange it is for."""
        rows = await self.pool.fetch("SELECT exchange, event FROM outbox ORDER BY id")
        return [(row["exchange"], Event.model_validate(row["event"])) for row in rows]

    async def told(self, video_id: UUID) -> list[str]:
        """The events that the service told everyone of this video, in their order."""
        return [
            event.type
            for exchange, event in await self.outbox()
            if exchange == "video" and event.subject == str(video_id)
        ]

    async def commands(self, video_id: UUID) -> list[Event]:
        """Take the commands that wait for a worker."""
        rows = await self.pool.fetch(
            "DELETE FROM outbox WHERE exchange = '' AND event->>'subject' = $1 RETURNING event", str(video_id)
        )
        return [Event.model_validate(row["event"]) for row in rows]

    async def work(self, video_id: UUID, *, seed: int = 0, times: int = 1) -> None:
        """Be the workers until there is nothing to do: any order, each command so many times."""
        order = random.Random(seed)
        while commands := await self.commands(video_id):
            todo = [command for command in commands for _ in range(times)]
            order.shuffle(todo)
            for command in todo:
                with contextlib.suppress(Ignore):
                    await self.transcoder.handle(command)

    async def uploaded(self, clip: Path, *, visibility: str = "public") -> tuple[Caller, UUID]:
        """A video whose bytes are all there, and its owner."""
        owner = Caller(new_id())
        metadata = {"filename": "clip.mp4", "visibility": visibility}
        video_id = await self.videos.begin_upload(owner, size=clip.stat().st_size, metadata=metadata)
        await self.objects.put_file(UPLOADS, str(video_id), clip, content_type="video/mp4")
        await self.videos.finish_upload(video_id, clip.stat().st_size)
        return owner, video_id

    async def upload(self, upload_id: UUID) -> Upload:
        upload = await store.get_upload(self.pool, upload_id)
        assert upload is not None
        return upload

    async def named(self, upload_id: UUID) -> Name:
        """As tusd names it once its place is made."""
        name = Name(upload_id, f"part-of-{upload_id}")
        await self.videos.named(await self.upload(upload_id), name)
        return name

    async def partial(self, owner: Caller, content: bytes) -> Name:
        """A partial upload that is all there."""
        upload_id = await self.videos.begin_partial(owner, len(content))
        await self.objects.put(UPLOADS, str(upload_id), content, content_type="x/y")
        name = await self.named(upload_id)
        await self.videos.receive(await self.upload(upload_id), len(content), len(content))
        return name

    async def left(self, video_id: UUID) -> list[str]:
        """What the object store holds of the video."""
        return [key for bucket in (UPLOADS, STREAMS) for key in await self.objects.keys(bucket, str(video_id))]

    async def state(self, video_id: UUID) -> str:
        video = await store.get(self.pool, video_id)
        assert video is not None
        return video.state


@pytest.fixture(scope="module")
async def stage(environment: Callable[[str], dict[str, str]]) -> AsyncIterator[Stage]:
    env = environment("kit-test")
    # The buckets are those of the platform: no id is ever used twice, so nothing meets.
    env |= {name: value for name, value in environment("video").items() if "_S3_" in name}
    schema = f"video_{new_id().hex}"
    connection = await asyncpg.connect(env["KINORA_POSTGRES_URL"])
    url = f"{env['KINORA_POSTGRES_URL']}?search_path={schema}"
    await connection.execute(f"CREATE SCHEMA {schema}")
    migrating = await asyncpg.connect(url)
    await migrate.migrate(migrating, "kinora_video")
    await migrating.close()
    stores: dict[str, Any] = {
        "http_port": 1,
        "postgres_url": SecretStr(url),
        "rabbitmq_url": SecretStr(env["KINORA_RABBITMQ_URL"]),
        "s3_url": env["KINORA_S3_URL"],
        "s3_access_key": env["KINORA_S3_ACCESS_KEY"],
        "s3_secret_key": SecretStr(env["KINORA_S3_SECRET_KEY"]),
    }
    settings = VideoSettings(
        **stores,
        grpc_port=1,
        public_url="http://gateway",
        tusd_url="http://127.0.0.1:1",
        jwks_url="http://127.0.0.1:1",
        media_grpc="127.0.0.1:1",
        redis_url=SecretStr("redis://127.0.0.1:1"),
        signing_secret=SecretStr(SECRET),
        upload_max_bytes=1 << 30,
        uploads_per_user=2,
    )
    async with (
        postgres.connect(url, name="video-test") as pool,
        s3.connect(
            env["KINORA_S3_URL"], access_key=env["KINORA_S3_ACCESS_KEY"], secret_key=env["KINORA_S3_SECRET_KEY"]
        ) as objects,
        httpx.AsyncClient(base_url=settings.tusd_url) as tusd,
    ):
        catalogue = Documents()
        videos = Videos(pool, objects, tusd, Links(SECRET, 3600), catalogue, settings)
        transcoder = Transcoder(pool, objects, WorkerSettings(**stores, part_seconds=2, segment_seconds=1))
        yield Stage(pool, objects, videos, catalogue, transcoder, Cleanup(pool, objects, videos, settings))
        for row in await pool.fetch("SELECT id FROM videos"):
            for bucket in (UPLOADS, STREAMS):
                await objects.remove_prefix(bucket, str(row["id"]))
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    await connection.close()


@pytest.fixture
def clip(make_clip: Callable[..., Path]) -> Path:
    picture, sound = "testsrc2=size=426x240:rate=30", "sine=frequency=440"
    return make_clip(
        "service.mp4", *f"-f lavfi -i {picture} -f lavfi -i {sound} -t 7 -c:v libx264 -preset ultrafast".split()
    )


async def listed_objects(stage: Stage, video_id: UUID) -> list[str]:
    """The keys that the playlists name at this moment."""
    _, master = await stage.videos.master_playlist(None, video_id, "")
    playlists = m3u8.loads(master)
    uris = [playlist.uri for playlist in playlists.playlists] + [str(media.uri) for media in playlists.media]
    keys = []
    for uri in uris:
        _, text = await stage.videos.media_playlist(None, video_id, uri.removesuffix(".m3u8"), "")
        listed = m3u8.loads(text)
        keys += [segment.uri for segment in listed.segments] + [listed.segment_map[0].uri]
    return [f"{video_id}/{key}" for key in keys]


@pytest.mark.parametrize("times", [1, 2])
async def test_commands_in_any_order_and_twice_end_in_the_same_stream(stage: Stage, clip: Path, times: int) -> None:
    _, video_id = await stage.uploaded(clip)
    await stage.work(video_id, seed=times, times=times)
    assert await stage.state(video_id) == "ready"
    assert await stage.told(video_id) == ["video.upload_started", "video.uploaded", "video.playable", "video.ready"]
    stored = set(await stage.objects.keys(STREAMS, f"{video_id}/"))
    named = set(await listed_objects(stage, video_id))
    assert named <= stored
    assert {key for key in stored if key.endswith(".m4s")} <= named


async def test_a_playlist_never_names_what_is_not_there(stage: Stage, clip: Path) -> None:
    _, video_id = await stage.uploaded(clip)
    lengths = []
    while commands := await stage.commands(video_id):
        for command in commands:
            with contextlib.suppress(Ignore):
                await stage.transcoder.handle(command)
            if await stage.state(video_id) in ("playable", "ready"):
                named = await listed_objects(stage, video_id)
                assert set(named) <= set(await stage.objects.keys(STREAMS, f"{video_id}/"))
                lengths.append(len(named))
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


async def test_a_growing_playlist_is_an_event_list_and_a_complete_one_is_vod(stage: Stage, clip: Path) -> None:
    _, video_id = await stage.uploaded(clip)
    kinds = []
    while commands := await stage.commands(video_id):
        for command in commands:
            with contextlib.suppress(Ignore):
                await stage.transcoder.handle(command)
            with contextlib.suppress(NotPlayable):
                _, text = await stage.videos.media_playlist(None, video_id, "240p", "")
                listed = m3u8.loads(text)
                kinds.append((listed.playlist_type, listed.is_endlist))
    assert kinds[0] == ("event", False)
    assert kinds[-1] == ("vod", True)


async def test_workers_that_stop_in_a_part_cost_no_attempt(stage: Stage, clip: Path) -> None:
    _, video_id = await stage.uploaded(clip)
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    commands = await stage.commands(video_id)
    for command in commands:
        for _ in range(2):
            await stopped(stage, command)
    for command in commands:
        await stage.transcoder.handle(command)
    await stage.work(video_id)
    assert await stage.state(video_id) == "ready"
    attempts = await stage.pool.fetchval("SELECT max(attempts) FROM parts WHERE video_id = $1", video_id)
    assert attempts == 1


@dataclass(frozen=True)
class Stalled(Transcoder):
    """Reads every source from an address that accepts connections and never answers, so that no part ends."""

    address: str = ""

    def _link(self, video: Video) -> str:
        return self.address


async def stopped(stage: Stage, command: Event) -> None:
    """Begin the part and stop in the middle, as a worker does in a rollout."""
    reading = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reading.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        worker = stage.transcoder
        stalled = Stalled(worker.pool, worker.objects, worker.settings, address=f"http://127.0.0.1:{port}/")
        stopping = asyncio.create_task(stalled.handle(command))
        await reading.wait()
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
    attempts = "SELECT attempts FROM parts WHERE video_id = $1 AND index = $2"
    assert await stage.pool.fetchval(attempts, UUID(command.subject), command.data["index"]) == 0


async def test_rollouts_and_failures_of_ffmpeg_do_not_add_up(stage: Stage, clip: Path) -> None:
    _, video_id = await stage.uploaded(clip)
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    commands = await stage.commands(video_id)
    limited = replace(stage.transcoder, limits=Limits(memory_bytes=1 << 20))
    for _ in range(transcode.ENCODE_ATTEMPTS - 1):
        await stopped(stage, commands[0])
        with pytest.raises(EncodeFailed):
            await limited.handle(commands[0])
    # A worker that was killed, which cannot tell.
    await stage.pool.execute("UPDATE parts SET attempts = attempts + 1 WHERE video_id = $1", video_id)
    for command in commands:
        await stage.transcoder.handle(command)
    await stage.work(video_id)
    assert await stage.state(video_id) == "ready"


async def test_a_part_that_ends_every_worker_ends_the_video(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    [command, *_] = await stage.commands(video_id)
    await stage.pool.execute("UPDATE parts SET attempts = $2 WHERE video_id = $1", video_id, transcode.ATTEMPTS)
    await stage.transcoder.handle(command)
    progress = await stage.videos.progress(owner, video_id)
    assert (progress.state, progress.failure_code) == ("failed", "transcode_failed")


async def test_a_part_that_ffmpeg_fails_is_tried_again_and_then_ends_the_video(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    command = next(item for item in await stage.commands(video_id) if item.type == "transcode.do_part")
    limited = replace(stage.transcoder, limits=Limits(memory_bytes=1 << 20))
    for _ in range(transcode.ENCODE_ATTEMPTS - 1):
        with pytest.raises(EncodeFailed):
            await limited.handle(command)
    await limited.handle(command)
    assert (await stage.videos.progress(owner, video_id)).failure_code == "transcode_failed"


async def test_a_source_that_cannot_be_reached_is_waited_for(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    away = s3.ObjectStore("http://127.0.0.1:1", access_key="x", secret_key="y")
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    command = next(item for item in await stage.commands(video_id) if item.type == "transcode.do_part")
    for _ in range(2 * transcode.ATTEMPTS):
        with pytest.raises(urllib3.exceptions.HTTPError) as waited:
            await replace(stage.transcoder, objects=away).handle(command)
        assert is_outage(waited.value), "the broker brings it again for as long as it takes"
    away.close()
    await stage.transcoder.handle(command)
    await stage.work(video_id)
    assert await stage.state(video_id) == "processing", "the other commands were taken by hand"
    assert (await stage.videos.progress(owner, video_id)).failure_code == ""


async def test_a_source_that_is_gone_ends_the_video(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    await stage.objects.remove(UPLOADS, [str(video_id)])
    await stage.work(video_id)
    assert (await stage.videos.progress(owner, video_id)).failure_code == "unreadable"


async def test_a_command_that_became_a_dead_letter_ends_the_video(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.give_up(prepare)
    assert (await stage.videos.progress(owner, video_id)).failure_code == "transcode_failed"


async def test_a_deleted_video_leaves_nothing_even_while_it_is_worked_on(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    commands = await stage.commands(video_id)
    await stage.transcoder.handle(commands[0])
    await stage.videos.delete(owner, video_id)
    while await stage.cleanup.purge_one():
        pass
    for command in commands[1:]:
        with pytest.raises(Ignore):
            await stage.transcoder.handle(command)
    with pytest.raises(VideoNotFound):
        await stage.videos.get(owner, video_id)
    assert await stage.left(video_id) == []
    assert (await stage.told(video_id))[-1] == "video.deleted"


async def test_what_was_stored_just_after_the_purge_goes_with_the_second(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    await stage.videos.delete(owner, video_id)
    while await stage.cleanup.purge_one():
        pass
    await stage.objects.put(STREAMS, f"{video_id}/240p/late.m4s", b"x", content_type="x/y")
    await stage.pool.execute(
        "UPDATE videos SET purge_at = now(), updated_at = now() - interval '1 hour' WHERE id = $1", video_id
    )
    while await stage.cleanup.purge_one():
        pass
    assert await stage.left(video_id) == []
    assert await store.get(stage.pool, video_id) is None


async def test_deleting_twice_tells_it_once(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    await stage.videos.delete(owner, video_id)
    await stage.videos.delete_quietly(video_id)
    with pytest.raises(VideoNotFound):
        await stage.videos.delete(owner, video_id)
    assert (await stage.told(video_id)).count("video.deleted") == 1


async def test_delete_reaches_the_catalogue_before_the_answer(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    stage.catalogue.away = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await stage.videos.delete(owner, video_id)
    with pytest.raises(VideoNotFound):
        await stage.videos.get(owner, video_id)
    stage.catalogue.away = False
    with pytest.raises(VideoNotFound):  # it is done
        await stage.videos.delete(owner, video_id)
    assert stage.catalogue.dropped.count(video_id) == 1
    with pytest.raises(VideoNotFound):
        await stage.videos.delete(Caller(new_id()), video_id)
    assert stage.catalogue.dropped.count(video_id) == 1


async def test_drop_is_for_the_owner_and_repeatable(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    with pytest.raises(NotTheOwner):
        await stage.videos.drop(Caller(new_id()), video_id)
    for _ in range(2):
        await stage.videos.drop(owner, video_id)
    await stage.videos.drop(owner, new_id())
    assert (await stage.told(video_id)).count("video.deleted") == 1
    assert video_id not in stage.catalogue.dropped, "it asked, and knows"


async def test_deleting_an_account_deletes_all_its_videos(
    stage: Stage, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DELETE_BATCH", 1)
    owner, first = await stage.uploaded(clip)
    second = await stage.videos.begin_upload(owner, size=10, metadata={"filename": "b.mp4"})
    _, foreign = await stage.uploaded(clip)
    for _ in range(2):
        await stage.videos.delete_all_of(owner.user_id)
    assert await stage.videos.list_videos(owner, [first, second]) == []
    for video_id in (first, second):
        assert (await stage.told(video_id)).count("video.deleted") == 1
    progress = [event for exchange, event in await stage.outbox() if exchange == "video.progress"]
    assert [event.data["state"] for event in progress if event.subject == str(first)][-1] == "deleted"
    assert await stage.state(foreign) == "processing"


async def test_enforced_visibility_is_for_the_owner_and_the_newest_wins(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    stranger = Caller(new_id())
    with pytest.raises(NotTheOwner):
        await stage.videos.enforce_visibility(stranger, video_id, "private", 7)
    for visibility, version, stands in (
        ("private", 7, "private"),
        ("public", 6, "private"),  # late
        ("private", 7, "private"),  # repeated
        ("unlisted", 8, "unlisted"),
    ):
        await stage.videos.enforce_visibility(owner, video_id, visibility, version)  # type: ignore[arg-type]
        assert (await stage.videos.get(owner, video_id)).video.visibility == stands
    await stage.videos.drop(owner, video_id)
    for caller in (owner, stranger):
        with pytest.raises(VideoNotFound):
            await stage.videos.enforce_visibility(caller, video_id, "public", 9)


async def test_signed_addresses_end_with_the_next_change_of_visibility(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip, visibility="private")
    await stage.work(video_id)
    queries = []
    for version, visibility in enumerate(("private", "public", "private", "unlisted", "private"), start=1):
        await stage.videos.enforce_visibility(owner, video_id, visibility, version)  # type: ignore[arg-type]
        if visibility == "private":
            queries.append((await stage.videos.get(owner, video_id)).stream_url.partition("?")[2])
            await stage.videos.authorise_object("GET", video_id, "240p/init.mp4", queries[-1])
            for ended in queries[:-1]:
                with pytest.raises(LinkExpired):
                    await stage.videos.authorise_object("GET", video_id, "240p/init.mp4", ended)
                with pytest.raises(LinkExpired):
                    await stage.videos.master_playlist(None, video_id, ended)
    assert len(set(queries)) == len(queries)
    again = (await stage.videos.get(owner, video_id)).stream_url.partition("?")[2]
    assert again == queries[-1], "what changes nothing ends nothing"


async def test_visibility_written_by_the_version_before_ends_signed_addresses_too(stage: Stage, clip: Path) -> None:
    """It knows no counter, and runs beside this one during a rollout."""
    owner, video_id = await stage.uploaded(clip, visibility="private")
    await stage.work(video_id)
    query = (await stage.videos.get(owner, video_id)).stream_url.partition("?")[2]
    for visibility in ("public", "private"):
        await stage.pool.execute("UPDATE videos SET visibility = $2 WHERE id = $1", video_id, visibility)
    with pytest.raises(LinkExpired):
        await stage.videos.authorise_object("GET", video_id, "240p/init.mp4", query)


async def test_only_the_owner_may_touch_a_video(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip, visibility="unlisted")
    stranger = Caller(new_id())
    for attempt in (
        stage.videos.delete(stranger, video_id),
        stage.videos.choose_poster(stranger, video_id, 0),
        stage.videos.progress(stranger, video_id),
    ):
        with pytest.raises(NotTheOwner):
            await attempt
    await stage.videos.set_visibility(video_id, "private", 1)
    name = await stage.named(video_id)
    for hidden in (
        stage.videos.get(stranger, video_id),
        stage.videos.get(None, video_id),
        stage.videos.delete(stranger, video_id),
        stage.videos.progress(stranger, video_id),
        stage.videos.authorise_upload(stranger, name),
        stage.videos.authorise_upload(owner, Name(video_id, "another")),
    ):
        with pytest.raises(VideoNotFound):
            await hidden
    await stage.videos.authorise_upload(owner, name)
    await stage.videos.delete(owner, video_id)
    with pytest.raises(UploadEnded):
        await stage.videos.authorise_upload(owner, name)


async def test_a_visibility_that_comes_late_is_not_taken(stage: Stage, clip: Path) -> None:
    _, video_id = await stage.uploaded(clip)
    await stage.videos.set_visibility(video_id, "private", 5)
    await stage.videos.set_visibility(video_id, "public", 4)
    video = await store.get(stage.pool, video_id)
    assert video is not None
    assert video.visibility == "private"


async def test_a_private_stream_opens_with_its_signature_only(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip, visibility="private")
    await stage.work(video_id)
    url = (await stage.videos.get(owner, video_id)).stream_url
    query = url.partition("?")[2]
    _, master = await stage.videos.master_playlist(None, video_id, query)
    assert all(query in line for line in master.splitlines() if line and not line.startswith("#"))
    with pytest.raises(VideoNotFound):
        await stage.videos.master_playlist(None, video_id, "")
    # Whoever came by an address gets no younger one: it does end.
    older = Links(SECRET, 60).query(video_id, 0, 0)
    assert older != query
    for _, text in (
        await stage.videos.master_playlist(None, video_id, older),
        await stage.videos.media_playlist(None, video_id, "240p", older),
    ):
        assert older in text
        assert query not in text
    other_owner, other = await stage.uploaded(clip, visibility="private")
    foreign = stage.videos.links.query(other, 0, 0)
    for wrong in ("exp=99999999999&sig=abc", query.replace("sig=", "sig=0"), foreign, "exp=x&sig=y", query + "&acl"):
        with pytest.raises(LinkExpired):
            await stage.videos.authorise_object("GET", video_id, "240p/init.mp4", wrong)
    expired = Links(SECRET, -10_000).query(video_id, 0, 0)
    with pytest.raises(LinkExpired):
        await stage.videos.master_playlist(None, video_id, expired)
    assert other_owner != owner


async def test_the_gateway_can_fetch_exactly_the_object_that_was_authorised(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip, visibility="private")
    await stage.work(video_id)
    query = stage.videos.links.query(video_id, 0, 0)
    headers = await stage.videos.authorise_object("GET", video_id, "240p/init.mp4", query)
    path = f"{stage.objects.url}/{STREAMS}/{video_id}"
    async with httpx.AsyncClient() as http:
        whole = await http.get(f"{path}/240p/init.mp4?{query}", headers=headers)
        part = await http.get(f"{path}/240p/init.mp4?{query}", headers={**headers, "Range": "bytes=0-9"})
        other = await http.get(f"{path}/audio/init.mp4?{query}", headers=headers)
    assert (whole.status_code, part.status_code, other.status_code) == (200, 206, 403)
    assert whole.content[4:8] == b"ftyp"
    assert owner is not None


async def test_a_stream_made_private_is_closed_at_once(stage: Stage, clip: Path) -> None:
    _, video_id = await stage.uploaded(clip)
    await stage.work(video_id)
    await stage.videos.authorise_object("GET", video_id, "240p/init.mp4", "")
    with pytest.raises(LinkExpired):
        await stage.videos.authorise_object("GET", video_id, "240p/init.mp4", "acl")
    await stage.videos.set_visibility(video_id, "private", 1)
    with pytest.raises(VideoNotFound):
        await stage.videos.authorise_object("GET", video_id, "240p/init.mp4", "")


async def test_an_upload_whose_end_was_never_told_is_noticed(stage: Stage, clip: Path) -> None:
    owner = Caller(new_id())
    video_id = await stage.videos.begin_upload(owner, size=clip.stat().st_size, metadata={"filename": "a.mp4"})
    await stage.objects.put_file(UPLOADS, str(video_id), clip, content_type="video/mp4")
    await stage.pool.execute("UPDATE videos SET updated_at = now() - interval '1 minute' WHERE id = $1", video_id)
    await stage.cleanup.look_after_uploads()
    assert await stage.state(video_id) == "processing"


async def test_an_upload_that_nobody_goes_on_with_expires(stage: Stage) -> None:
    owner = Caller(new_id())
    video_id = await stage.videos.begin_upload(owner, size=1000, metadata={"filename": "a.mp4"})
    await stage.pool.execute("UPDATE videos SET updated_at = now() - interval '2 days' WHERE id = $1", video_id)
    await stage.cleanup.look_after_uploads()
    assert await stage.state(video_id) == "uploading", "those that are long silent are looked at now and then"
    await stage.cleanup.look_after_uploads(noisy_seconds=EVER_SECONDS)
    assert (await stage.videos.progress(owner, video_id)).failure_code == "upload_expired"
    with pytest.raises(UploadEnded):
        await stage.videos.receive(await stage.upload(video_id), 500, 1000)
    with pytest.raises(UploadEnded):
        await stage.videos.authorise_upload(owner, await stage.named(video_id))


async def test_a_failed_video_keeps_what_tells_that_its_upload_was_whole(stage: Stage, workdir: Path) -> None:
    (workdir / "a.mp4").write_bytes(b"no video")
    owner, video_id = await stage.uploaded(workdir / "a.mp4")
    info = f"{video_id}.info"
    await stage.objects.put(UPLOADS, info, b"{}", content_type="x/y")
    await stage.work(video_id)
    assert await stage.state(video_id) == "failed"
    while await stage.cleanup.purge_one():
        pass
    assert await stage.left(video_id) == [info]
    name = await stage.named(video_id)
    await stage.videos.authorise_upload(owner, name)
    with pytest.raises(UploadFull):
        await stage.videos.authorise_upload(owner, name, sends_at="8")
    await stage.videos.delete(owner, video_id)
    while await stage.cleanup.purge_one():
        pass
    assert await stage.left(video_id) == []


@pytest.mark.parametrize(
    ("filename", "kept"),
    [
        ("Screen Recording at 9.41.02\u202fAM.mov", None),
        ("a\u00a0b.mp4", None),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.mp4", None),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467.mp4", None),
        ("Ame\u0301lie.mp4", None),
        ("a\u202e4pm.exe.mp4", "a4pm.exe.mp4"),
        ("one\r\nline\u2028.mp4", "one line .mp4"),
        ("\u2067\t\x7f", "video"),
    ],
)
async def test_a_file_keeps_the_letters_of_its_name(stage: Stage, filename: str, kept: str | None) -> None:
    metadata = {"filename": filename, "title": filename}
    video_id = await stage.videos.begin_upload(Caller(new_id()), size=10, metadata=metadata)
    video = await store.get(stage.pool, video_id)
    assert video is not None
    assert (video.filename, video.title) == (kept or filename, kept or filename)


async def test_uploads_are_refused_by_name(stage: Stage) -> None:
    owner = Caller(new_id())
    for size, metadata, error in (
        (2 << 30, {"filename": "a.mp4"}, FileTooLarge),
        (10, {"filename": "a.png"}, UnsupportedType),
        (10, {"filename": "a.mp4", "filetype": "text/html"}, UnsupportedType),
        (10, {"filename": "a.mp4", "visibility": "secret"}, InvalidInput),
        (10, {"filename": "a.mp4", "filetype": "video/mp4\nX-Amz-Acl: public-read"}, InvalidInput),
    ):
        with pytest.raises(error):
            await stage.videos.begin_upload(owner, size=size, metadata=metadata)
    first, _ = [await stage.videos.begin_upload(owner, size=10, metadata={}) for _ in range(2)]
    with pytest.raises(TooManyUploads):
        await stage.videos.begin_upload(owner, size=10, metadata={})
    await stage.videos.begun(first)
    await stage.videos.pool.execute(
        "UPDATE videos SET created_at = created_at - interval '10 seconds' WHERE owner_id = $1", owner.user_id
    )
    await stage.videos.begin_upload(owner, size=10, metadata={})  # in the place of the one that got none for its bytes
    with pytest.raises(TooManyUploads):
        await stage.videos.begin_upload(owner, size=10, metadata={})


async def purge(stage: Stage) -> None:
    while await stage.cleanup.purge_one():
        pass


async def test_upload_name_is_what_tusd_wrote_when_its_call_was_lost(stage: Stage) -> None:
    owner = Caller(new_id())
    video_id = await stage.videos.begin_upload(owner, size=10, metadata={})
    with pytest.raises(VideoNotFound):
        await stage.videos.authorise_upload(owner, Name(video_id, "guessed"))
    info = json.dumps({"ID": f"{video_id}+the-part", "Size": 10}).encode()
    await stage.objects.put(UPLOADS, f"{video_id}.info", info, content_type="x/y")
    with pytest.raises(VideoNotFound):
        await stage.videos.authorise_upload(owner, Name(video_id, "guessed"))
    assert (await stage.upload(video_id)).multipart_id == "the-part"
    await stage.videos.authorise_upload(owner, Name(video_id, "the-part"))


async def test_deferred_length_is_taken_once_and_within_the_limit(stage: Stage) -> None:
    owner = Caller(new_id())
    video_id = await stage.videos.begin_upload(owner, size=None, metadata={})
    name = await stage.named(video_id)
    assert (await stage.videos.progress(owner, video_id)).bytes_total == 0
    with pytest.raises(FileTooLarge):
        await stage.videos.authorise_upload(owner, name, says_size=(1 << 30) + 1)
    with pytest.raises(UploadFull):
        await stage.videos.authorise_upload(owner, name, sends_at=str(1 << 30))
    assert await stage.videos.authorise_upload(owner, name, says_size=500) == 500
    await stage.videos.receive(await stage.upload(video_id), 100, None)
    assert (await stage.upload(video_id)).size is None
    await stage.videos.receive(await stage.upload(video_id), 200, 500)
    assert (await stage.videos.progress(owner, video_id)).bytes_total == 500
    assert await stage.videos.authorise_upload(owner, name, says_size=500) is None, "tusd refuses a second time"
    with pytest.raises(InvalidInput):
        await stage.videos.authorise_upload(owner, name, says_size=501)


@pytest.mark.parametrize("hook", ["received", "finished"])
async def test_deferred_length_beyond_the_limit_fails_the_video(stage: Stage, hook: str) -> None:
    owner = Caller(new_id())
    video_id = await stage.videos.begin_upload(owner, size=None, metadata={})
    name = await stage.named(video_id)
    if hook == "received":
        with pytest.raises(FileTooLarge):
            await stage.videos.receive(await stage.upload(video_id), (1 << 30) + 1, None)
    else:
        await stage.videos.finish_upload(video_id, (1 << 30) + 1)
    assert (await stage.videos.progress(owner, video_id)).failure_code == "file_too_large"
    assert await stage.commands(video_id) == []
    with pytest.raises(UploadEnded):
        await stage.videos.authorise_upload(owner, name)


async def test_deferred_upload_whose_end_was_never_told_is_noticed(stage: Stage, clip: Path) -> None:
    owner = Caller(new_id())
    video_id = await stage.videos.begin_upload(owner, size=None, metadata={"filename": "a.mp4"})
    await stage.objects.put_file(UPLOADS, str(video_id), clip, content_type="video/mp4")
    await stage.pool.execute("UPDATE videos SET updated_at = now() - interval '1 minute' WHERE id = $1", video_id)
    await stage.cleanup.look_after_uploads()
    assert (await stage.state(video_id), (await stage.upload(video_id)).size) == ("processing", clip.stat().st_size)


async def test_partial_upload_is_no_video(stage: Stage) -> None:
    owner = Caller(new_id())
    part = await stage.partial(owner, b"x" * 10)
    for attempt in (
        stage.videos.get(owner, part.id),
        stage.videos.progress(owner, part.id),
        stage.videos.delete(owner, part.id),
        stage.videos.enforce_visibility(owner, part.id, "public", 1),
    ):
        with pytest.raises(VideoNotFound):
            await attempt
    await stage.videos.finish_upload(part.id, 10)
    assert await stage.videos.list_videos(owner, [part.id]) == []
    assert [event for _, event in await stage.outbox() if str(part.id) in event.model_dump_json()] == []
    with pytest.raises(FileTooLarge):
        await stage.videos.begin_partial(owner, (5 << 30) + 1)


async def test_partial_uploads_count_until_a_final_one_is_made_of_them(stage: Stage) -> None:
    owner = Caller(new_id())
    parts = [await stage.partial(owner, b"x" * 10) for _ in range(2)]
    with pytest.raises(TooManyUploads):
        await stage.videos.begin_partial(owner, 10)
    with pytest.raises(TooManyUploads):
        await stage.videos.begin_upload(owner, size=10, metadata={})
    video_id = await stage.videos.begin_upload(owner, size=20, metadata={}, parts=parts)
    with pytest.raises(TooManyUploads):
        await stage.videos.begin_upload(owner, size=10, metadata={})
    await stage.videos.finish_upload(video_id, 20)
    await stage.videos.begin_partial(owner, 10)


async def test_final_upload_is_made_of_the_callers_own_partial_uploads_alone(stage: Stage) -> None:
    owner, stranger = Caller(new_id()), Caller(new_id())
    part, theirs = await stage.partial(owner, b"x"), await stage.partial(stranger, b"x")
    ended = await stage.partial(owner, b"x")
    await stage.videos.end_upload(await stage.upload(ended.id))
    video = await stage.named(await stage.videos.begin_upload(stranger, size=10, metadata={}))
    unfinished = await stage.named(await stage.videos.begin_partial(owner, None))
    for caller, parts, error in (
        (owner, [part, theirs], VideoNotFound),
        (stranger, [part], VideoNotFound),
        (owner, [part, Name(new_id(), "x")], VideoNotFound),
        (owner, [Name(part.id, "another")], VideoNotFound),
        (owner, [part, ended], UploadEnded),
        (stranger, [theirs, video], NotConcatenable),
        (owner, [part, unfinished], NotConcatenable),
    ):
        with pytest.raises(error):
            await stage.videos.authorise_creation(caller, Creation(None, False, tuple(parts), {}, {}))
        with pytest.raises(error):
            await stage.videos.begin_upload(caller, size=2, metadata={}, parts=parts)
    for upload in (part, theirs):
        assert (await stage.upload(upload.id)).final_id is None


async def test_partial_upload_is_used_once_and_ends_with_its_final(stage: Stage) -> None:
    owner = Caller(new_id())
    parts = [await stage.partial(owner, b"x" * 10) for _ in range(2)]
    failed = await stage.videos.begin_upload(owner, size=20, metadata={}, parts=parts)
    video_id = await stage.videos.begin_upload(owner, size=20, metadata={}, parts=parts)
    assert await stage.state(failed) == "deleted", "the parts are another's now"
    await stage.videos.finish_upload(failed, 20)
    assert await stage.state(failed) == "deleted"
    assert not (await stage.upload(parts[0].id)).ended
    await stage.videos.finish_upload(video_id, 20)
    assert await stage.state(video_id) == "processing"
    with pytest.raises(UploadEnded):
        await stage.videos.begin_upload(owner, size=20, metadata={}, parts=parts)
    await purge(stage)
    assert [await stage.left(part.id) for part in parts] == [[], []]


async def test_small_parts_make_small_files_alone(stage: Stage) -> None:
    """tusd puts those together in memory."""
    owner = Caller(new_id())
    parts = []
    for size in (5 << 20, 40 << 20):
        upload_id = await stage.videos.begin_partial(owner, size)
        parts.append(await stage.named(upload_id))
    await stage.videos.authorise_creation(owner, Creation(None, False, tuple(parts), {}, {}))
    await stage.pool.execute("UPDATE partials SET size = size - 1 WHERE id = $1", parts[0].id)
    with pytest.raises(PartialTooSmall):
        await stage.videos.authorise_creation(owner, Creation(None, False, tuple(parts), {}, {}))
    await stage.pool.execute("UPDATE partials SET size = 1 << 30 WHERE owner_id = $1", owner.user_id)
    with pytest.raises(FileTooLarge):
        await stage.videos.authorise_creation(owner, Creation(None, False, tuple(parts), {}, {}))


async def test_partial_uploads_expire_and_leave_nothing(stage: Stage) -> None:
    owner = Caller(new_id())
    part, living = [await stage.partial(owner, b"x") for _ in range(2)]
    await stage.pool.execute("UPDATE partials SET updated_at = now() - interval '2 days' WHERE id = $1", part.id)
    await stage.cleanup.look_after_uploads()
    with pytest.raises(UploadEnded):
        await stage.videos.receive(await stage.upload(part.id), 1, 1)
    await purge(stage)
    assert (await stage.left(part.id), await stage.left(living.id)) == ([], [str(living.id)])
    await stage.objects.put(UPLOADS, str(part.id), b"late", content_type="x/y")
    await stage.pool.execute(
        "UPDATE partials SET updated_at = now() - interval '15 minutes', purge_at = now() WHERE id = $1", part.id
    )
    await purge(stage)
    assert (await stage.left(part.id), await store.get_upload(stage.pool, part.id)) == ([], None)


async def test_account_deletion_ends_partial_uploads(stage: Stage) -> None:
    owner = Caller(new_id())
    part = await stage.partial(owner, b"x")
    await stage.videos.delete_all_of(owner.user_id)
    await purge(stage)
    assert ((await stage.upload(part.id)).ended, await stage.left(part.id)) == (True, [])


async def test_the_owner_chooses_the_moment_of_the_poster(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    with pytest.raises(NotPlayable):
        await stage.videos.choose_poster(owner, video_id, 1)
    await stage.work(video_id)
    before = (await stage.videos.get(owner, video_id)).poster_url
    with pytest.raises(InvalidInput):
        await stage.videos.choose_poster(owner, video_id, 100)
    await stage.videos.choose_poster(owner, video_id, 7)
    await stage.work(video_id)
    after = (await stage.videos.get(owner, video_id)).poster_url
    assert after != before
    await stage.videos.choose_poster(owner, video_id, 7)
    assert await stage.commands(video_id) == [], "it is there already"
    posters = [key for key in await stage.objects.keys(STREAMS, f"{video_id}/") if "poster" in key]
    assert posters == [f"{video_id}/{after.rpartition('/')[2]}"]
