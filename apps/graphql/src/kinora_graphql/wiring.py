"""The only place that builds clients."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from kinora.auth.v1.auth_pb2_grpc import AccountsStub, UsersStub
from kinora.media.v1.media_pb2_grpc import CatalogueStub, EditingStub
from kinora.video.v1.video_pb2_grpc import UploadsStub, VideosStub
from kinora_graphql.context import Clients
from kinora_graphql.progress import ProgressHub
from kinora_graphql.settings import GraphqlSettings
from kinora_kit import broker, redis, rpc, tasks
from kinora_kit.health import Check
from kinora_kit.identity import RemoteKeys, TokenVerifier
from kinora_kit.settings import reveal


@dataclass(frozen=True)
class State:
    clients: Clients
    progress: ProgressHub
    verifier: TokenVerifier
    checks: Mapping[str, Check]


@contextlib.asynccontextmanager
async def wire(settings: GraphqlSettings) -> AsyncIterator[State]:
    async with (
        redis.connect(reveal(settings.redis_url), name="graphql") as cache,
        broker.connect(reveal(settings.rabbitmq_url), name="graphql") as bus,
        rpc.connect(settings.auth_grpc) as auth,
        rpc.connect(settings.media_grpc) as media,
        rpc.connect(settings.video_grpc) as video,
    ):
        progress = ProgressHub(bus)
        async with tasks.background(progress=progress.run):
            yield State(
                clients=Clients(
                    users=UsersStub(auth),
                    accounts=AccountsStub(auth),
                    catalogue=CatalogueStub(media),
                    editing=EditingStub(media),
                    videos=VideosStub(video),
                    uploads=UploadsStub(video),
                ),
                progress=progress,
                verifier=TokenVerifier(
                    keys=RemoteKeys(settings.jwks_url), issuer=settings.public_url, revocations=cache
                ),
                # Not the services behind it: while one is away, what the others can do goes on.
                checks={"redis": cache.ping, "rabbitmq": bus.check},
            )
