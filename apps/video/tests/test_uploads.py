"""The use cases of uploads: rejections, deferred lengths, partial and final uploads, and expiry."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest

from kinora_kit.errors import DomainError, InvalidInput, Unavailable, problem
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_video import store
from kinora_video.errors import (
    FileTooLarge,
    NotConcatenable,
    PartialTooSmall,
    TooManyUploads,
    UnsupportedType,
    UploadEnded,
    UploadFull,
    VideoNotFound,
)
from kinora_video.tus import Creation, Name
from kinora_video.uploads import EVER_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Stage

UPLOADS = "uploads"


async def test_sweep_finishes_an_upload_whose_hook_was_lost(stage: Stage, clip: Path) -> None:
    owner = Caller(new_id())
    video_id = await stage.uploads.begin(owner, size=clip.stat().st_size, metadata={"filename": "a.mp4"})
    await stage.objects.put_file(UPLOADS, str(video_id), clip, content_type="video/mp4")
    await stage.pool.execute("UPDATE videos SET updated_at = now() - interval '1 minute' WHERE id = $1", video_id)
    await stage.uploads.sweep()
    assert await stage.state(video_id) == "processing"


async def test_abandoned_upload_expires(stage: Stage) -> None:
    owner = Caller(new_id())
    video_id = await stage.uploads.begin(owner, size=1000, metadata={"filename": "a.mp4"})
    await stage.pool.execute("UPDATE videos SET updated_at = now() - interval '2 days' WHERE id = $1", video_id)
    await stage.uploads.sweep()
    assert await stage.state(video_id) == "uploading", "only the full sweep checks inactive uploads"
    await stage.uploads.sweep(active_seconds=EVER_SECONDS)
    assert (await stage.watching.progress(owner, video_id)).failure_code == "upload_expired"
    with pytest.raises(UploadEnded):
        await stage.uploads.receive(await stage.upload(video_id), 500, 1000)
    with pytest.raises(UploadEnded):
        await stage.uploads.authorise(owner, await stage.named(video_id))


async def test_failed_video_keeps_the_info_of_its_complete_upload(stage: Stage, workdir: Path) -> None:
    (workdir / "a.mp4").write_bytes(b"no video")
    owner, video_id = await stage.uploaded(workdir / "a.mp4")
    info = f"{video_id}.info"
    await stage.objects.put(UPLOADS, info, b"{}", content_type="x/y")
    await stage.work(video_id)
    assert await stage.state(video_id) == "failed"
    await stage.cleanup.purge()
    assert await stage.left(video_id) == [info]
    name = await stage.named(video_id)
    await stage.uploads.authorise(owner, name)
    with pytest.raises(UploadFull):
        await stage.uploads.authorise(owner, name, offset="8")
    await stage.videos.delete(owner, video_id)
    await stage.cleanup.purge()
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
async def test_filename_keeps_its_letters(stage: Stage, filename: str, kept: str | None) -> None:
    metadata = {"filename": filename, "title": filename}
    video_id = await stage.uploads.begin(Caller(new_id()), size=10, metadata=metadata)
    video = await store.get(stage.pool, video_id)
    assert video is not None
    assert (video.filename, video.title) == (kept or filename, kept or filename)


@pytest.mark.parametrize("filename", ["data:,a.mp4", "http://a.mp4", "//[a].mp4", "a?b.png#c.mp4", "/a.mp4"])
async def test_filename_that_looks_like_a_url_is_accepted(stage: Stage, filename: str) -> None:
    await stage.uploads.begin(Caller(new_id()), size=10, metadata={"filename": filename})


async def test_begin_rejects_invalid_and_too_many_uploads(stage: Stage) -> None:
    owner = Caller(new_id())
    for size, metadata, error in (
        (2 << 30, {"filename": "a.mp4"}, FileTooLarge),
        (10, {"filename": "a.png"}, UnsupportedType),
        (10, {"filename": "a.mp4", "filetype": "text/html"}, UnsupportedType),
        (10, {"filename": "a.mp4", "visibility": "secret"}, InvalidInput),
        (10, {"filename": "a.mp4", "filetype": "video/mp4\nX-Amz-Acl: public-read"}, InvalidInput),
    ):
        with pytest.raises(error):
            await stage.uploads.begin(owner, size=size, metadata=metadata)
    first, _ = [await stage.uploads.begin(owner, size=10, metadata={}) for _ in range(2)]
    with pytest.raises(TooManyUploads):
        await stage.uploads.begin(owner, size=10, metadata={})
    await stage.uploads.created(first)
    await stage.pool.execute(
        "UPDATE videos SET created_at = created_at - interval '10 seconds' WHERE owner_id = $1", owner.user_id
    )
    await stage.uploads.begin(owner, size=10, metadata={})  # takes the place of the one that tusd did not create
    with pytest.raises(TooManyUploads):
        await stage.uploads.begin(owner, size=10, metadata={})


async def create_answered(stage: Stage, answer: httpx.Response) -> DomainError:
    """What ``create`` raises when tusd returns ``answer``."""
    async with httpx.AsyncClient(base_url="http://tusd.test", transport=httpx.MockTransport(lambda _: answer)) as tusd:
        with pytest.raises(DomainError) as refused:
            await replace(stage.uploads, tusd=tusd).create(
                Caller(new_id()), title="A", filename="a.mp4", size=10, visibility="private", draft_id=None, trace={}
            )
    return refused.value


async def test_create_raises_the_error_of_the_hook_with_its_fields(stage: Stage) -> None:
    invalid = InvalidInput.of([("filetype", "Not a media type")])
    refused = await create_answered(stage, httpx.Response(422, json=problem(invalid)))
    assert problem(refused) == problem(invalid)


async def test_create_is_unavailable_if_tusd_fails(stage: Stage) -> None:
    for answer in (httpx.Response(502, text="Bad Gateway"), httpx.Response(400, json={"detail": "x"})):
        assert isinstance(await create_answered(stage, answer), Unavailable)


async def test_multipart_id_is_read_from_info_if_the_hook_was_lost(stage: Stage) -> None:
    owner = Caller(new_id())
    video_id = await stage.uploads.begin(owner, size=10, metadata={})
    with pytest.raises(VideoNotFound):
        await stage.uploads.authorise(owner, Name(video_id, "guessed"))
    info = json.dumps({"ID": f"{video_id}+the-part", "Size": 10}).encode()
    await stage.objects.put(UPLOADS, f"{video_id}.info", info, content_type="x/y")
    with pytest.raises(VideoNotFound):
        await stage.uploads.authorise(owner, Name(video_id, "guessed"))
    assert (await stage.upload(video_id)).multipart_id == "the-part"
    await stage.uploads.authorise(owner, Name(video_id, "the-part"))


async def test_deferred_length_is_accepted_once_and_within_the_limit(stage: Stage) -> None:
    owner = Caller(new_id())
    video_id = await stage.uploads.begin(owner, size=None, metadata={})
    name = await stage.named(video_id)
    assert (await stage.watching.progress(owner, video_id)).bytes_total == 0
    with pytest.raises(FileTooLarge):
        await stage.uploads.authorise(owner, name, declared_size=(1 << 30) + 1)
    with pytest.raises(UploadFull):
        await stage.uploads.authorise(owner, name, offset=str(1 << 30))
    assert await stage.uploads.authorise(owner, name, declared_size=500) == 500
    await stage.uploads.receive(await stage.upload(video_id), 100, None)
    assert (await stage.upload(video_id)).size is None
    await stage.uploads.receive(await stage.upload(video_id), 200, 500)
    assert (await stage.watching.progress(owner, video_id)).bytes_total == 500
    assert await stage.uploads.authorise(owner, name, declared_size=500) is None, "tusd rejects a second declaration"
    with pytest.raises(InvalidInput):
        await stage.uploads.authorise(owner, name, declared_size=501)


@pytest.mark.parametrize("hook", ["received", "finished"])
async def test_deferred_length_beyond_the_limit_fails_the_video(stage: Stage, hook: str) -> None:
    owner = Caller(new_id())
    video_id = await stage.uploads.begin(owner, size=None, metadata={})
    name = await stage.named(video_id)
    if hook == "received":
        with pytest.raises(FileTooLarge):
            await stage.uploads.receive(await stage.upload(video_id), (1 << 30) + 1, None)
    else:
        await stage.uploads.finish(video_id, (1 << 30) + 1)
    assert (await stage.watching.progress(owner, video_id)).failure_code == "file_too_large"
    assert await stage.commands(video_id) == []
    with pytest.raises(UploadEnded):
        await stage.uploads.authorise(owner, name)


async def test_sweep_finishes_a_deferred_upload_whose_hook_was_lost(stage: Stage, clip: Path) -> None:
    owner = Caller(new_id())
    video_id = await stage.uploads.begin(owner, size=None, metadata={"filename": "a.mp4"})
    await stage.objects.put_file(UPLOADS, str(video_id), clip, content_type="video/mp4")
    await stage.pool.execute("UPDATE videos SET updated_at = now() - interval '1 minute' WHERE id = $1", video_id)
    await stage.uploads.sweep()
    assert (await stage.state(video_id), (await stage.upload(video_id)).size) == ("processing", clip.stat().st_size)


async def test_partial_upload_is_not_a_video(stage: Stage) -> None:
    owner = Caller(new_id())
    part = await stage.partial(owner, b"x" * 10)
    for attempt in (
        stage.watching.get(owner, part.id),
        stage.watching.progress(owner, part.id),
        stage.videos.delete(owner, part.id),
        stage.videos.enforce_visibility(owner, part.id, "public", 1),
    ):
        with pytest.raises(VideoNotFound):
            await attempt
    await stage.uploads.finish(part.id, 10)
    assert await stage.watching.list_videos(owner, [part.id]) == []
    assert [event for _, event in await stage.outbox() if str(part.id) in event.model_dump_json()] == []
    with pytest.raises(FileTooLarge):
        await stage.uploads.begin_partial(owner, (5 << 30) + 1)


async def test_partial_uploads_count_until_their_final_upload_is_complete(stage: Stage) -> None:
    owner = Caller(new_id())
    parts = [await stage.partial(owner, b"x" * 10) for _ in range(2)]
    with pytest.raises(TooManyUploads):
        await stage.uploads.begin_partial(owner, 10)
    with pytest.raises(TooManyUploads):
        await stage.uploads.begin(owner, size=10, metadata={})
    video_id = await stage.uploads.begin(owner, size=20, metadata={}, parts=parts)
    with pytest.raises(TooManyUploads):
        await stage.uploads.begin(owner, size=10, metadata={})
    await stage.uploads.finish(video_id, 20)
    await stage.uploads.begin_partial(owner, 10)


async def test_final_upload_accepts_only_complete_partial_uploads_of_the_caller(stage: Stage) -> None:
    owner, stranger = Caller(new_id()), Caller(new_id())
    part, theirs = await stage.partial(owner, b"x"), await stage.partial(stranger, b"x")
    ended = await stage.partial(owner, b"x")
    await stage.uploads.end_partial(ended.id)
    video = await stage.named(await stage.uploads.begin(stranger, size=10, metadata={}))
    unfinished = await stage.named(await stage.uploads.begin_partial(owner, None))
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
            await stage.uploads.authorise_creation(caller, Creation(None, False, tuple(parts), {}, {}))
        with pytest.raises(error):
            await stage.uploads.begin(caller, size=2, metadata={}, parts=parts)
    for upload in (part, theirs):
        assert (await stage.upload(upload.id)).final_id is None


async def test_final_upload_takes_one_query_for_all_its_parts(stage: Stage) -> None:
    owner = Caller(new_id())
    parts = [await stage.partial(owner, b"x") for _ in range(2)]
    queries: list[object] = []
    async with stage.pool.acquire() as connection:
        with connection.query_logger(queries.append):
            uploads = replace(stage.uploads, pool=connection)
            await uploads.authorise_creation(owner, Creation(None, False, tuple(parts), {}, {}))
    assert len(queries) == 1


async def test_partial_upload_is_used_once_and_ends_with_its_final(stage: Stage) -> None:
    owner = Caller(new_id())
    parts = [await stage.partial(owner, b"x" * 10) for _ in range(2)]
    failed = await stage.uploads.begin(owner, size=20, metadata={}, parts=parts)
    video_id = await stage.uploads.begin(owner, size=20, metadata={}, parts=parts)
    assert await stage.state(failed) == "deleted", "its parts were taken over"
    await stage.uploads.finish(failed, 20)
    assert await stage.state(failed) == "deleted"
    assert not (await stage.upload(parts[0].id)).ended
    await stage.uploads.finish(video_id, 20)
    assert await stage.state(video_id) == "processing"
    with pytest.raises(UploadEnded):
        await stage.uploads.begin(owner, size=20, metadata={}, parts=parts)
    await stage.cleanup.purge()
    assert [await stage.left(part.id) for part in parts] == [[], []]


async def test_small_parts_are_accepted_for_small_files_only(stage: Stage) -> None:
    """tusd assembles those in memory."""
    owner = Caller(new_id())
    parts = []
    for size in (5 << 20, 40 << 20):
        upload_id = await stage.uploads.begin_partial(owner, size)
        parts.append(await stage.named(upload_id))
    await stage.uploads.authorise_creation(owner, Creation(None, False, tuple(parts), {}, {}))
    await stage.pool.execute("UPDATE partials SET size = size - 1 WHERE id = $1", parts[0].id)
    with pytest.raises(PartialTooSmall):
        await stage.uploads.authorise_creation(owner, Creation(None, False, tuple(parts), {}, {}))
    await stage.pool.execute("UPDATE partials SET size = 1 << 30 WHERE owner_id = $1", owner.user_id)
    with pytest.raises(FileTooLarge):
        await stage.uploads.authorise_creation(owner, Creation(None, False, tuple(parts), {}, {}))


async def test_partial_uploads_expire_and_are_removed(stage: Stage) -> None:
    owner = Caller(new_id())
    part, living = [await stage.partial(owner, b"x") for _ in range(2)]
    await stage.pool.execute("UPDATE partials SET updated_at = now() - interval '2 days' WHERE id = $1", part.id)
    await stage.uploads.sweep()
    with pytest.raises(UploadEnded):
        await stage.uploads.receive(await stage.upload(part.id), 1, 1)
    await stage.cleanup.purge()
    assert (await stage.left(part.id), await stage.left(living.id)) == ([], [str(living.id)])
    await stage.objects.put(UPLOADS, str(part.id), b"late", content_type="x/y")
    await stage.pool.execute(
        "UPDATE partials SET updated_at = now() - interval '15 minutes', purge_at = now() WHERE id = $1", part.id
    )
    await stage.cleanup.purge()
    assert (await stage.left(part.id), await stage.uploads.get(part.id)) == ([], None)


async def test_account_deletion_ends_partial_uploads(stage: Stage) -> None:
    owner = Caller(new_id())
    part = await stage.partial(owner, b"x")
    await stage.videos.delete_all_of(owner.user_id)
    await stage.cleanup.purge()
    assert ((await stage.upload(part.id)).ended, await stage.left(part.id)) == (True, [])
