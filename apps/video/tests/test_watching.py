"""The use cases of viewers: signed URLs, playlists, and access to the objects of a stream."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest

from kinora_video.errors import LinkExpired, VideoNotFound

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Stage

STREAMS = "streams"


async def test_signed_urls_end_with_the_next_change_of_visibility(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip, visibility="private")
    await stage.work(video_id)
    queries = []
    for version, visibility in enumerate(("private", "public", "private", "unlisted", "private"), start=1):
        await stage.videos.enforce_visibility(owner, video_id, visibility, version)  # type: ignore[arg-type]
        if visibility == "private":
            queries.append((await stage.watching.get(owner, video_id)).stream_url.partition("?")[2])
            await stage.watching.authorise_object("GET", video_id, "240p/init.mp4", queries[-1])
            for ended in queries[:-1]:
                with pytest.raises(LinkExpired):
                    await stage.watching.authorise_object("GET", video_id, "240p/init.mp4", ended)
                with pytest.raises(LinkExpired):
                    await stage.watching.master_playlist(None, video_id, ended)
    assert len(set(queries)) == len(queries)
    again = (await stage.watching.get(owner, video_id)).stream_url.partition("?")[2]
    assert again == queries[-1], "the last change did not change the visibility"


async def test_visibility_written_by_the_previous_version_ends_signed_urls(stage: Stage, clip: Path) -> None:
    """Which does not know the counter, and runs in parallel during a rollout."""
    owner, video_id = await stage.uploaded(clip, visibility="private")
    await stage.work(video_id)
    query = (await stage.watching.get(owner, video_id)).stream_url.partition("?")[2]
    for visibility in ("public", "private"):
        await stage.pool.execute("UPDATE videos SET visibility = $2 WHERE id = $1", video_id, visibility)
    with pytest.raises(LinkExpired):
        await stage.watching.authorise_object("GET", video_id, "240p/init.mp4", query)


async def test_private_stream_requires_its_signature(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip, visibility="private")
    await stage.work(video_id)
    url = (await stage.watching.get(owner, video_id)).stream_url
    query = url.partition("?")[2]
    _, master = await stage.watching.master_playlist(None, video_id, query)
    assert all(query in line for line in master.splitlines() if line and not line.startswith("#"))
    with pytest.raises(VideoNotFound):
        await stage.watching.master_playlist(None, video_id, "")
    # A request with a signed URL gets no newer signature, so access expires.
    older = replace(stage.watching.links, lifetime_seconds=60).query(video_id, 0, 0)
    assert older != query
    for _, text in (
        await stage.watching.master_playlist(None, video_id, older),
        await stage.watching.media_playlist(None, video_id, "240p", older),
    ):
        assert older in text
        assert query not in text
    other_owner, other = await stage.uploaded(clip, visibility="private")
    foreign = stage.watching.links.query(other, 0, 0)
    for wrong in ("exp=99999999999&sig=abc", query.replace("sig=", "sig=0"), foreign, "exp=x&sig=y", query + "&acl"):
        with pytest.raises(LinkExpired):
            await stage.watching.authorise_object("GET", video_id, "240p/init.mp4", wrong)
    expired = replace(stage.watching.links, lifetime_seconds=-10_000).query(video_id, 0, 0)
    with pytest.raises(LinkExpired):
        await stage.watching.master_playlist(None, video_id, expired)
    assert other_owner != owner


async def test_gateway_can_fetch_only_the_authorised_object(stage: Stage, clip: Path) -> None:
    owner, video_id = await stage.uploaded(clip, visibility="private")
    await stage.work(video_id)
    query = stage.watching.links.query(video_id, 0, 0)
    headers = await stage.watching.authorise_object("GET", video_id, "240p/init.mp4", query)
    path = f"{stage.objects.url}/{STREAMS}/{video_id}"
    async with httpx.AsyncClient(timeout=60) as http:
        whole = await http.get(f"{path}/240p/init.mp4?{query}", headers=headers)
        part = await http.get(f"{path}/240p/init.mp4?{query}", headers={**headers, "Range": "bytes=0-9"})
        other = await http.get(f"{path}/audio/init.mp4?{query}", headers=headers)
    assert (whole.status_code, part.status_code, other.status_code) == (200, 206, 403)
    assert whole.content[4:8] == b"ftyp"
    assert owner is not None


async def test_stream_that_becomes_private_is_closed_at_once(stage: Stage, clip: Path) -> None:
    _, video_id = await stage.uploaded(clip)
    await stage.work(video_id)
    await stage.watching.authorise_object("GET", video_id, "240p/init.mp4", "")
    with pytest.raises(LinkExpired):
        await stage.watching.authorise_object("GET", video_id, "240p/init.mp4", "acl")
    await stage.videos.set_visibility(video_id, "private", 1)
    with pytest.raises(VideoNotFound):
        await stage.watching.authorise_object("GET", video_id, "240p/init.mp4", "")
