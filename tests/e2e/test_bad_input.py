"""Invalid and unusual files: each fails with a code and a detail, or plays; nothing is left behind."""

import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from client import Person
from clips import Clip, count_frames
from environment import load
from minio import Minio
from test_journey import assert_plays, worker

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


def text(path: Path, clip: Callable[[str], Clip]) -> None:
    path.write_text("This is not a video. " * 1000)


def nothing(path: Path, clip: Callable[[str], Clip]) -> None:
    path.write_bytes(b"")


def picture(path: Path, clip: Callable[[str], Clip]) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=320x240", "-frames:v", "1", "-f", "image2", "-c:v", "png", path)


def sound_only(path: Path, clip: Callable[[str], Clip]) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine=frequency=440", "-t", "2", "-c:a", "aac", path)


def without_index(path: Path, clip: Callable[[str], Clip]) -> None:
    content = clip("short").path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def cut_after_the_index(path: Path, clip: Callable[[str], Clip]) -> None:
    whole = path.with_suffix(".whole.mp4")
    ffmpeg("-i", clip("short").path, "-c", "copy", "-movflags", "+faststart", whole)
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) // 3])


def playlist_in_disguise(path: Path, clip: Callable[[str], Clip]) -> None:
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")


def concat_in_disguise(path: Path, clip: Callable[[str], Clip]) -> None:
    path.write_text("ffconcat version 1.0\nfile /etc/passwd\nfile http://127.0.0.1:8101/healthz\n")


BAD = {
    "text": (text, "not_a_video"),
    "nothing": (nothing, "empty_file"),
    "picture": (picture, "not_a_video"),
    "sound_only": (sound_only, "no_video_stream"),
    "without_index": (without_index, "truncated"),
    "cut_after_the_index": (cut_after_the_index, "truncated"),
    "playlist_in_disguise": (playlist_in_disguise, "not_a_video"),
    "concat_in_disguise": (concat_in_disguise, "not_a_video"),
}


def objects_of(video: str) -> list[str]:
    """The objects of a video in both buckets, including incomplete uploads.

    Without tusd's info object of a complete upload, which is kept as long as the video's row.
    """
    env = load("video")
    store = Minio(
        env["KINORA_S3_URL"].removeprefix("http://"),
        access_key=env["KINORA_S3_ACCESS_KEY"],
        secret_key=env["KINORA_S3_SECRET_KEY"],
        secure=False,
    )
    found = [
        str(item.object_name)
        for bucket in ("uploads", "streams")
        for item in store.list_objects(bucket, prefix=video, recursive=True)
        if item.object_name != f"{video}.info"
    ]
    pending = store._list_multipart_uploads("uploads", prefix=video).uploads
    return found + [str(item.object_name) for item in pending]


def emptied(video: str) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return not objects_of(video)

    return check


@pytest.mark.parametrize("name", BAD)
async def test_invalid_file_fails_with_code_and_detail(
    name: str, person: Person, clip: Callable[[str], Clip], scratch: Path
) -> None:
    make, code = BAD[name]
    path = scratch / "clip.mp4"
    make(path, clip)
    before = worker().pid

    video = await person.upload(path)
    last = await person.outcome(video)

    assert last["state"] == "failed"
    assert last["failure_code"] == code
    assert last["failure_detail"].endswith(".")
    await until(emptied(video), what="the buckets to be empty")
    shown = (await person.get(f"/video/{video}")).json()
    assert shown["stream_url"] is None
    assert worker().pid == before, "the worker died"
    assert psutil.pid_exists(before)


async def test_oversized_upload_is_rejected_before_its_first_byte(person: Person) -> None:
    refused = await person.create("huge.mp4", 11 << 30)
    assert refused.status_code == 413
    assert refused.json()["code"] == "file_too_large"


async def test_unsupported_type_is_rejected(person: Person) -> None:
    refused = await person.create("photo.png", 1000)
    assert refused.status_code == 415
    assert refused.json()["code"] == "unsupported_type"


async def test_upload_without_a_length_is_rejected(person: Person) -> None:
    refused = await person.http.post("/video/upload", headers={**person.headers, "Tus-Resumable": "1.0.0"})
    assert refused.status_code == 400
    assert refused.json()["code"] == "size_unknown"


ODD = {
    "odd_dimensions": ["-vf", "scale=641:361", "-pix_fmt", "yuv444p"],
    "variable_frame_rate": ["-vf", "select='not(mod(n,3))+lt(n,40)'", "-fps_mode", "vfr"],
    "other_container": ["-f", "matroska"],
}


@pytest.mark.parametrize("name", ODD)
async def test_unusual_source_plays(name: str, person: Person, clip: Callable[[str], Clip], scratch: Path) -> None:
    source = clip("short")
    path = scratch / "odd.mp4"
    ffmpeg("-i", source.path, *ODD[name], "-c:v", "libx264", "-preset", "ultrafast", path)
    video = await person.upload(path)
    last = await person.outcome(video)
    assert last["state"] == "ready", last
    shown = (await person.get(f"/video/{video}")).json()
    frames = count_frames(str(path))
    await assert_plays(
        person.http, shown["stream_url"], Clip(path, frames, frame_seconds=0.1, sound=True, vertical=False)
    )


async def test_rotated_source_plays_upright(person: Person, clip: Callable[[str], Clip], scratch: Path) -> None:
    path = scratch / "rotated.mp4"
    ffmpeg("-i", clip("short").path, "-c", "copy", "-metadata:s:v:0", "rotate=90", path)
    video = await person.upload(path)
    assert (await person.outcome(video))["state"] == "ready"
    shown = (await person.get(f"/video/{video}")).json()
    assert shown["height"] > shown["width"]
    assert all(item["height"] > item["width"] for item in shown["renditions"] if item["name"] != "audio")


async def test_invalid_requests_get_problem_documents(person: Person) -> None:
    cases = [
        await person.get("/video/not-an-id"),
        await person.get("/video/01890000-0000-7000-8000-000000000000"),
        await person.patch("/media/01890000-0000-7000-8000-000000000000", {"unknown": 1}),
        await person.http.get("/user/profile", headers={"Authorization": "Bearer nonsense"}),
        await person.http.post("/auth/login", content=b"{", headers={"Content-Type": "application/json"}),
        await person.http.post("/auth/register", json={"username": "x"}),
        await person.http.get("/nowhere"),
        await person.http.put("/auth/login"),
    ]
    for answer in cases:
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"]
