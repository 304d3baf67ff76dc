import pytest
from redis.asyncio import Redis

from kinora_kit import redis, throttle
from kinora_kit.errors import TooManyRequests, Unavailable
from kinora_kit.outages import as_domain_error
from kinora_kit.testing import eventually, proxy
from kinora_kit.throttle import Throttle


async def test_hit_beyond_limit_is_rejected_with_retry_after(client: Redis, unique: str) -> None:
    logins = Throttle(throttle.storage(client, prefix=unique), name="login", limit="3/minute")
    for _ in range(3):
        await logins.hit("ann")
    with pytest.raises(TooManyRequests) as caught:
        await logins.hit("ann")
    assert 55 <= int(caught.value.headers["Retry-After"]) <= 60
    await logins.hit("bob")


async def test_window_slides(client: Redis, unique: str) -> None:
    logins = Throttle(throttle.storage(client, prefix=unique), name="login", limit="2/second")
    await logins.hit("ann")
    await logins.hit("ann")

    async def allowed() -> bool:
        try:
            await logins.check("ann")
        except TooManyRequests as error:
            assert error.headers["Retry-After"] == "1"  # noqa: PT017 - checked while polling
            return False
        return True

    assert not await allowed()
    await eventually(allowed, seconds=3)


async def test_replicas_share_counters_and_check_does_not_count(client: Redis, unique: str) -> None:
    one, other = (Throttle(throttle.storage(client, prefix=unique), name="login", limit="2/minute") for _ in range(2))
    for _ in range(5):
        await one.check("ann")
    await one.hit("ann")
    await other.hit("ann")
    for replica in (one, other):
        with pytest.raises(TooManyRequests):
            await replica.check("ann")


async def test_limits_with_different_names_are_separate(client: Redis, unique: str) -> None:
    storage = throttle.storage(client, prefix=unique)
    await Throttle(storage, name="login", limit="1/minute").hit("ann")
    await Throttle(storage, name="register", limit="1/minute").hit("ann")


async def test_throttle_is_an_outage_without_redis_and_recovers(
    kit: dict[str, str], client: Redis, unique: str
) -> None:
    async with proxy(kit["REDIS_URL"]) as link, redis.connect(link.url, name="kit-test") as unsteady:
        logins = Throttle(throttle.storage(unsteady, prefix=unique), name="login", limit="1/second")
        await link.cut()
        for call in (logins.hit, logins.check):
            with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the driver says
                await call("ann")
            assert isinstance(as_domain_error(caught.value), Unavailable)
        await link.restore()
        await logins.hit("ann")


async def test_dead_idle_connection_is_retried(kit: dict[str, str], client: Redis, unique: str) -> None:
    await client.set(unique, "1")
    async with proxy(kit["REDIS_URL"]) as link, redis.connect(link.url, name="kit-test") as unsteady:
        assert await unsteady.get(unique) == "1"
        await link.cut()
        await link.restore()
        assert await unsteady.get(unique) == "1"


async def test_redis_command_error_is_not_an_outage(client: Redis, unique: str) -> None:
    await client.set(unique, "text")
    with pytest.raises(Exception, match="WRONGTYPE") as caught:
        await client.lpush(unique, "1")
    assert as_domain_error(caught.value) is None
