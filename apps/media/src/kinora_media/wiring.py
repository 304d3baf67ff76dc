"""The only place that builds clients."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from kinora import queues
from kinora.auth.v1.auth_pb2_grpc import UsersStub
from kinora.events import media
from kinora.video.v1.video_pb2_grpc import EnforcementStub, UploadsStub
from kinora_kit import broker, consumer, mongo, redis, rpc, tasks
from kinora_kit.health import Checks
from kinora_kit.identity import RemoteKeys, TokenVerifier, ask_auth
from kinora_kit.settings import reveal
from kinora_media import store
from kinora_media.events import Reactions
from kinora_media.pages import CachedPages
from kinora_media.popularity import CHECK_SECONDS, Popularity
from kinora_media.rpc import register
from kinora_media.settings import MediaSettings
from kinora_media.tallies import Tallies
from kinora_media.use_cases import UseCases
from kinora_media.users import CachedUsers
from kinora_media.videos import RemoteVideos

INDEX_SECONDS = 3600
PUBLISH_SECONDS = 1


@dataclass(frozen=True)
class State(UseCases):
    checks: Checks


@contextlib.asynccontextmanager
async def wire(settings: MediaSettings) -> AsyncIterator[State]:
    async with (
        mongo.connect(reveal(settings.mongo_url), database=settings.mongo_database, name="media") as database,
        redis.connect(reveal(settings.redis_url), name="media") as cache,
        broker.connect(
            reveal(settings.rabbitmq_url),
            name="media",
            exchanges=[media.EXCHANGE, media.COMMENTS_EXCHANGE, media.CHANNELS_EXCHANGE],
            queues=queues.of(media.EXCHANGE),
        ) as bus,
        ask_auth(settings.jwks_url) as has_ended,
        rpc.connect(settings.auth_grpc) as auth,
        rpc.connect(settings.video_grpc) as video,
    ):
        relay = mongo.Relay([database[name] for name in store.OUTBOXES], bus, media.FEEDS)
        tallies = Tallies(database, store.TALLIES)
        videos = RemoteVideos(EnforcementStub(video), UploadsStub(video))
        users = CachedUsers(UsersStub(auth), cache)
        use_cases = UseCases.of(
            database,
            relay,
            tallies,
            videos=videos,
            users=users,
            pages=CachedPages(cache, database=settings.mongo_database),
            categories=settings.categories,
        )
        reactions = Reactions(use_cases.catalogue, use_cases.belongings, use_cases.notifications, users)
        verifier = TokenVerifier(
            keys=RemoteKeys(settings.jwks_url),
            issuer=settings.public_url,
            revocations=cache,
            otherwise=has_ended,
        )

        indexed = asyncio.Event()

        async def ensure_indexes() -> None:
            await mongo.ensure_indexes(database, store.indexes(tombstone_days=settings.tombstone_days))
            indexed.set()
            await use_cases.catalogue.add_facets()

        async with (
            rpc.serve(
                f"{settings.http_host}:{settings.grpc_port}",
                lambda server: register(server, use_cases),
                verifier=verifier,
            ),
            relay.running(),
            tallies.running(),
            tasks.background(
                # In the background, so that the service starts without its store; repeated, so that a store that lost
                # its data gets its indexes again.
                indexes=lambda: tasks.every(INDEX_SECONDS, ensure_indexes),
                popularity=lambda: tasks.every(
                    CHECK_SECONDS, Popularity(database, settings.popularity_seconds).advance
                ),
                publishing=lambda: tasks.every(PUBLISH_SECONDS, use_cases.catalogue.publish_due),
                video_events=lambda: consumer.consume(bus, queues.MEDIA_VIDEO, reactions.to_video),
                auth_events=lambda: consumer.consume(bus, queues.MEDIA_AUTH, reactions.to_auth),
                media_events=lambda: consumer.consume(bus, queues.MEDIA_MEDIA, reactions.to_media),
            ),
        ):
            yield State(
                **vars(use_cases),
                checks=Checks(
                    dependencies={
                        "mongo": lambda: mongo.check(database),
                        "redis": cache.ping,
                        "rabbitmq": bus.check,
                    },
                    # Corresponds to migrations in the services with PostgreSQL.
                    schema=indexed.wait,
                ),
            )


async def _state(connection: HTTPConnection) -> State:
    state: State = connection.state.wired
    return state


Wired = Annotated[State, Depends(_state)]
