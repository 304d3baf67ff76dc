"""Each service can access its own part of each store, and nothing else. Requires `make up S=stores`."""

import io
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import aio_pika
import aiormq
import asyncpg
import pytest
from aio_pika.abc import AbstractChannel
from environment import SECRETS, parse
from minio import Minio
from minio.error import S3Error
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError
from urllib3.exceptions import HTTPError


def secret(name: str) -> str:
    return parse(SECRETS.read_text())[name]


def redis(user: str) -> Redis:
    return Redis(host="127.0.0.1", port=8379, username=user, password=secret(f"REDIS_{user.upper()}_PASSWORD"))


async def postgres(user: str, database: str) -> "asyncpg.Connection[asyncpg.Record]":
    password = secret(f"POSTGRES_{user.upper()}_PASSWORD")
    return await asyncpg.connect(host="127.0.0.1", port=8432, user=user, password=password, database=database)


def minio(user: str) -> Minio:
    return Minio("127.0.0.1:8900", user, secret(f"MINIO_{user.upper()}_PASSWORD"), secure=False)


class Broker:
    """Channels of several users, closed together. An error closes its channel, so each use opens a new one."""

    def __init__(self) -> None:
        self.connections: list[aio_pika.abc.AbstractConnection] = []

    async def channel(self, user: str, vhost: str = "kinora") -> AbstractChannel:
        password = secret(f"RABBITMQ_{user.upper()}_PASSWORD")
        connection = await aio_pika.connect(f"amqp://{user}:{password}@127.0.0.1:8672/{vhost}")
        self.connections.append(connection)
        return await connection.channel()


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    broker = Broker()
    yield broker
    for connection in broker.connections:
        await connection.close()


def test_redis_revocations_are_readable_by_all_and_writable_by_auth() -> None:
    key = f"auth:revoked:{uuid.uuid4()}"
    redis("auth").set(key, "1", ex=60)
    redis("auth").xadd("auth:revoked:log", {"session": ""})
    for user in ("media", "video", "graphql"):
        assert redis(user).get(key) == b"1"
        assert redis(user).xrevrange("auth:revoked:log", count=1)
        with pytest.raises(NoPermissionError):
            redis(user).delete(key)
        with pytest.raises(NoPermissionError):
            redis(user).xadd("auth:revoked:log", {"session": ""})


@pytest.mark.parametrize(("user", "key"), [("video", "media:x"), ("graphql", "auth:x"), ("auth", "graphql:x")])
def test_redis_denies_keys_of_other_services(user: str, key: str) -> None:
    with pytest.raises(NoPermissionError):
        redis(user).get(key)


def test_redis_allows_only_required_commands() -> None:
    auth = redis("auth")
    key = f"auth:test:{uuid.uuid4()}"
    assert auth.evalsha(auth.script_load("return redis.call('incr', KEYS[1])"), 1, key) == 1
    auth.delete(key)
    assert auth.info("server")["redis_version"]
    for command in ("FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST"):
        with pytest.raises(NoPermissionError):
            auth.execute_command(*command.split())  # type: ignore[no-untyped-call]


def test_redis_rejects_anonymous_clients() -> None:
    with pytest.raises(AuthenticationError):
        Redis(host="127.0.0.1", port=8379).get("x")


@pytest.mark.parametrize("database", ["video", "kit_test", "postgres", "template1"])
async def test_postgres_role_can_access_only_its_database(database: str) -> None:
    own = await postgres("auth", "auth")
    async with own.transaction():
        await own.execute("CREATE TABLE made_by_a_test (id int) ")
        await own.execute("DROP TABLE made_by_a_test")
    await own.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await postgres("auth", database)


@pytest.mark.parametrize(("user", "password"), [("media", "wrong"), ("", "")])
def test_mongo_rejects_wrong_and_missing_password(user: str, password: str) -> None:
    credentials: dict[str, Any] = {"username": user, "password": password} if user else {}
    with MongoClient[dict[str, object]]("127.0.0.1", 8017, **credentials) as client, pytest.raises(OperationFailure):
        client.media.list_collection_names()


def test_mongo_denies_databases_of_other_services() -> None:
    login: dict[str, Any] = {"username": "media", "password": secret("MONGO_MEDIA_PASSWORD")}
    with MongoClient[dict[str, object]]("127.0.0.1", 8017, **login) as client:
        client.media.list_collection_names()
        for other in ("admin", "kit_test"):
            with pytest.raises(OperationFailure, match="not authorized"):
                client[other].things.find_one()


@pytest.mark.parametrize("user", ["postgres", "auth"])
async def test_postgres_rejects_wrong_password(user: str) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host="127.0.0.1", port=8432, user=user, password="wrong", database="auth")


async def test_rabbitmq_allows_binding_own_queue_to_published_exchange(broker: Broker) -> None:
    event = f"test.{uuid.uuid4()}"
    auth, video = await broker.channel("auth"), await broker.channel("video")
    exchange = await auth.declare_exchange("auth", "topic", durable=True)
    queue = await video.declare_queue(f"video.{event}", exclusive=True)
    await queue.bind("auth", event)
    await exchange.publish(aio_pika.Message(b"published"), event)
    assert (await queue.get(timeout=5)).body == b"published"
    await video.default_exchange.publish(aio_pika.Message(b"sent back"), queue.name)
    assert (await queue.get(timeout=5)).body == b"sent back"


async def test_rabbitmq_allows_graphql_to_bind_to_video_progress(broker: Broker) -> None:
    video, graphql = await broker.channel("video"), await broker.channel("graphql")
    progress = await video.declare_exchange("video.progress", "topic", durable=True)
    queue = await graphql.declare_queue(f"graphql.{uuid.uuid4()}", exclusive=True)
    await queue.bind("video.progress", queue.name)
    await progress.publish(aio_pika.Message(b"half"), queue.name)
    assert (await queue.get(timeout=5)).body == b"half"


async def test_rabbitmq_denies_names_of_other_services(broker: Broker) -> None:
    refused = aiormq.exceptions.ChannelAccessRefused
    with pytest.raises(refused):
        await (await broker.channel("graphql")).declare_queue("media.test", exclusive=True)
    with pytest.raises(refused):
        await (await broker.channel("media")).declare_exchange("video.test", auto_delete=True)
    with pytest.raises(refused):
        await (await broker.channel("auth")).declare_exchange("authority", auto_delete=True)


@pytest.mark.parametrize("user", ["auth", "graphql"])
async def test_rabbitmq_denies_default_exchange_without_retries(broker: Broker, user: str) -> None:
    channel = await broker.channel(user)
    with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
        await channel.default_exchange.publish(aio_pika.Message(b"encode this"), "video.bulk")


async def test_rabbitmq_has_no_guest_and_isolates_the_test_vhost(broker: Broker) -> None:
    await broker.channel("kit_test", "kinora_test")
    with pytest.raises(aio_pika.exceptions.ProbableAuthenticationError):
        await aio_pika.connect("amqp://guest:guest@127.0.0.1:8672/")
    # The library has no exception for an error in place of Connection.OpenOk.
    with pytest.raises(aiormq.exceptions.InvalidFrameError, match=r"Connection\.Close"):
        await broker.channel("auth", "kinora_test")


@pytest.mark.parametrize(
    ("user", "bucket"), [("video", "uploads"), ("video", "streams"), ("tusd", "uploads"), ("kit_test", "kit-test")]
)
def test_minio_key_can_write_list_and_delete_in_its_buckets(user: str, bucket: str) -> None:
    store, name = minio(user), f"test/{uuid.uuid4()}"
    store.put_object(bucket, name, io.BytesIO(b"bytes"), 5)
    assert [item.object_name for item in store.list_objects(bucket, prefix=name)] == [name]
    store.remove_object(bucket, name)
    assert list(store.list_objects(bucket, prefix=name)) == []


@pytest.mark.parametrize(("user", "bucket"), [("tusd", "streams"), ("kit_test", "uploads"), ("video", "kit-test")])
def test_minio_key_is_denied_in_other_buckets(user: str, bucket: str) -> None:
    refuses(lambda: minio(user).put_object(bucket, "test/refused", io.BytesIO(b"bytes"), 5))
    refuses(lambda: list(minio(user).list_objects(bucket)))


def refuses(call: Callable[[], object], *, seconds: float = 30) -> None:
    """A busy store may first answer 503, or close the connection while the body is being sent."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            call()
        except (S3Error, HTTPError) as error:
            if isinstance(error, S3Error) and error.code == "AccessDenied":
                return
            if time.monotonic() > deadline:
                raise
        else:
            pytest.fail("not refused")
        time.sleep(0.2)
