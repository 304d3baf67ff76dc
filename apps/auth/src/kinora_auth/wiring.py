"""The only place that builds clients."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from kinora import queues
from kinora.events.auth import EXCHANGE
from kinora.export.v1.export_pb2_grpc import ExportStub
from kinora.media.v1 import media_pb2_grpc as media_grpc
from kinora.video.v1 import video_pb2_grpc as video_grpc
from kinora_auth import keys, store
from kinora_auth.belongings import RemoteBelongings
from kinora_auth.exports import Exports, RemoteSource, own_source
from kinora_auth.guesses import Guesses
from kinora_auth.keys import KeyRing
from kinora_auth.passwords import Passwords
from kinora_auth.rpc import register
from kinora_auth.service import Accounts, Throttles
from kinora_auth.settings import AuthSettings
from kinora_kit import broker, migrate, outbox, postgres, redis, rpc, tasks, throttle
from kinora_kit.health import Checks
from kinora_kit.identity import TokenVerifier
from kinora_kit.settings import reveal
from kinora_kit.throttle import Throttle

UPKEEP_SECONDS = 60.0


@dataclass(frozen=True)
class State:
    accounts: Accounts
    exports: Exports
    keys: KeyRing
    verifier: TokenVerifier
    checks: Checks


@contextlib.asynccontextmanager
async def wire(settings: AuthSettings) -> AsyncIterator[State]:
    url = reveal(settings.postgres_url)
    async with (
        postgres.connect(url, name="auth") as pool,
        redis.connect(reveal(settings.redis_url), name="auth") as cache,
        broker.connect(
            reveal(settings.rabbitmq_url), name="auth", exchanges=[EXCHANGE], queues=queues.of(EXCHANGE)
        ) as events,
        rpc.connect(settings.media_grpc) as media,
        rpc.connect(settings.video_grpc) as video,
        outbox.relay(pool, events, url=url),
    ):
        with contextlib.closing(Passwords(threads=settings.hashing_threads, queue=settings.hashing_queue)) as passwords:
            ring = keys.ring(settings, pool)
            verifier = TokenVerifier(
                keys=ring,
                issuer=settings.public_url,
                revocations=cache,
                otherwise=lambda session_id, _: store.is_revoked(pool, session_id),
            )
            counters = throttle.storage(cache, prefix="auth")
            accounts = Accounts(
                settings=settings,
                pool=pool,
                redis=cache,
                keys=ring,
                passwords=passwords,
                belongings=RemoteBelongings(media_grpc.EnforcementStub(media), video_grpc.EnforcementStub(video)),
                throttles=Throttles(
                    guesses=Guesses.of(settings, counters),
                    registrations=Throttle(counters, name="registrations", limit=settings.registrations),
                    neighbourhood_registrations=Throttle(
                        counters, name="neighbourhood_registrations", limit=settings.neighbourhood_registrations
                    ),
                    renames=Throttle(counters, name="renames", limit=settings.renames),
                ),
            )

            exports = Exports(
                settings=settings,
                pool=pool,
                keys=ring,
                sources={
                    "auth": own_source(pool),
                    "media": RemoteSource(ExportStub(media)),
                    "video": RemoteSource(ExportStub(video)),
                },
            )

            async def upkeep() -> None:
                await ring.rotate(older_than=timedelta(days=settings.key_rotation_days))
                await accounts.sweep()

            async with (
                rpc.serve(
                    f"{settings.http_host}:{settings.grpc_port}",
                    lambda server: register(server, accounts, exports),
                    verifier=verifier,
                ),
                tasks.background(
                    revocations=lambda: tasks.every(settings.revocation_sync_seconds, accounts.restore_revocations),
                    exports=exports.run,
                    upkeep=lambda: tasks.every(UPKEEP_SECONDS, upkeep),
                    schema=lambda: tasks.every(migrate.RESTORE_SECONDS, lambda: migrate.restore(url, "kinora_auth")),
                ),
            ):
                yield State(
                    accounts=accounts,
                    exports=exports,
                    keys=ring,
                    verifier=verifier,
                    checks=Checks(
                        dependencies={
                            "postgres": lambda: postgres.check(pool),
                            "redis": cache.ping,
                            "rabbitmq": events.check,
                        },
                        schema=lambda: migrate.check(pool, "kinora_auth"),
                    ),
                )


async def _state(connection: HTTPConnection) -> State:
    state: State = connection.state.wired
    return state


Wired = Annotated[State, Depends(_state)]
