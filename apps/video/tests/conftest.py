"""Clips, made by ffmpeg, and the use cases of API and worker on a database of their own, without a broker.

Commands are taken from the outbox by hand, so that they can come in any order, twice, and to workers that die.
"""

import contextlib
import hashlib
import random
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from kinora_kit import migrate, postgres, s3
from kinora_kit.consumer import Ignore
from kinora_kit.errors import Unavailable
from kinora_kit.events import Event
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.postgres import Pool
from kinora_kit.s3 import ObjectStore
from kinora_video import store
from kinora_video.cleanup import Cleanup
from kinora_video.domain import Upload
from kinora_video.links import Links
from kinora_video.service import Videos
from kinora_video.settings import VideoSettings, WorkerSettings
from kinora_video.transcode import Transcoder
from kinora_video.tus import Name
from kinora_video.uploads import Uploads

MakeClip = Callable[..., Path]
UPLOADS, STREAMS = "uploads", "streams"
SECRET = "a secret of the tests, long enough"


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that the unprivileged user of the tools can reach; pytest keeps its own closed to others."""
    with tempfile.TemporaryDirectory(prefix="kinora-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def workdir() -> Iterator[Path]:
    """An empty folder in which tools can be given folders of their own."""
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def make_clip() -> Iterator[MakeClip]:
    """Runs ffmpeg once for a name and arguments: make_clip("name.mp4", *arguments) is the clip's path."""
    with open_folder() as folder:

        def make(name: str, *arguments: str) -> Path:
            clip = folder / hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:16] / name
            if not clip.exists():
                clip.parent.mkdir(mode=0o755, exist_ok=True)
                subprocess.run(["ffmpeg", "-v", "error", "-nostdin", *arguments, clip], check=True)
            return clip

        yield make


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
    uploads: Uploads
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
        video_id = await self.uploads.begin(owner, size=clip.stat().st_size, metadata=metadata)
        await self.objects.put_file(UPLOADS, str(video_id), clip, content_type="video/mp4")
        await self.uploads.finish(video_id, clip.stat().st_size)
        return owner, video_id

    async def upload(self, upload_id: UUID) -> Upload:
        upload = await self.uploads.get(upload_id)
        assert upload is not None
        return upload

    async def named(self, upload_id: UUID) -> Name:
        """As tusd names it once its place is made."""
        name = Name(upload_id, f"part-of-{upload_id}")
        await self.uploads.named(await self.upload(upload_id), name)
        return name

    async def partial(self, owner: Caller, content: bytes) -> Name:
        """A partial upload that is all there."""
        upload_id = await self.uploads.begin_partial(owner, len(content))
        await self.objects.put(UPLOADS, str(upload_id), content, content_type="x/y")
        name = await self.named(upload_id)
        await self.uploads.receive(await self.upload(upload_id), len(content), len(content))
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
        yield Stage(
            pool,
            objects,
            Videos(pool, objects, Links(SECRET, 3600), catalogue, settings),
            Uploads(pool, objects, tusd, settings),
            catalogue,
            Transcoder(pool, objects, WorkerSettings(**stores, part_seconds=2, segment_seconds=1)),
            Cleanup(pool, objects, settings),
        )
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
