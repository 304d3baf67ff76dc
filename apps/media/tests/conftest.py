"""Uses the local environment's stores, with a separate database per test run."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from redis.asyncio import Redis
from starlette.types import Receive, Scope, Send

import kinora_kit.redis
from kinora.events import auth, media, video
from kinora_kit import broker, mongo
from kinora_kit.app import create_app
from kinora_kit.broker import Broker
from kinora_kit.events import event
from kinora_kit.health import Checks
from kinora_kit.identity import AUDIENCE, Caller, TokenVerifier
from kinora_kit.ids import new_id
from kinora_kit.mongo import Collection, Database, Relay
from kinora_kit.testing import free_port, no_session_has_ended
from kinora_media import store
from kinora_media.catalogue import Catalogue
from kinora_media.domain import Media, Upload, Visibility
from kinora_media.events import Reactions
from kinora_media.pages import CachedPages
from kinora_media.rest import ROUTERS
from kinora_media.settings import MediaSettings
from kinora_media.store.media import MEDIA
from kinora_media.tallies import Tallies
from kinora_media.use_cases import UseCases
from kinora_media.users import User
from kinora_media.wiring import State

ISSUER = "http://issuer.test"
CATEGORIES = {"music": "Music", "film": "Film and animation"}


@pytest.fixture(scope="session")
def kit(environment: Callable[[str], dict[str, str]]) -> dict[str, str]:
    return environment("kit-test")


@pytest.fixture(scope="session")
async def database(kit: dict[str, str]) -> AsyncIterator[Database]:
    """With its indexes."""
    name = f"media_test_{new_id().hex}"
    async with mongo.connect(kit["KINORA_MONGO_URL"], database=name, name="media-tests") as database:
        await mongo.ensure_indexes(database, store.indexes(tombstone_days=1))
        yield database
        await database.client.drop_database(name)


@pytest.fixture(scope="session")
def documents(database: Database) -> Collection:
    """The media documents as stored."""
    return database[MEDIA]


@pytest.fixture(scope="session")
async def bus(kit: dict[str, str]) -> AsyncIterator[Broker]:
    # The tests publish events of all services, so they declare all exchanges.
    exchanges = [auth.EXCHANGE, media.EXCHANGE, video.EXCHANGE]
    async with broker.connect(kit["KINORA_RABBITMQ_URL"], name="media-tests", exchanges=exchanges) as bus:
        yield bus


@pytest.fixture(scope="session")
async def relay(database: Database, bus: Broker) -> Relay:
    """Not running: events stay in the outbox until a test publishes them."""
    return Relay([database[name] for name in store.OUTBOXES], bus)


@pytest.fixture(scope="session")
async def redis(kit: dict[str, str]) -> AsyncIterator[Redis]:
    async with kinora_kit.redis.connect(kit["KINORA_REDIS_URL"], name="media-tests") as redis:
        yield redis


class Streams:
    """In-memory video service: records the calls, and raises ``error`` if set."""

    def __init__(self) -> None:
        self.shown: list[tuple[UUID, Visibility, int]] = []
        self.dropped: list[UUID] = []
        self.created: list[tuple[UUID, Media]] = []
        """Ids of uploads, and the drafts that they name."""
        self.error: Exception | None = None

    async def set_visibility(self, media: Media) -> None:
        self._answer()
        self.shown.append((media.id, media.visibility, media.version))

    async def drop(self, media_id: UUID) -> None:
        self._answer()
        self.dropped.append(media_id)

    async def create_upload(self, draft: Media, *, filename: str, size: int) -> Upload:
        self._answer()
        video_id = new_id()
        self.created.append((video_id, draft))
        return Upload(video_id, f"http://uploads.test/{video_id}")

    def _answer(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture(scope="session")
def streams_of_all() -> Streams:
    return Streams()


@pytest.fixture
def streams(streams_of_all: Streams) -> Iterator[Streams]:
    """Without recorded calls; its error is reset after the test."""
    streams_of_all.shown.clear()
    streams_of_all.dropped.clear()
    streams_of_all.created.clear()
    yield streams_of_all
    streams_of_all.error = None


class People:
    """Stands for auth: everybody exists, except ``unknown`` ones. Records the calls, and raises ``error`` if set."""

    def __init__(self) -> None:
        self.unknown: set[UUID] = set()
        self.asked: list[list[UUID]] = []
        self.error: Exception | None = None

    async def many(self, ids: Sequence[UUID]) -> dict[UUID, User]:
        self.asked.append(list(ids))
        if self.error is not None:
            raise self.error
        known = [user_id for user_id in ids if user_id not in self.unknown]
        return {user_id: User(id=user_id, username=f"u{user_id.hex}", display_name="Someone") for user_id in known}

    async def changed(self, user_id: UUID) -> None: ...


@pytest.fixture(scope="session")
def people() -> People:
    return People()


@pytest.fixture(scope="session")
async def tallies(database: Database) -> AsyncIterator[Tallies]:
    tallies = Tallies(database, store.TALLIES)
    async with tallies.running():
        yield tallies


@pytest.fixture(scope="session")
def pages(redis: Redis, database: Database) -> CachedPages:
    return CachedPages(redis, database=database.name)


@pytest.fixture(scope="session")
def use_cases(
    database: Database,
    relay: Relay,
    tallies: Tallies,
    *,
    streams_of_all: Streams,
    people: People,
    pages: CachedPages,
) -> UseCases:
    return UseCases.of(
        database, relay, tallies, videos=streams_of_all, users=people, pages=pages, categories=CATEGORIES
    )


@pytest.fixture(scope="session")
def catalogue(use_cases: UseCases) -> Catalogue:
    return use_cases.catalogue


@pytest.fixture(scope="session")
def reactions(use_cases: UseCases, people: People) -> Reactions:
    return Reactions(use_cases.catalogue, use_cases.belongings, use_cases.notifications, people)


@pytest.fixture(scope="session")
def begin(reactions: Reactions) -> Callable[..., Awaitable[UUID]]:
    """``begin(owner_id, ...)``: a document, as the events of the video service make it."""

    async def make(owner_id: UUID, *, visibility: str = "private", ready: bool = False, title: str = "Title") -> UUID:
        media_id = new_id()
        ids = {"video_id": media_id, "owner_id": owner_id}
        handle = reactions.to_video
        started = video.UploadStarted(**ids, title=title, filename="a.mp4", size=9, visibility=visibility)
        await handle(event("video", started))
        if ready:
            await handle(event("video", video.Ready(**ids, duration=10, width=1920, height=1080)))
        return media_id

    return make


class Keys:
    """A single key that signs and verifies the tests' tokens."""

    def __init__(self) -> None:
        self.private = Ed25519PrivateKey.generate()

    async def public_key(self, kid: str) -> Ed25519PublicKey:
        return self.private.public_key()


@pytest.fixture(scope="session")
def keys() -> Keys:
    return Keys()


@pytest.fixture(scope="session")
async def verifier(keys: Keys, redis: Redis) -> TokenVerifier:
    await no_session_has_ended(redis)
    return TokenVerifier(keys=keys, issuer=ISSUER, revocations=redis)


@pytest.fixture(scope="session")
def token_for(keys: Keys) -> Callable[[UUID], str]:
    def make(user_id: UUID) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": str(user_id), "sid": str(new_id()), "iat": now}
        headers = {"typ": "at+jwt", "kid": "1"}
        return jwt.encode({**claims, "exp": now + 600}, keys.private, "EdDSA", headers=headers)

    return make


@pytest.fixture(scope="session")
async def call(
    use_cases: UseCases, make_settings: Callable[..., MediaSettings]
) -> AsyncIterator[Callable[..., Awaitable[httpx.Response]]]:
    """``call(method, path, user_id=None, **httpx_arguments)``: a request with the headers that the gateway sets."""

    @contextlib.asynccontextmanager
    async def wire(_: MediaSettings) -> AsyncIterator[State]:
        yield State(**vars(use_cases), checks=Checks())

    app = create_app(make_settings(), wire, ROUTERS)
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            # Servers copy the lifespan's state into each request's scope; httpx does not.
            await app({**scope, "state": dict(state or {})}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(with_state), base_url="http://media.test") as client:

            async def request(method: str, path: str, user_id: UUID | None = None, **more: Any) -> httpx.Response:
                identity = Caller(user_id).headers() if user_id else {}
                headers = identity | more.pop("headers", {})
                return await client.request(method, path, headers=headers, **more)

            yield request


@pytest.fixture(scope="session")
def make_settings(kit: dict[str, str]) -> Callable[..., MediaSettings]:
    def make(**different: object) -> MediaSettings:
        values: dict[str, Any] = {
            "http_port": free_port(),
            "grpc_port": free_port(),
            "public_url": ISSUER,
            "mongo_url": kit["KINORA_MONGO_URL"],
            "redis_url": kit["KINORA_REDIS_URL"],
            "rabbitmq_url": kit["KINORA_RABBITMQ_URL"],
            "jwks_url": "http://127.0.0.1:9/jwks.json",
            "auth_grpc": "127.0.0.1:9",
            "video_grpc": "127.0.0.1:9",
        }
        return MediaSettings(**{**values, **different})

    return make
