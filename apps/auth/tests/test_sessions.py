from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest
from argon2 import PasswordHasher
from pydantic import SecretStr

from kinora_auth.domain import LATE_RUN, Client, RefreshKind, RefreshToken, SignIn, classify_refresh
from kinora_auth.errors import InvalidCredentials
from kinora_auth.passwords import Passwords
from kinora_auth.service import RECENT
from kinora_auth.settings import MAX_ACCESS_TOKEN_SECONDS
from kinora_kit import postgres
from kinora_kit.ids import new_id
from kinora_kit.revocations import revocation_key
from kinora_kit.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from conftest import Api, Device, Start


PASSWORD = "correct horse battery"


def code(answer: httpx.Response) -> str:
    found: str = answer.json()["code"]
    return found


async def tokens_of(device: Device) -> int:
    count: int = await device.api.state.accounts.pool.fetchval(
        "SELECT count(*) FROM refresh_tokens WHERE session_id = $1", await device.session_id()
    )
    return count


async def test_token_responses_are_not_cacheable(api: Api) -> None:
    person = await api.person()
    login = await api.post("/auth/login", {"login": person.email.upper(), "password": PASSWORD})
    assert login.headers["cache-control"] == "no-store"
    assert login.json()["token_type"] == "Bearer"
    assert 0 < login.json()["expires_in"] <= api.settings.access_token_seconds
    refreshed = await api.post("/auth/refresh", {"refresh_token": login.json()["refresh_token"]})
    assert refreshed.headers["cache-control"] == "no-store"


async def test_concurrent_refreshes_of_one_token_return_one_pair(api: Api) -> None:
    device = await (await api.person()).sign_in()
    answers = await asyncio.gather(*(device.refresh() for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({(answer.json()["access_token"], answer.json()["refresh_token"]) for answer in answers}) == 1
    assert await tokens_of(device) == 2


async def test_refresh_retry_returns_the_same_pair(api: Api) -> None:
    device = await (await api.person()).sign_in()
    lost = (await device.refresh()).json()
    found = (await device.refresh()).json()
    assert (found["access_token"], found["refresh_token"]) == (lost["access_token"], lost["refresh_token"])
    assert (await device.refresh(found["refresh_token"])).status_code == 200


async def test_refresh_accepts_late_token_while_successor_is_unused(start: Start) -> None:
    """A sleeping tab, or a response that was lost in a network outage."""
    async with start(refresh_grace_seconds=0) as api:
        device = await (await api.person()).sign_in()
        lost = (await device.refresh()).json()
        for _ in range(5):
            found = (await device.refresh()).json()
            assert found["refresh_token"] == lost["refresh_token"]
            assert found["access_token"] != lost["access_token"]
            assert found["expires_in"] >= api.settings.access_token_seconds - 1
            assert (await api.verify(found["access_token"])).status_code == 200
        assert (await device.refresh(found["refresh_token"])).status_code == 200
        assert code(await device.refresh()) == "refresh_token_reused"


async def test_refresh_detects_two_alternating_holders(start: Start) -> None:
    async with start(refresh_grace_seconds=0) as api:
        owner = await (await api.person()).sign_in()
        token, codes = owner.refresh_token, []
        for _ in range(LATE_RUN + 1):
            following = (await owner.refresh(token)).json()["refresh_token"]
            copied = await owner.refresh(token)  # by a thief
            codes.append(copied.status_code)
            token = following
        assert codes == [*[200] * LATE_RUN, 401]
        assert (await owner.verify()).status_code == 401


async def test_refresh_resets_late_run_after_a_timely_refresh(start: Start) -> None:
    async with start(refresh_grace_seconds=0) as api:
        device = await (await api.person()).sign_in()
        token = device.refresh_token
        for number in range(3 * LATE_RUN):
            following = (await device.refresh(token)).json()["refresh_token"]
            if number % LATE_RUN:
                assert (await device.refresh(token)).status_code == 200
            token = following


async def test_refresh_token_reuse_ends_the_session(api: Api) -> None:
    device = await (await api.person()).sign_in()
    second = (await device.refresh()).json()["refresh_token"]
    assert (await device.refresh(second)).status_code == 200
    assert code(await device.refresh()) == "refresh_token_reused"
    assert (await device.verify()).status_code == 401


async def test_refresh_token_reuse_keeps_other_sessions(api: Api) -> None:
    person = await api.person()
    stolen, other = await person.sign_in(), await person.sign_in()
    await stolen.refresh((await stolen.refresh()).json()["refresh_token"])
    assert code(await stolen.refresh()) == "refresh_token_reused"
    assert (await other.refresh()).status_code == 200


@pytest.mark.parametrize("token", ["x", "A" * 43, "ä" * 43])
async def test_unknown_refresh_token_is_rejected(api: Api, token: str) -> None:
    answer = await api.post("/auth/refresh", {"refresh_token": token})
    assert (answer.status_code, code(answer)) == (401, "invalid_refresh_token")


async def test_session_expires_when_unused_or_too_old(api: Api) -> None:
    device = await (await api.person()).sign_in()
    pool, session_id = api.state.accounts.pool, await device.session_id()
    limits = await pool.fetchrow("SELECT expires_at - created_at AS unused FROM sessions WHERE id = $1", session_id)
    assert limits["unused"] == timedelta(days=api.settings.refresh_token_days)
    await pool.execute(
        "UPDATE sessions SET created_at = now() - make_interval(days => $2) WHERE id = $1",
        session_id,
        api.settings.session_days - 1,
    )
    pair = (await device.refresh()).json()
    expires_at = await pool.fetchval("SELECT expires_at FROM sessions WHERE id = $1", session_id)
    assert expires_at < datetime.now(UTC) + timedelta(days=1)
    await pool.execute("UPDATE sessions SET expires_at = now() WHERE id = $1", session_id)
    assert code(await device.refresh(pair["refresh_token"])) == "invalid_refresh_token"
    await api.state.accounts.sweep()
    assert await pool.fetchval("SELECT count(*) FROM sessions WHERE id = $1", session_id) == 0


async def test_logout_invalidates_access_and_refresh_token(api: Api) -> None:
    device = await (await api.person()).sign_in()
    newer = (await device.refresh()).json()
    assert (await device.call("POST", "/auth/logout")).status_code == 204
    for token in (device.access_token, newer["access_token"]):
        for optional in (False, True):
            answer = await api.verify(token, optional=optional)
            assert (answer.status_code, code(answer)) == (401, "invalid_token")
    assert code(await device.refresh(newer["refresh_token"])) == "invalid_refresh_token"


async def test_logout_all_ends_only_the_users_sessions(api: Api) -> None:
    person = await api.person()
    devices = [await person.sign_in() for _ in range(3)]
    stranger = await (await api.person()).sign_in()
    assert (await devices[0].call("POST", "/auth/logout-all")).status_code == 204
    assert [(await device.verify()).status_code for device in devices] == [401] * 3
    assert (await stranger.verify()).status_code == 200


async def test_sessions_can_be_listed_and_ended(api: Api) -> None:
    person = await api.person()
    first, second = await person.sign_in(), await person.sign_in()
    stranger = await (await api.person()).sign_in()
    await first.refresh()
    items = (await second.call("GET", "/auth/sessions")).json()["items"]
    ids = [str(await first.session_id()), str(await second.session_id())]
    assert [(item["id"], item["current"]) for item in items] == [(ids[0], False), (ids[1], True)]
    assert {item["address"] for item in items} == {"127.0.0.1"}
    assert code(await stranger.call("DELETE", f"/auth/sessions/{ids[0]}")) == "session_not_found"
    assert (await second.call("DELETE", f"/auth/sessions/{ids[0]}")).status_code == 204
    assert (await first.verify()).status_code == 401
    assert code(await second.call("DELETE", f"/auth/sessions/{ids[0]}")) == "session_not_found"
    assert code(await second.call("DELETE", "/auth/sessions/7")) == "not_found"
    assert (await second.call("DELETE", f"/auth/sessions/{ids[1]}")).status_code == 204
    assert (await second.verify()).status_code == 401


async def test_list_sessions_returns_at_most_100(api: Api) -> None:
    device = await (await api.person()).sign_in()
    await api.state.accounts.pool.execute(
        "INSERT INTO sessions (id, user_id, user_agent, address, created_at, last_used_at, expires_at)"
        " SELECT gen_random_uuid(), user_id, user_agent, address, created_at, last_used_at - make_interval(mins => n),"
        " expires_at FROM sessions, generate_series(1, 120) AS n WHERE id = $1",
        await device.session_id(),
    )
    items = (await device.call("GET", "/auth/sessions")).json()["items"]
    times = [item["last_used_at"] for item in items]
    assert len(items) == 100
    assert items[0]["current"]
    assert times == sorted(times, reverse=True)


async def test_login_ends_least_recently_used_sessions_beyond_100(api: Api) -> None:
    """A session beyond those could be neither seen nor ended alone, and ending all might take too long."""
    person = await api.person()
    oldest, recent = await person.sign_in(), await person.sign_in()
    pool = api.state.accounts.pool
    await pool.execute(
        "UPDATE sessions SET last_used_at = last_used_at - interval '1 day' WHERE id = $1", await oldest.session_id()
    )
    await pool.execute(
        "INSERT INTO sessions (id, user_id, user_agent, address, created_at, last_used_at, expires_at)"
        " SELECT gen_random_uuid(), user_id, user_agent, address, created_at, last_used_at - interval '1 hour',"
        " expires_at FROM sessions, generate_series(1, 98) WHERE id = $1",
        await recent.session_id(),
    )
    await asyncio.gather(*(person.sign_in() for _ in range(3)))
    assert await pool.fetchval("SELECT count(*) FROM sessions WHERE user_id = $1", person.id) == 100
    assert [(await device.verify()).status_code for device in (oldest, recent)] == [401, 200]


async def reuse(here: Device, _: Device) -> httpx.Response:
    await here.refresh((await here.refresh()).json()["refresh_token"])
    return await here.refresh()


async def revoke(here: Device, other: Device) -> httpx.Response:
    return await other.call("DELETE", f"/auth/sessions/{await here.session_id()}")


ENDS: dict[str, Callable[[Device, Device], Awaitable[httpx.Response]]] = {
    "logout": lambda here, _: here.call("POST", "/auth/logout"),
    "logout of all": lambda _, other: other.call("POST", "/auth/logout-all"),
    "revocation": revoke,
    "reuse of a refresh token": reuse,
    "new password": lambda _, other: other.call(
        "PUT", "/auth/password", {"current_password": PASSWORD, "new_password": "another long password"}
    ),
    "deletion": lambda _, other: other.call("DELETE", "/user/profile", {"current_password": PASSWORD}),
}


@pytest.mark.parametrize("end", ENDS)
async def test_end_of_a_session_is_answered_when_all_replicas_reject_it(api: Api, start: Start, end: str) -> None:
    person = await api.person()
    here, other = await person.sign_in(), await person.sign_in()
    async with start() as one, start() as two:
        for replica in (one, two):
            for _ in range(2):  # the second time, the replica remembers the session
                assert (await replica.verify(here.access_token)).status_code == 200
        assert (await ENDS[end](here, other)).status_code in (204, 401)
        assert [(await each.verify(here.access_token)).status_code for each in (one, two, api)] == [401] * 3


async def test_logout_that_loses_a_deadlock_can_be_retried(api: Api) -> None:
    """As with the sweep of refresh tokens, which takes its locks in another order."""
    device = await (await api.person()).sign_in()
    session_id, pool = await device.session_id(), api.state.accounts.pool
    async with postgres.transaction(pool) as connection:
        await connection.execute("UPDATE refresh_tokens SET late_run = 0 WHERE session_id = $1", session_id)
        logout = asyncio.create_task(device.call("POST", "/auth/logout"))
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid)"
        await eventually(lambda: connection.fetchval(waiting), seconds=60)
        await connection.execute("UPDATE sessions SET user_agent = '' WHERE id = $1", session_id)
        answer = await logout
        assert (answer.status_code, code(answer)) == (503, "unavailable")
    assert (await device.call("POST", "/auth/logout")).status_code == 204


async def test_change_password_ends_other_sessions(api: Api) -> None:
    person = await api.person()
    here, elsewhere = await person.sign_in(), await person.sign_in()
    new = "another long password"
    wrong = await here.call("PUT", "/auth/password", {"current_password": "wrong", "new_password": new})
    assert (wrong.status_code, code(wrong)) == (403, "wrong_password")
    body = {"current_password": PASSWORD, "new_password": new}
    at_once = await asyncio.gather(*(here.call("PUT", "/auth/password", body) for _ in range(2)))
    assert [answer.status_code for answer in at_once] == [204, 204]
    assert (await here.call("PUT", "/auth/password", body)).status_code == 204, "a retry after a lost response"
    await api.state.accounts.pool.execute(
        "UPDATE users SET password_changed_at = password_changed_at - $2::interval WHERE id = $1", person.id, RECENT
    )
    assert code(await here.call("PUT", "/auth/password", body)) == "wrong_password"
    assert (await here.verify()).status_code == 200
    assert (await here.refresh()).status_code == 200
    assert (await elsewhere.verify()).status_code == 401
    assert code(await elsewhere.refresh()) == "invalid_refresh_token"
    old = await api.post("/auth/login", {"login": person.username, "password": PASSWORD})
    assert code(old) == "invalid_credentials"
    assert (await api.post("/auth/login", {"login": person.username, "password": new})).status_code == 200


class SlowPasswords(Passwords):
    """Pauses after a password has been verified."""

    def __init__(self) -> None:
        super().__init__(threads=1, queue=1)
        self.verified, self.may_answer = asyncio.Event(), asyncio.Event()

    async def verify(self, known: str | None, password: str) -> str | None:
        form = await super().verify(known, password)
        self.verified.set()
        await self.may_answer.wait()
        return form


@pytest.mark.parametrize("change", ["password", "deletion"])
async def test_login_fails_if_password_changes_during_the_check(api: Api, change: str) -> None:
    person = await api.person()
    here = await person.sign_in()
    slow = SlowPasswords()
    accounts = dataclasses.replace(api.state.accounts, passwords=slow)
    login = asyncio.create_task(
        accounts.login(SignIn(login=person.username, password=SecretStr(PASSWORD)), Client("127.0.0.1", "a test"))
    )
    await slow.verified.wait()
    if change == "password":
        body = {"current_password": PASSWORD, "new_password": "another long password"}
        assert (await here.call("PUT", "/auth/password", body)).status_code == 204
    else:
        assert (await here.call("DELETE", "/user/profile", {"current_password": PASSWORD})).status_code == 204
    slow.may_answer.set()
    with pytest.raises(InvalidCredentials):
        await login
    slow.close()


async def test_login_rehashes_password_with_old_parameters(api: Api) -> None:
    person = await api.person()
    pool = api.state.accounts.pool
    weak = PasswordHasher(time_cost=1, memory_cost=8192).hash(PASSWORD)
    await pool.execute("UPDATE users SET password_hash = $2 WHERE id = $1", person.id, weak)
    await person.sign_in()
    stored = await pool.fetchval("SELECT password_hash FROM users WHERE id = $1", person.id)
    assert stored != weak
    assert not api.state.accounts.passwords.outdated(stored, PASSWORD)
    await person.sign_in()


async def test_logout_answers_503_without_redis_and_takes_effect_later(api: Api, start: Start) -> None:
    device = await (await api.person()).sign_in()
    verified = (await device.verify()).headers
    headers = {name: verified[name] for name in ("x-user-id", "x-session-id")}
    async with start(redis_url=SecretStr("redis://127.0.0.1:1/0")) as cut_off:

        async def written_down() -> bool:
            # A busy PostgreSQL may cause 503, too; clients retry then.
            refused = await cut_off.http.post("/auth/logout", headers=headers)
            assert (refused.status_code, code(refused)) == (503, "unavailable")
            sessions = "SELECT count(*) FROM sessions WHERE id = $1"
            return not await api.state.accounts.pool.fetchval(sessions, UUID(headers["x-session-id"]))

        await eventually(written_down, seconds=60)
        # Auth falls back to its own revocations table.
        assert (await cut_off.verify(device.access_token)).status_code == 401

    async def ended() -> bool:
        return (await device.verify()).status_code == 401

    async with start(revocation_sync_seconds=0.1):
        await eventually(ended, seconds=60)
    assert code(await device.refresh()) == "invalid_refresh_token"


async def test_revocations_are_restored_after_redis_lost_its_data(api: Api, start: Start) -> None:
    device = await (await api.person()).sign_in()
    session_id = await device.session_id()
    await device.call("POST", "/auth/logout")
    redis = api.state.accounts.redis
    lifetime = await redis.ttl(revocation_key(session_id))
    assert MAX_ACCESS_TOKEN_SECONDS <= lifetime <= MAX_ACCESS_TOKEN_SECONDS + 61
    await redis.delete(revocation_key(session_id))

    async def known() -> bool:
        return bool(await redis.exists(revocation_key(session_id)))

    async with start(revocation_sync_seconds=0.1):
        await eventually(known, seconds=60)
    assert await redis.ttl(revocation_key(session_id)) <= lifetime


async def test_revocation_outlasts_tokens_issued_under_a_longer_lifetime(api: Api, start: Start) -> None:
    """Otherwise they would be valid again, when a release shortens the lifetime."""
    device = await (await api.person()).sign_in()
    async with start(access_token_seconds=60) as shorter:
        session_id = await device.session_id()
        there = dataclasses.replace(device, api=shorter)
        assert (await there.call("POST", "/auth/logout")).status_code == 204
    assert await api.state.accounts.redis.ttl(revocation_key(session_id)) > api.settings.access_token_seconds


@pytest.mark.parametrize(
    ("used_ago", "successor_used", "expected"),
    [
        (None, None, RefreshKind.ROTATE),
        (0, False, RefreshKind.REPEAT),
        (10, False, RefreshKind.REPEAT),
        (10.001, False, RefreshKind.LATE),
        (1e6, False, RefreshKind.LATE),
        (0, True, RefreshKind.REUSE),
    ],
)
def test_classify_refresh(used_ago: float | None, successor_used: Any, expected: RefreshKind) -> None:
    now = datetime.now(UTC)
    used_at = None if used_ago is None else now - timedelta(seconds=used_ago)
    token = RefreshToken(b"1", new_id(), new_id(), now, used_at, late_run=LATE_RUN - 1)
    following = (
        None if used_at is None else RefreshToken(b"2", new_id(), new_id(), now, now if successor_used else None)
    )
    assert classify_refresh(token, following, now=now, grace=timedelta(seconds=10)) is expected
