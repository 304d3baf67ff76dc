"""The only place that builds clients."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from kinora.auth.v1.auth_pb2_grpc import AccountsStub, ExportsStub, UsersStub
from kinora.media.v1.channels_pb2_grpc import ChannelsStub, HidingStub
from kinora.media.v1.comments_pb2_grpc import CommentsStub
from kinora.media.v1.likes_pb2_grpc import LikesStub
from kinora.media.v1.media_pb2_grpc import CatalogueStub, EditingStub
from kinora.media.v1.notifications_pb2_grpc import NotificationsStub
from kinora.media.v1.playlists_pb2_grpc import PlaylistsStub
from kinora.media.v1.watching_pb2_grpc import WatchingStub
from kinora.video.v1.video_pb2_grpc import UploadsStub, VideosStub
from kinora_graphql.clients import Clients
from kinora_graphql.documents import Documents, read_manifest
from kinora_graphql.hub import Hubs
from kinora_graphql.rates import Rates
from kinora_graphql.settings import GraphqlSettings
from kinora_kit import broker, redis, rpc, tasks
from kinora_kit.health import Checks
from kinora_kit.identity import RemoteKeys, TokenVerifier, ask_auth
from kinora_kit.settings import reveal


@dataclass(frozen=True)
class State:
    clients: Clients
    hubs: Hubs
    documents: Documents
    rates: Rates
    verifier: TokenVerifier
    checks: Checks


@contextlib.asynccontextmanager
async def wire(settings: GraphqlSettings) -> AsyncIterator[State]:
    async with (
        redis.connect(reveal(settings.redis_url), name="graphql") as cache,
        broker.connect(reveal(settings.rabbitmq_url), name="graphql") as bus,
        ask_auth(settings.jwks_url) as has_ended,
        rpc.connect(settings.auth_grpc) as auth,
        rpc.connect(settings.media_grpc) as media,
        rpc.connect(settings.video_grpc) as video,
    ):
        hubs = Hubs.of(bus)
        verifier = TokenVerifier(
            keys=RemoteKeys(settings.jwks_url),
            issuer=settings.public_url,
            revocations=cache,
            otherwise=has_ended,
        )
        rates = Rates(cache, limit=settings.rate_limit)
        async with tasks.background(
            **{name: hub.run for name, hub in vars(hubs).items()},
            revocations=verifier.revocations.follow,
            rates=rates.run,
        ):
            yield State(
                clients=Clients(
                    users=UsersStub(auth),
                    accounts=AccountsStub(auth),
                    exports=ExportsStub(auth),
                    catalogue=CatalogueStub(media),
                    editing=EditingStub(media),
                    channels=ChannelsStub(media),
                    hiding=HidingStub(media),
                    comments=CommentsStub(media),
                    likes=LikesStub(media),
                    notifications=NotificationsStub(media),
                    playlists=PlaylistsStub(media),
                    watching=WatchingStub(media),
                    videos=VideosStub(video),
                    uploads=UploadsStub(video),
                ),
                hubs=hubs,
                rates=rates,
                documents=Documents(
                    cache,
                    limit=settings.persisted_documents,
                    trusted=read_manifest(settings.trusted_documents),
                    trusted_only=settings.trusted_only,
                ),
                verifier=verifier,
                # Not the gRPC services, which report their own health.
                checks=Checks({"redis": cache.ping, "rabbitmq": bus.check}),
            )


async def _state(connection: HTTPConnection) -> State:
    state: State = connection.state.wired
    return state


Wired = Annotated[State, Depends(_state)]
