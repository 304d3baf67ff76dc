"""Rate limits by cost: per user and address, over all processes and transports, also without Redis."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest
from npm import Subscriber

from kinora_kit.ids import new_id
from kinora_kit.testing import Proxy, eventually, proxy

Start = Callable[..., AbstractAsyncContextManager[str]]
World = Any
Keys = Any

CHEAP = {"query": "{ __typename }"}
COSTLY = {"query": "{ sessions { id } }"}  # 10, and 1 for the request
LIMIT = 60


@pytest.fixture
def bearer(world: World, keys: Keys) -> dict[str, str]:
    return {"authorization": f"Bearer {keys.token(world.add_user())}"}


@pytest.fixture
def forwarded() -> dict[str, str]:
    """From an address that no other test uses."""
    return {"x-forwarded-for": f"2001:db8:{new_id().hex[-4:]}:{new_id().hex[-8:-4]}::1"}


def client(address: str, headers: dict[str, str]) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{address}", headers=headers, timeout=60)


async def spend(http: httpx.AsyncClient, body: dict[str, str]) -> tuple[int, httpx.Response]:
    """Ask until refused. How often it was not, and the refusal. A minute may end in between, hence twice the limit."""
    for accepted in range(2 * LIMIT):
        answer = await http.post("/graphql", json=body)
        if answer.status_code == 429:
            return accepted, answer
        assert answer.status_code == 200
    pytest.fail("never refused")


async def test_exhausted_client_gets_429_with_headers(start: Start, bearer: dict[str, str]) -> None:
    async with start(rate_limit=LIMIT) as address, client(address, bearer) as http:
        first = await http.post("/graphql", json=COSTLY)
        assert first.headers["ratelimit-policy"] == f'"cost";q={LIMIT};w=60'
        assert first.headers["ratelimit"].startswith(f'"cost";r={LIMIT - 11};t=')
        accepted, refused = await spend(http, COSTLY)
        assert accepted >= 4
        (error,) = refused.json()["errors"]
        seconds = int(refused.headers["retry-after"])
        assert 0 < seconds <= 60
        assert error["extensions"] == {"code": "too_many_requests", "retryAfter": seconds}
        assert refused.headers["ratelimit"].endswith(f";t={seconds}")


async def test_expensive_and_invalid_operations_are_refused_sooner(start: Start, world: World, keys: Keys) -> None:
    async with start(rate_limit=LIMIT) as address:
        counts = []
        for body in (CHEAP, COSTLY, {"query": "{ nothing }"}, {"query": "{"}):
            async with client(address, {"authorization": f"Bearer {keys.token(world.add_user())}"}) as http:
                counts.append((await spend(http, body))[0])
        cheap, *others = counts
        assert cheap >= LIMIT
        assert all(5 <= count <= 10 for count in others)


async def test_users_and_addresses_are_counted_apart(
    start: Start, bearer: dict[str, str], forwarded: dict[str, str]
) -> None:
    async with start(rate_limit=LIMIT) as address:
        async with client(address, forwarded) as anonymous, client(address, {**bearer, **forwarded}) as user:
            await spend(anonymous, CHEAP)
            assert (await user.post("/graphql", json=CHEAP)).status_code == 200
        elsewhere = {"x-forwarded-for": "192.0.2.77"}
        async with client(address, {**bearer, **elsewhere}) as user, client(address, elsewhere) as anonymous:
            await spend(user, CHEAP)
            assert (await anonymous.post("/graphql", json=CHEAP)).status_code == 200


async def test_processes_share_the_count(start: Start, bearer: dict[str, str]) -> None:
    async with (
        start(rate_limit=LIMIT) as one,
        start(rate_limit=LIMIT) as another,
        client(one, bearer) as first,
        client(another, bearer) as second,
    ):
        await spend(first, COSTLY)

        async def is_refused() -> bool:
            return (await second.post("/graphql", json=CHEAP)).status_code == 429

        await eventually(is_refused)
        assert int((await second.post("/graphql", json=CHEAP)).headers["retry-after"]) > 0


@pytest.fixture
async def redis_proxy(kit: dict[str, str]) -> AsyncIterator[Proxy]:
    async with proxy(kit["KINORA_REDIS_URL"]) as cable:
        yield cable


async def test_each_process_limits_alone_without_redis(
    start: Start, redis_proxy: Proxy, forwarded: dict[str, str]
) -> None:
    async with start(rate_limit=LIMIT, redis_url=redis_proxy.url) as address, client(address, forwarded) as http:
        await redis_proxy.cut()
        accepted, _ = await spend(http, CHEAP)
        assert accepted >= LIMIT - 1


async def test_streams_are_limited_too(start: Start, bearer: dict[str, str]) -> None:
    token = bearer["authorization"].removeprefix("Bearer ")
    async with start(rate_limit=LIMIT) as address, client(address, bearer) as http:
        await spend(http, CHEAP)
        answer = await http.post("/graphql", json=CHEAP, headers={"accept": "text/event-stream"})
        assert (answer.status_code, "retry-after" in answer.headers) == (429, True)
        async with Subscriber("ws", address, [token], CHEAP) as subscriber:
            (error,) = (await subscriber.until("error"))["errors"]
            assert error["extensions"]["code"] == "too_many_requests"


async def test_aliases_do_not_get_round_the_throttle_of_logins(http: httpx.AsyncClient, world: World) -> None:
    login = 'login(input: {login: "nobody", password: "x"}) { __typename }'
    attempts = {f"a{number}": f"a{number}: {login}" for number in range(19)}
    answer = await http.post("/graphql", json={"query": f"mutation {{ {' '.join(attempts.values())} }}"})
    told = [answer.json()["data"][name]["__typename"] for name in attempts]
    assert told == ["InvalidCredentials"] * 3 + ["TooManyRequests"] * 16
