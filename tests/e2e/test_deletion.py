"""Deleted data is gone from every store: rows, documents, objects, incomplete uploads. A new visibility is enforced."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from client import Person, register, video_id
from clips import Clip
from environment import load
from motor.motor_asyncio import AsyncIOMotorClient
from test_bad_input import emptied

from conftest import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


async def rows_of(owner: str) -> list[str]:
    """A user's rows in PostgreSQL and documents in MongoDB, except tombstones."""
    found = []
    auth = await asyncpg.connect(load("auth")["KINORA_POSTGRES_URL"])
    video = await asyncpg.connect(load("video")["KINORA_POSTGRES_URL"])
    try:
        for table, column in (("users", "id"), ("sessions", "user_id")):
            found += [table] * await auth.fetchval(f"SELECT count(*) FROM {table} WHERE {column} = $1", UUID(owner))
        for table in ("renditions", "parts", "segments"):
            found += [table] * await video.fetchval(
                f"SELECT count(*) FROM {table} JOIN videos ON videos.id = video_id WHERE owner_id = $1", UUID(owner)
            )
        kept = "state <> 'deleted' OR title <> '' OR filename <> '' OR source IS NOT NULL"
        found += ["videos"] * await video.fetchval(
            f"SELECT count(*) FROM videos WHERE owner_id = $1 AND ({kept})", UUID(owner)
        )
    finally:
        await auth.close()
        await video.close()
    client: AsyncIOMotorClient[dict[str, object]] = AsyncIOMotorClient(
        load("media")["KINORA_MONGO_URL"], uuidRepresentation="standard"
    )
    try:
        for name in await client["media"].list_collection_names():
            async for document in client["media"][name].find({"owner_id": UUID(owner), "title": {"$exists": True}}):
                found.append(f"{name} {document['_id']}")
    finally:
        client.close()
    return found


async def test_deleted_account_leaves_no_data(clip: Callable[[str], Clip]) -> None:
    async with register() as person:
        ready = await person.upload(clip("short").path)
        assert (await person.outcome(ready))["state"] == "ready"
        begun = await person.create("half.mp4", 60 << 20)
        unfinished = video_id(begun.headers["location"])
        described = {"title": "Mine", "filename": "a.mp4", "size": 9}
        assert (await person.http.post("/media", headers=person.headers, json=described)).status_code == 201
        assert await rows_of(person.id)
        gone = await person.delete("/user/profile", {"current_password": person.password})
        assert gone.status_code == 204, gone.text

        async def nothing_left() -> bool:
            return not await rows_of(person.id)

        await until(nothing_left, what="the rows of the account to be gone")
        for video in (ready, unfinished):
            await until(emptied(video), what="the buckets to be empty")
        refused = await person.get("/user/profile")
        assert refused.status_code == 401


async def test_deleted_video_is_inaccessible_at_once(
    person: Person, stranger: Person, clip: Callable[[str], Clip]
) -> None:
    video = await person.upload(clip("short").path)
    assert (await person.outcome(video))["state"] == "ready"
    shown = (await stranger.get(f"/video/{video}")).json()
    assert (await stranger.delete(f"/video/{video}")).status_code == 403
    assert (await person.delete(f"/video/{video}")).status_code == 204
    assert (await stranger.get(f"/video/{video}")).status_code == 404
    for url in (shown["stream_url"], shown["poster_url"]):
        assert (await stranger.http.get(url)).status_code == 404
    await until(emptied(video), what="the buckets to be empty")
    assert (await person.get(f"/media/{video}")).status_code == 404


async def test_scheduled_video_is_accessible_at_its_time(
    person: Person, stranger: Person, clip: Callable[[str], Clip]
) -> None:
    video = await person.upload(clip("short").path, visibility="private")
    assert (await person.outcome(video))["state"] == "ready"
    at = datetime.now(UTC) + timedelta(seconds=3)
    scheduled = await person.patch(f"/media/{video}", {"publish_at": at.isoformat()})
    assert scheduled.status_code == 200, scheduled.text
    assert (await stranger.get(f"/video/{video}")).status_code == 404

    async def is_public() -> bool:
        return (await stranger.get(f"/video/{video}")).status_code == 200

    await until(is_public, what="the stream to be public")
    assert at <= datetime.now(UTC) < at + timedelta(seconds=5)

    async def is_listed() -> bool:
        return bool((await stranger.get("/media/feed")).json()["items"][0]["id"] == video)

    await until(is_listed, what="the feed, which may be a second old, to show it")


async def test_private_video_is_inaccessible_at_once(
    person: Person, stranger: Person, clip: Callable[[str], Clip]
) -> None:
    video = await person.upload(clip("short").path)
    assert (await person.outcome(video))["state"] == "ready"
    shown = (await stranger.get(f"/video/{video}")).json()
    segment = shown["stream_url"].replace("master.m3u8", "240p/init.mp4")
    assert (await stranger.http.get(segment)).status_code == 200
    assert (await person.patch(f"/media/{video}", {"visibility": "private"})).status_code == 200
    assert (await stranger.get(f"/video/{video}")).status_code == 404
    assert (await stranger.http.get(segment)).status_code == 404
    assert (await stranger.http.get(shown["stream_url"])).status_code == 404
    own = (await person.get(f"/video/{video}")).json()
    signed = own["stream_url"]
    assert (await stranger.http.get(signed)).status_code == 200, "anyone with the signed URL may watch"
    init = await stranger.http.get(signed.replace("master.m3u8", "240p/init.mp4"))
    assert init.status_code == 200
    assert init.headers["cache-control"].startswith("private")
