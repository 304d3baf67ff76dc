"""The worker's use cases: reordered and repeated commands, failing parts, and workers that die."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import m3u8
import pytest
import urllib3

from kinora_kit import s3
from kinora_kit.consumer import Ignore
from kinora_kit.errors import Unavailable
from kinora_kit.outages import is_outage
from kinora_video import sandbox, transcode
from kinora_video.encode import EncodeFailed
from kinora_video.errors import NotPlayable
from kinora_video.sandbox import Limits
from kinora_video.transcode import Transcoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Stage
    from kinora_kit.events import Event
    from kinora_video.domain import Video

UPLOADS, STREAMS = "uploads", "streams"


async def listed_objects(stage: Stage, video_id: UUID) -> list[str]:
    """The keys of the objects in the current playlists."""
    _, master = await stage.watching.master_playlist(None, video_id, "")
    playlists = m3u8.loads(master)
    uris = [playlist.uri for playlist in playlists.playlists] + [str(media.uri) for media in playlists.media]
    keys = []
    for uri in uris:
        _, text = await stage.watching.media_playlist(None, video_id, uri.removesuffix(".m3u8"), "")
        listed = m3u8.loads(text)
        keys += [segment.uri for segment in listed.segments] + [listed.segment_map[0].uri]
    return [f"{video_id}/{key}" for key in keys]


@pytest.mark.parametrize("times", [1, 2])
async def test_commands_in_any_order_and_repeated_give_the_same_stream(stage: Stage, clip: Path, times: int) -> None:
    _, video_id = await stage.uploaded(clip)
    await stage.work(video_id, seed=times, times=times)
    assert await stage.state(video_id) == "ready"
    assert await stage.emitted(video_id) == ["video.upload_started", "video.uploaded", "video.playable", "video.ready"]
    stored = set(await stage.objects.keys(STREAMS, f"{video_id}/"))
    named = set(await listed_objects(stage, video_id))
    assert named <= stored
    assert {key for key in stored if key.endswith(".m4s")} <= named


async def test_playlists_list_only_stored_objects(stage: Stage, clip: Path) -> None:
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


async def test_growing_playlist_is_event_and_complete_one_is_vod(stage: Stage, clip: Path) -> None:
    _, video_id = await stage.uploaded(clip)
    kinds = []
    while commands := await stage.commands(video_id):
        for command in commands:
            with contextlib.suppress(Ignore):
                await stage.transcoder.handle(command)
            with contextlib.suppress(NotPlayable):
                _, text = await stage.watching.media_playlist(None, video_id, "240p", "")
                listed = m3u8.loads(text)
                kinds.append((listed.playlist_type, listed.is_endlist))
    assert kinds[0] == ("event", False)
    assert kinds[-1] == ("vod", True)


async def test_graceful_stop_of_a_worker_costs_no_attempt(stage: Stage, clip: Path) -> None:
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
    """Reads sources from a server that accepts connections but never responds, so that no part ends."""

    address: str = ""

    def _link(self, video: Video) -> str:
        return self.address


async def stopped(stage: Stage, command: Event) -> None:
    """Start the part and stop gracefully in the middle, like a worker during a rollout."""
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


async def test_stops_kills_and_failures_of_ffmpeg_are_counted_separately(stage: Stage, clip: Path) -> None:
    _, video_id = await stage.uploaded(clip)
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    commands = await stage.commands(video_id)
    limited = replace(stage.transcoder, limits=Limits(memory_bytes=1 << 20))
    for _ in range(transcode.ENCODE_ATTEMPTS - 1):
        await stopped(stage, commands[0])
        with pytest.raises(EncodeFailed):
            await limited.handle(commands[0])
    # Like a killed worker, which cannot record the end of its attempt.
    await stage.pool.execute("UPDATE parts SET attempts = attempts + 1 WHERE video_id = $1", video_id)
    for command in commands:
        await stage.transcoder.handle(command)
    await stage.work(video_id)
    assert await stage.state(video_id) == "ready"


async def test_part_that_kills_every_worker_fails_the_video(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    [command, *_] = await stage.commands(video_id)
    await stage.pool.execute("UPDATE parts SET attempts = $2 WHERE video_id = $1", video_id, transcode.ATTEMPTS)
    await stage.transcoder.handle(command)
    progress = await stage.watching.progress(owner, video_id)
    assert (progress.state, progress.failure_code) == ("failed", "transcode_failed")


async def test_part_that_ffmpeg_fails_is_retried_and_then_fails_the_video(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    command = next(item for item in await stage.commands(video_id) if item.type == "transcode.do_part")
    limited = replace(stage.transcoder, limits=Limits(memory_bytes=1 << 20))
    for _ in range(transcode.ENCODE_ATTEMPTS - 1):
        with pytest.raises(EncodeFailed):
            await limited.handle(command)
    await limited.handle(command)
    assert (await stage.watching.progress(owner, video_id)).failure_code == "transcode_failed"


async def test_part_that_needs_more_memory_than_the_worker_has_fails_the_video(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    command = next(item for item in await stage.commands(video_id) if item.type == "transcode.do_part")
    limited = replace(stage.transcoder, limits=Limits(resident_bytes=20 << 20))
    for _ in range(transcode.ENCODE_ATTEMPTS - 1):
        with pytest.raises(EncodeFailed, match="memory"):
            await limited.handle(command)
    await limited.handle(command)
    assert (await stage.watching.progress(owner, video_id)).failure_code == "transcode_failed"


async def test_part_waits_for_memory_that_other_parts_use(stage: Stage, make_clip: Callable[..., Path]) -> None:
    picture = "-f lavfi -i testsrc2=size=1280x720:rate=30 -t 4 -c:v libx264 -preset ultrafast"
    owner, video_id = await stage.uploaded(make_clip("large.mp4", *picture.split()))
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    *_, command = [item for item in await stage.commands(video_id) if item.type == "transcode.do_part"]
    ours = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    limits = Limits(shared_bytes=ours + (320 << 20))  # the part takes 275
    crowded = replace(stage.transcoder, limits=limits)
    other = "kept = bytearray(100 << 20)\nimport time\ntime.sleep(100)"
    async with sandbox.start(["python3", "-I", "-S", "-c", other], limits):
        for _ in range(transcode.ENCODE_ATTEMPTS + 1):
            with pytest.raises(Unavailable) as waited:
                await crowded.handle(command)
            assert is_outage(waited.value), "the broker redelivers it for as long as it takes"
    await stage.transcoder.handle(command)
    assert (await stage.watching.progress(owner, video_id)).failure_code == ""
    attempts = "SELECT attempts FROM parts WHERE video_id = $1 AND index = $2"
    assert await stage.pool.fetchval(attempts, video_id, command.data["index"]) == 1


async def test_unreachable_source_is_retried_without_limit(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    away = s3.ObjectStore("http://127.0.0.1:1", access_key="x", secret_key="y")
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    command = next(item for item in await stage.commands(video_id) if item.type == "transcode.do_part")
    for _ in range(2 * transcode.ATTEMPTS):
        with pytest.raises(urllib3.exceptions.HTTPError) as waited:
            await replace(stage.transcoder, objects=away).handle(command)
        assert is_outage(waited.value), "the broker redelivers it for as long as it takes"
    away.close()
    await stage.transcoder.handle(command)
    await stage.work(video_id)
    assert await stage.state(video_id) == "processing", "the other commands were taken by hand"
    assert (await stage.watching.progress(owner, video_id)).failure_code == ""


async def test_missing_source_fails_the_video(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    await stage.objects.remove(UPLOADS, [str(video_id)])
    await stage.work(video_id)
    assert (await stage.watching.progress(owner, video_id)).failure_code == "unreadable"


async def test_dead_lettered_command_fails_the_video(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.give_up(prepare)
    assert (await stage.watching.progress(owner, video_id)).failure_code == "transcode_failed"
