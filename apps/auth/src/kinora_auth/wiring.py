import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from kinora.events.auth import EXCHANGE
from kinora.media.v1 import media_pb2_grpc as media_grpc
from kinora.video.v1 import video_pb2_grpc as video_grpc
from kinora_auth import keys, store
from kinora_auth.belongings import RemoteBelongings
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
    keys: KeyRing
    verifier: TokenVerifier
    checks: Checks


@contextlib.asynccontextmanager
async def wire(settings: AuthSettings) -> AsyncIterator[State]:
    async with contextlib.AsyncExitStack() as stack:
        name = settings.service
        pool = await stack.enter_async_context(postgres.connect(reveal(settings.postgres_url), name=name))
        cache = await stack.enter_async_context(redis.connect(reveal(settings.redis_url), name=name))
        events = await stack.enter_async_context(
            broker.connect(reveal(settings.rabbitmq_url), name=name, exchanges=[EXCHANGE])
        )
        media = await stack.enter_async_context(rpc.connect(settings.media_grpc))
        video = await stack.enter_async_context(rpc.connect(settings.video_grpc))
        passwords = Passwords(threads=settings.hashing_threads, queue=settings.hashing_queue)
        stack.callback(passwords.close)
        ring = keys.ring(settings, pool)
        verifier = TokenVerifier(
            keys=ring,
            issuer=settings.public_url,
            revocations=cache,
            otherwise=lambda session_id, _: store.is_revoked(pool, session_id),
        )
        counters = throttle.storage(cache, prefix=name)
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

        async def upkeep() -> None:
            await ring.rotate(older_than=timedelta(days=settings.key_rotation_days))
            await accounts.sweep()

        await stack.enter_async_context(outbox.relay(pool, events, url=reveal(settings.postgres_url)))
        await stack.enter_async_context(
            tasks.background(
                auth_revocations=lambda: tasks.every(settings.revocation_sync_seconds, accounts.restore_revocations),
                auth_upkeep=lambda: tasks.every(UPKEEP_SECONDS, upkeep),
                schema=lambda: tasks.every(
                    migrate.RESTORE_SECONDS, lambda: migrate.restore(reveal(settings.postgres_url), "kinora_auth")
                ),
            )
        )
        await stack.enter_async_context(
            rpc.serve(
                f"{settings.http_host}:{settings.grpc_port}",
                lambda server: register(accounts, server),
                verifier=verifier,
            )
        )
        yield State(
            accounts=accounts,
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
