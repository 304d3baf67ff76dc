"""The only place that builds clients: ``wire`` for the API, ``wire_worker`` for the worker."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from kinora import queues
from kinora.events import video as events
from kinora.media.v1.media_pb2_grpc import EnforcementStub
from kinora_kit import broker, consumer, http, migrate, outbox, postgres, redis, rpc, s3, tasks
from kinora_kit.broker import Broker
from kinora_kit.health import Checks
from kinora_kit.identity import RemoteKeys, TokenVerifier, ask_auth
from kinora_kit.postgres import Pool
from kinora_kit.queues import Queue
from kinora_kit.s3 import ObjectStore
from kinora_kit.settings import reveal
from kinora_kit.streams import Seats
from kinora_video import announce, sandbox
from kinora_video.catalogue import RemoteCatalogue
from kinora_video.changes import Changes
from kinora_video.cleanup import PURGE_SECONDS, Cleanup
from kinora_video.events import Reactions
from kinora_video.export import exporter
from kinora_video.links import Links
from kinora_video.rpc import register
from kinora_video.settings import StoreSettings, VideoSettings, WorkerSettings
from kinora_video.transcode import Transcoder
from kinora_video.uploads import EVER_SECONDS, FULL_SWEEP_SECONDS, RECENT_SWEEP_SECONDS, Uploads
from kinora_video.videos import Videos
from kinora_video.watching import Watching

# Each lane has its own consumers, so that work that a viewer is waiting for does not queue behind long work.
FIRST = Queue(announce.FIRST_QUEUE, prefetch=2, retry_seconds=(1, 5, 30, 120, 600, 600, 600))
SOUND = Queue(announce.SOUND_QUEUE, prefetch=2, retry_seconds=(1, 5, 30, 120, 600, 600, 600))
BULK = Queue(announce.BULK_QUEUE, prefetch=1, retry_seconds=(1, 5, 30, 120, 600, 600, 600))


@dataclass(frozen=True)
class State:
    checks: Checks
    watching: Watching
    videos: Videos
    uploads: Uploads
    changes: Changes
    followers: Seats
    """Streams of progress (server-sent events)."""
    verifier: TokenVerifier


@dataclass(frozen=True)
class WorkerState:
    checks: Checks


@dataclass(frozen=True)
class _Stores:
    pool: Pool
    broker: Broker
    objects: ObjectStore
    checks: Checks


@contextlib.asynccontextmanager
async def _stores(settings: StoreSettings) -> AsyncIterator[_Stores]:
    """The clients of both processes, including the outbox relay."""
    url = reveal(settings.postgres_url)
    async with (
        postgres.connect(url, name=settings.service) as pool,
        broker.connect(
            reveal(settings.rabbitmq_url),
            name=settings.service,
            exchanges=(events.EXCHANGE, events.PROGRESS_EXCHANGE, events.UPLOADS_EXCHANGE),
            queues=queues.of(events.EXCHANGE),
        ) as messages,
        s3.connect(
            settings.s3_url, access_key=settings.s3_access_key, secret_key=reveal(settings.s3_secret_key)
        ) as objects,
        outbox.relay(pool, messages, url=url),
    ):
        yield _Stores(
            pool,
            messages,
            objects,
            checks=Checks(
                dependencies={
                    "postgres": lambda: postgres.check(pool),
                    "rabbitmq": messages.check,
                    "object_store": lambda: objects.check(settings.streams_bucket),
                },
                schema=lambda: migrate.check(pool, "kinora_video"),
            ),
        )


@contextlib.asynccontextmanager
async def wire(settings: VideoSettings) -> AsyncIterator[State]:
    changes = Changes()
    async with (
        _stores(settings) as stores,
        redis.connect(reveal(settings.redis_url), name=settings.service) as revocations,
        ask_auth(settings.jwks_url) as has_ended,
        rpc.connect(settings.media_grpc) as media,
        http.connect(settings.tusd_url, timeout_seconds=10) as tusd,
        changes.listening(reveal(settings.postgres_url)),
    ):
        links = Links(reveal(settings.signing_secret), settings.link_lifetime_seconds)
        watching = Watching(stores.pool, stores.objects, links, settings)
        videos = Videos(stores.pool, RemoteCatalogue(EnforcementStub(media)))
        uploads = Uploads(stores.pool, stores.objects, tusd, settings)
        reactions = Reactions(videos)
        cleanup = Cleanup(stores.pool, stores.objects, settings)
        verifier = TokenVerifier(
            keys=RemoteKeys(settings.jwks_url),
            issuer=settings.public_url,
            revocations=revocations,
            otherwise=has_ended,
        )
        async with (
            rpc.serve(
                f"{settings.http_host}:{settings.grpc_port}",
                lambda server: register(server, watching, videos, uploads, exporter(stores.pool)),
                verifier=verifier,
            ),
            tasks.background(
                revocations=verifier.revocations.follow,
                media_events=lambda: consumer.consume(stores.broker, queues.VIDEO_MEDIA, reactions.to_media),
                auth_events=lambda: consumer.consume(stores.broker, queues.VIDEO_AUTH, reactions.to_auth),
                schema=lambda: tasks.every(
                    migrate.RESTORE_SECONDS, lambda: migrate.restore(reveal(settings.postgres_url), "kinora_video")
                ),
                purge=lambda: tasks.every(PURGE_SECONDS, cleanup.purge),
                recent_uploads=lambda: tasks.every(RECENT_SWEEP_SECONDS, uploads.sweep),
                all_uploads=lambda: tasks.every(FULL_SWEEP_SECONDS, lambda: uploads.sweep(active_seconds=EVER_SECONDS)),
            ),
        ):
            yield State(
                checks=Checks({**stores.checks.dependencies, "redis": revocations.ping}, schema=stores.checks.schema),
                watching=watching,
                videos=videos,
                uploads=uploads,
                changes=changes,
                followers=Seats("events", settings),
                verifier=verifier,
            )


@contextlib.asynccontextmanager
async def wire_worker(settings: WorkerSettings) -> AsyncIterator[WorkerState]:
    await sandbox.check(require_landlock=settings.require_landlock)
    async with _stores(settings) as stores:
        transcoder = Transcoder(stores.pool, stores.objects, settings)
        transcoder.sweep_work_dir()

        def consuming(queue: Queue) -> Callable[[], Awaitable[None]]:
            return lambda: consumer.consume(stores.broker, queue, transcoder.handle, given_up=transcoder.give_up)

        async with tasks.background(first=consuming(FIRST), sound=consuming(SOUND), bulk=consuming(BULK)):
            yield WorkerState(checks=stores.checks)


async def _state(connection: HTTPConnection) -> State:
    state: State = connection.state.wired
    return state


Wired = Annotated[State, Depends(_state)]
