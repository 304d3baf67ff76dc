"""The use cases that change videos: deletion, visibility and the poster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kinora_kit.consumer import Ignore
from kinora_kit.errors import InvalidInput, Unavailable
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_video import store, videos
from kinora_video.errors import NotPlayable, NotTheOwner, UploadEnded, VideoNotFound
from kinora_video.tus import Name

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Stage

STREAMS = "streams"


async def test_delete_removes_all_objects_even_during_transcoding(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    [prepare] = await stage.commands(video_id)
    await stage.transcoder.handle(prepare)
    commands = await stage.commands(video_id)
    await stage.transcoder.handle(commands[0])
    await stage.videos.delete(owner, video_id)
    await stage.cleanup.purge()
    for command in commands[1:]:
        with pytest.raises(Ignore):
            await stage.transcoder.handle(command)
    with pytest.raises(VideoNotFound):
        await stage.watching.get(owner, video_id)
    assert await stage.left(video_id) == []
    assert (await stage.emitted(video_id))[-1] == "video.deleted"


async def test_second_purge_removes_objects_stored_after_the_first(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    await stage.videos.delete(owner, video_id)
    await stage.cleanup.purge()
    await stage.objects.put(STREAMS, f"{video_id}/240p/late.m4s", b"x", content_type="x/y")
    await stage.pool.execute(
        "UPDATE videos SET purge_at = now(), updated_at = now() - interval '1 hour' WHERE id = $1", video_id
    )
    await stage.cleanup.purge()
    assert await stage.left(video_id) == []
    assert await store.get(stage.pool, video_id) is None


async def test_repeated_delete_emits_one_event(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    await stage.videos.delete(owner, video_id)
    await stage.videos.delete_quietly(video_id)
    with pytest.raises(VideoNotFound):
        await stage.videos.delete(owner, video_id)
    assert (await stage.emitted(video_id)).count("video.deleted") == 1


async def test_delete_reaches_the_catalogue_before_it_succeeds(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    stage.catalogue.away = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await stage.videos.delete(owner, video_id)
    with pytest.raises(VideoNotFound):
        await stage.watching.get(owner, video_id)
    stage.catalogue.away = False
    with pytest.raises(VideoNotFound):  # already deleted in both
        await stage.videos.delete(owner, video_id)
    assert stage.catalogue.dropped.count(video_id) == 1
    with pytest.raises(VideoNotFound):
        await stage.videos.delete(Caller(new_id()), video_id)
    assert stage.catalogue.dropped.count(video_id) == 1


async def test_drop_is_restricted_to_the_owner_and_idempotent(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    with pytest.raises(NotTheOwner):
        await stage.videos.drop(Caller(new_id()), video_id)
    for _ in range(2):
        await stage.videos.drop(owner, video_id)
    await stage.videos.drop(owner, new_id())
    assert (await stage.emitted(video_id)).count("video.deleted") == 1
    assert video_id not in stage.catalogue.dropped, "the media service asked for it itself"


async def test_account_deletion_deletes_all_its_videos(
    stage: Stage, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "DELETE_BATCH", 1)
    owner, first = await stage.uploaded(clip)
    second = await stage.uploads.begin(owner, size=10, metadata={"filename": "b.mp4"})
    _, foreign = await stage.uploaded(clip)
    for _ in range(2):
        await stage.videos.delete_all_of(owner.user_id)
    assert await stage.watching.list_videos(owner, [first, second]) == []
    for video_id in (first, second):
        assert (await stage.emitted(video_id)).count("video.deleted") == 1
    progress = [event for exchange, event in await stage.outbox() if exchange == "video.progress"]
    assert [event.data["state"] for event in progress if event.subject == str(first)][-1] == "deleted"
    assert await stage.state(foreign) == "processing"


async def test_enforce_visibility_is_restricted_to_the_owner_and_the_newest_wins(stage: Stage, clip: Path) -> None:
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
        assert (await stage.watching.get(owner, video_id)).video.visibility == stands
    await stage.videos.drop(owner, video_id)
    for caller in (owner, stranger):
        with pytest.raises(VideoNotFound):
            await stage.videos.enforce_visibility(caller, video_id, "public", 9)


async def test_use_cases_of_the_owner_reject_strangers(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip, visibility="unlisted")
    stranger = Caller(new_id())
    for attempt in (
        stage.videos.delete(stranger, video_id),
        stage.videos.choose_poster(stranger, video_id, 0),
        stage.watching.progress(stranger, video_id),
    ):
        with pytest.raises(NotTheOwner):
            await attempt
    await stage.videos.set_visibility(video_id, "private", 1)
    name = await stage.named(video_id)
    for hidden in (
        stage.watching.get(stranger, video_id),
        stage.watching.get(None, video_id),
        stage.videos.delete(stranger, video_id),
        stage.watching.progress(stranger, video_id),
        stage.uploads.authorise(stranger, name),
        stage.uploads.authorise(owner, Name(video_id, "another")),
    ):
        with pytest.raises(VideoNotFound):
            await hidden
    await stage.uploads.authorise(owner, name)
    await stage.videos.delete(owner, video_id)
    with pytest.raises(UploadEnded):
        await stage.uploads.authorise(owner, name)


async def test_late_visibility_event_is_ignored(stage: Stage, clip: Path) -> None:
    _, video_id = await stage.uploaded(clip)
    await stage.videos.set_visibility(video_id, "private", 5)
    await stage.videos.set_visibility(video_id, "public", 4)
    video = await store.get(stage.pool, video_id)
    assert video is not None
    assert video.visibility == "private"


async def test_choose_poster_replaces_the_poster(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip)
    with pytest.raises(NotPlayable):
        await stage.videos.choose_poster(owner, video_id, 1)
    await stage.work(video_id)
    before = (await stage.watching.get(owner, video_id)).poster_url
    with pytest.raises(InvalidInput):
        await stage.videos.choose_poster(owner, video_id, 100)
    await stage.videos.choose_poster(owner, video_id, 7)
    await stage.work(video_id)
    after = (await stage.watching.get(owner, video_id)).poster_url
    assert after != before
    await stage.videos.choose_poster(owner, video_id, 7)
    assert await stage.commands(video_id) == [], "this poster already exists"
    posters = [key for key in await stage.objects.keys(STREAMS, f"{video_id}/") if "poster" in key]
    assert posters == [f"{video_id}/{after.rpartition('/')[2]}"]
