"""Progress by server-sent events, through the real routes: authorisation, end of the stream, and limits."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import jwt
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr
from redis.asyncio import Redis

import kinora_kit.redis
import kinora_kit.revocations
from kinora_kit import migrate, postgres, s3, tasks
from kinora_kit.app import create_app
from kinora_kit.health import Checks
from kinora_kit.identity import AUDIENCE, LEEWAY_SECONDS, Caller, TokenVerifier
from kinora_kit.ids import new_id
from kinora_kit.postgres import Pool
from kinora_kit.streams import Seats
from kinora_kit.testing import eventually, free_port, no_session_has_ended
from kinora_video import announce, rest, store
from kinora_video.changes import Changes
from kinora_video.links import Links
from kinora_video.settings import VideoSettings
from kinora_video.uploads import Uploads
from kinora_video.videos import Videos
from kinora_video.watching import Watching
from kinora_video.wiring import State

ISSUER = "http://gateway"
KEY = Ed25519PrivateKey.generate()
SECRET = "a secret of the tests, long enough"


class Keys:
    async def public_key(self, kid: str) -> Any:
        return KEY.public_key()


class Documents:
    """The media service, which these tests must not call."""

    async def drop(self, video_id: UUID) -> None:
        raise AssertionError


def token(user_id: UUID, *, session_id: UUID | None = None, seconds: float = 600) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": str(user_id), "sid": str(session_id or new_id())}
    times = {"iat": int(time.time()), "exp": time.time() + seconds}
    return jwt.encode({**claims, **times}, KEY, "EdDSA", headers={"typ": "at+jwt", "kid": "1"})


@dataclass(frozen=True)
class World:
    uploads: Uploads
    pool: Pool
    revocations: Redis
    url: str

    async def uploading(self, owner_id: UUID, *, visibility: str = "public") -> UUID:
        metadata = {"filename": "clip.mp4", "visibility": visibility}
        return await self.uploads.begin(Caller(owner_id), size=100, metadata=metadata)

    async def receive(self, video_id: UUID, offset: int) -> None:
        upload = await self.uploads.get(video_id)
        assert upload is not None
        await self.uploads.receive(upload, offset, upload.size)

    async def fail(self, video_id: UUID) -> None:
        async with postgres.transaction(self.pool) as connection:
            video = await store.lock(connection, video_id)
            assert video is not None
            await announce.fail(connection, video, "unreadable", "It cannot be read.")


class Followed:
    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def event(self) -> tuple[str, dict[str, Any]]:
        """The id and data of the next event. Raises StopAsyncIteration at the end."""
        found: dict[str, str] = {}
        async with asyncio.timeout(30):
            while True:
                line = await anext(self._lines)
                if not line and "data" in found:
                    return found["id"], json.loads(found["data"])
                name, _, value = line.partition(": ")
                found[name] = value

    async def end(self) -> None:
        async with asyncio.timeout(30):
            async for _ in self._lines:
                pass


@pytest.fixture(scope="module")
async def world(environment: Callable[[str], dict[str, str]]) -> AsyncIterator[World]:
    env = environment("kit-test")
    schema, port = f"video_{new_id().hex}", free_port()
    connection = await asyncpg.connect(env["KINORA_POSTGRES_URL"])
    await connection.execute(f"CREATE SCHEMA {schema}")
    url = f"{env['KINORA_POSTGRES_URL']}?search_path={schema}"
    migrating = await asyncpg.connect(url)
    await migrate.migrate(migrating, "kinora_video")
    await migrating.close()
    settings = VideoSettings(
        http_port=port,
        grpc_port=1,
        postgres_url=SecretStr(url),
        rabbitmq_url=SecretStr("amqp://127.0.0.1:1"),
        s3_url=env["KINORA_S3_URL"],
        s3_access_key=env["KINORA_S3_ACCESS_KEY"],
        s3_secret_key=SecretStr(env["KINORA_S3_SECRET_KEY"]),
        public_url=ISSUER,
        tusd_url="http://127.0.0.1:1",
        jwks_url="http://127.0.0.1:1",
        media_grpc="127.0.0.1:1",
        redis_url=SecretStr(env["KINORA_REDIS_URL"]),
        signing_secret=SecretStr(SECRET),
        streams_per_user=2,
        session_check_seconds=60,
    )
    async with (
        postgres.connect(url, name="video-test") as pool,
        kinora_kit.redis.connect(env["KINORA_REDIS_URL"], name="video-test") as revocations,
        s3.connect(
            env["KINORA_S3_URL"], access_key=env["KINORA_S3_ACCESS_KEY"], secret_key=env["KINORA_S3_SECRET_KEY"]
        ) as objects,
        httpx.AsyncClient(timeout=60) as tusd,
    ):
        await no_session_has_ended(revocations)
        watching = Watching(pool, objects, Links(SECRET, 3600), settings)
        videos = Videos(pool, Documents())
        uploads = Uploads(pool, objects, tusd, settings)

        @contextlib.asynccontextmanager
        async def wire(_: VideoSettings) -> AsyncIterator[State]:
            changes = Changes()
            verifier = TokenVerifier(keys=Keys(), issuer=ISSUER, revocations=revocations)
            async with changes.listening(url), tasks.background(revocations=verifier.revocations.follow):
                yield State(
                    checks=Checks(),
                    watching=watching,
                    videos=videos,
                    uploads=uploads,
                    changes=changes,
                    followers=Seats("events", settings),
                    verifier=verifier,
                )

        config = uvicorn.Config(create_app(settings, wire, [rest.router]), port=port, log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        await eventually(lambda: server.started, seconds=60)
        yield World(uploads, pool, revocations, f"http://127.0.0.1:{port}")
        server.should_exit = True
        await serving
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    await connection.close()


@contextlib.asynccontextmanager
async def following(
    world: World, video_id: UUID, bearer: str | None, *, last_event_id: str | None = None
) -> AsyncIterator[Followed]:
    headers = {b"Authorization": f"Bearer {bearer}".encode()} if bearer else {}
    if last_event_id is not None:
        headers[b"Last-Event-ID"] = last_event_id.encode("latin-1")
    async with (
        httpx.AsyncClient(base_url=world.url, trust_env=False, timeout=60) as client,
        client.stream("GET", f"/video/{video_id}/progress", headers=headers) as answer,
    ):
        yield Followed(answer)


async def test_progress_starts_with_the_current_state_and_ends_with_the_final_one(world: World) -> None:
    owner = new_id()
    video_id = await world.uploading(owner)
    async with following(world, video_id, token(owner)) as followed:
        assert followed.answer.headers["content-type"].startswith("text/event-stream")
        first, state = await followed.event()
        assert (state["state"], state["bytes_received"]) == ("uploading", 0)
        assert "owner_id" not in state
        await world.receive(video_id, 60)
        second, state = await followed.event()
        assert (state["bytes_received"], int(second) > int(first)) == (60, True)
        await world.fail(video_id)
        last, state = await followed.event()
        assert (state["state"], state["failure_code"]) == ("failed", "unreadable")
        await followed.end()
    async with following(world, video_id, token(owner), last_event_id=last) as again:
        assert again.answer.status_code == 204
    async with following(world, video_id, token(owner), last_event_id=second) as again:
        assert (await again.event())[0] == last
        await again.end()


async def test_progress_resumes_after_the_last_event_id(world: World) -> None:
    owner = new_id()
    video_id = await world.uploading(owner)
    async with following(world, video_id, token(owner)) as followed:
        seen, _ = await followed.event()
    async with following(world, video_id, token(owner), last_event_id=seen) as followed:
        await world.receive(video_id, 10)
        event_id, state = await followed.event()
        assert (int(event_id) > int(seen), state["bytes_received"]) == (True, 10)


@pytest.mark.parametrize("nonsense", ["", "-1", "x", "9" * 18, "9" * 5000, "\u00b2"])
async def test_progress_accepts_any_last_event_id(world: World, nonsense: str) -> None:
    owner = new_id()
    video_id = await world.uploading(owner)
    async with following(world, video_id, token(owner), last_event_id=nonsense) as followed:
        assert followed.answer.status_code == 200
        await world.fail(video_id)
        async with asyncio.timeout(30):
            while (await followed.event())[1]["state"] != "failed":
                pass


async def test_progress_is_restricted_to_the_owner(world: World) -> None:
    owner, stranger = new_id(), new_id()
    public, private = await world.uploading(owner), await world.uploading(owner, visibility="private")
    for video_id, bearer, status in (
        (public, None, 401),
        (public, "nonsense", 401),
        (public, token(owner, seconds=-60), 401),
        (public, token(stranger), 403),
        (private, token(stranger), 404),
        (private, token(owner), 200),
    ):
        async with following(world, video_id, bearer) as followed:
            assert followed.answer.status_code == status


async def test_progress_ends_with_the_session(world: World) -> None:
    owner, session_id = new_id(), new_id()
    video_id = await world.uploading(owner)
    async with following(world, video_id, token(owner, session_id=session_id)) as followed:
        await followed.event()
        await kinora_kit.revocations.announce(world.revocations, {session_id: 60})
        await followed.end()
    async with following(world, video_id, token(owner, session_id=session_id)) as followed:
        assert followed.answer.status_code == 401


async def test_progress_ends_with_the_token(world: World) -> None:
    owner = new_id()
    video_id = await world.uploading(owner)
    async with following(world, video_id, token(owner, seconds=3 - LEEWAY_SECONDS)) as followed:
        await followed.event()
        await followed.end()


async def test_streams_are_limited_per_user_without_affecting_others(world: World) -> None:
    owner, other = new_id(), new_id()
    video_id, others = await world.uploading(owner), await world.uploading(other)
    async with following(world, video_id, token(owner)) as first, following(world, video_id, token(owner)) as second:
        assert (first.answer.status_code, second.answer.status_code) == (200, 200)
        async with following(world, video_id, token(owner)) as third:
            assert third.answer.status_code == 429
            assert third.answer.headers["retry-after"] == "1"
        async with following(world, others, token(other)) as followed:
            assert followed.answer.status_code == 200

    async def free_again() -> bool:
        async with following(world, video_id, token(owner)) as followed:
            return followed.answer.status_code == 200

    await eventually(free_again)
    await eventually(free_again)
