"""From upload to adaptive playback, with the upload interrupted and the worker killed half-way."""

import itertools
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin

import asyncpg
import httpx
import m3u8
import psutil
import pytest
from client import Broken, Person, video_id
from clips import Clip, count_frames, span
from environment import ROOT, load

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

WORKER_PORT = 8113


def worker() -> psutil.Process:
    """The running transcode worker."""
    listening = [each for each in psutil.net_connections("tcp") if each.status == "LISTEN"]
    pids = [each.pid for each in listening if each.laddr and each.laddr.port == WORKER_PORT]
    assert len(pids) == 1, "there is no transcode worker"
    assert pids[0] is not None
    return psutil.Process(pids[0])


async def attempts(video: str) -> tuple[int, int]:
    """The number of the video's parts, and of attempts."""
    connection = await asyncpg.connect(load("video")["KINORA_POSTGRES_URL"])
    try:
        row = await connection.fetchrow("SELECT count(*), sum(attempts) FROM parts WHERE video_id = $1", video)
    finally:
        await connection.close()
    return int(row[0]), int(row[1])


def folders_of(pid: int) -> list[Path]:
    """The folders of a worker's current parts."""
    return list(Path(ROOT, load("video-worker")["KINORA_WORK_DIR"]).glob(f"kinora-part-{pid}-*"))


def killed_at_work() -> int | None:
    """Kill the worker while it encodes a part; returns the part's number, or ``None`` if it is idle."""
    process = worker()
    process.suspend()  # so that it is still encoding when it is killed
    if folders_of(process.pid):
        process.kill()
        return process.pid
    process.resume()
    return None


@pytest.mark.parametrize("name", ["long", "vertical", "silent"])
async def test_a_clip_goes_from_upload_to_adaptive_playback(
    name: str, person: Person, clip: Callable[[str], Clip]
) -> None:
    source = clip(name)
    size = source.path.stat().st_size

    created = await person.create(source.path.name, size)
    assert created.status_code == 201, created.text
    location = created.headers["location"]
    video = video_id(location)
    with pytest.raises(Broken):
        await person.send(location, source.path, cut_at=size // 2)
    there = await person.offset(location)
    assert 0 <= there < size
    resumed = await person.send(location, source.path, offset=there)
    assert resumed.status_code == 204, resumed.text

    seen = []
    killed: int | None = None
    async for progress in person.follow(video):
        seen.append(progress)
        if name == "long" and killed is None and progress["progress"] > 0.25:
            killed = killed_at_work()
    assert seen[-1]["state"] == "ready", seen[-1]
    assert_never_falls(seen)
    if name == "long":
        assert killed is not None
        parts, begun = await attempts(video)
        # In progress were one bulk part, the audio, and at most two of the first lane; finished parts stayed finished.
        assert parts < begun <= parts + 4

        async def swept() -> bool:
            return not folders_of(killed)

        await until(swept, what="the killed worker's files to be removed")

    shown = (await person.get(f"/video/{video}")).json()
    await assert_plays(person.http, shown["stream_url"], source)
    await assert_plays_by_upper_case_id(person.http, shown["stream_url"], video)
    poster = await person.http.get(shown["poster_url"])
    assert poster.status_code == 200
    assert poster.headers["content-type"] == "image/jpeg"
    await assert_objects_are_served_as_our_own(person.http, shown["poster_url"])

    async def is_listed() -> bool:
        media = (await person.get(f"/media/{video}")).json()
        return bool(media.get("state") == "ready" and media["owner_id"] == person.id)

    await until(is_listed, what="the catalogue to be updated")


# Headers that a client needs with an object, and those that the gateway adds.
OBJECT_HEADERS = {"accept-ranges", "cache-control", "content-length", "content-type", "date", "etag", "last-modified"}
OBJECT_HEADERS |= {"access-control-allow-origin", "access-control-expose-headers"}
OBJECT_HEADERS |= {"referrer-policy", "x-content-type-options", "x-frame-options"}


async def assert_objects_are_served_as_our_own(http: httpx.AsyncClient, url: str) -> None:
    """The object store's headers and errors must not reach a client."""
    origin = {"Origin": "https://app.example"}
    got, head = await http.get(url, headers=origin), await http.head(url, headers=origin)
    assert set(got.headers) <= OBJECT_HEADERS
    assert got.headers.get_list("access-control-allow-origin") == ["*"]
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.content))

    part = await http.get(url, headers={**origin, "Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, got.content[10:20])
    assert (await http.get(url, headers={"If-None-Match": got.headers["etag"]})).status_code == 304

    size = len(got.content)
    refused = [
        (await http.get(url, headers={**origin, "Range": f"bytes={size}-"}), 416, "range_not_satisfiable"),
        (await http.get(url, headers={**origin, "If-Match": '"another"'}), 412, "precondition_failed"),
        (await http.get(url.replace(".jpg", "-2.jpg"), headers=origin), 404, "object_not_found"),
    ]
    for answer, status, code in refused:
        problem = answer.json()
        assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["instance"] == answer.request.url.path
        assert answer.headers["cache-control"] == "no-store" or "sig" in url
        assert set(answer.headers) <= OBJECT_HEADERS | {"content-range", "x-request-id"}
        assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert refused[0][0].headers["content-range"] == f"bytes */{size}"


def assert_never_falls(seen: list[dict[str, object]]) -> None:
    """Overall and per-rendition progress never decreases, and versions increase."""
    for before, after in itertools.pairwise(seen):
        assert before["version"] < after["version"]  # type: ignore[operator]
        assert before["progress"] <= after["progress"]  # type: ignore[operator]
        earlier = {item["name"]: item["progress"] for item in before["renditions"]}  # type: ignore[attr-defined]
        later = {item["name"]: item["progress"] for item in after["renditions"]}  # type: ignore[attr-defined]
        assert all(earlier[rendition] <= later[rendition] for rendition in earlier)
    assert seen[-1]["progress"] == 1


async def assert_plays(http: httpx.AsyncClient, stream_url: str, source: Clip) -> None:
    """Every rendition decodes without errors and has the source's frames, and its audio is as long as its video."""
    answer = await http.get(stream_url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/vnd.apple.mpegurl"
    master = m3u8.loads(answer.text)
    assert master.playlists
    assert bool(master.media) == source.sound
    for playlist in master.playlists:
        information = playlist.stream_info
        assert information.codecs.startswith("avc1.64")
        assert ("mp4a.40.2" in information.codecs) == source.sound
        assert information.average_bandwidth <= information.bandwidth
        width, height = information.resolution
        assert (height > width) == source.vertical
        url = urljoin(stream_url, playlist.uri)
        listed = m3u8.loads((await http.get(url)).text)
        assert listed.is_endlist
        assert listed.playlist_type == "vod"
        assert count_frames(url) == source.frames
    if source.sound:
        picture = span(urljoin(stream_url, master.playlists[0].uri), "v:0", frame_seconds=source.frame_seconds)
        sound = span(urljoin(stream_url, master.media[0].uri), "a:0", frame_seconds=1024 / 48000)
        assert abs(picture[0] - sound[0]) <= source.frame_seconds
        assert abs(picture[1] - sound[1]) <= source.frame_seconds


async def assert_plays_by_upper_case_id(http: httpx.AsyncClient, stream_url: str, video: str) -> None:
    """Swift writes UUIDs in upper case. Players follow redirects, and resolve URLs against the final one."""
    master = await http.get(stream_url.replace(video, video.upper()), follow_redirects=True)
    url = urljoin(str(master.url), m3u8.loads(master.text).playlists[0].uri)
    listed = await http.get(url.replace(video, video.upper()), follow_redirects=True)
    segment = await http.get(urljoin(str(listed.url), m3u8.loads(listed.text).segments[0].uri))
    assert segment.status_code == 200
