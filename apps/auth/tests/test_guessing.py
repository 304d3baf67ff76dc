"""Throttling of password guesses and account enumeration, without locking anyone out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from kinora_auth.domain import Client
from kinora_kit.ids import new_id

if TYPE_CHECKING:
    import httpx

    from conftest import Api, Person, Start

PASSWORD = "correct horse battery"
WRONG = "wrong password"


def code(answer: httpx.Response) -> str | None:
    found: str | None = answer.json().get("code")
    return found


def networks(count: int) -> list[str]:
    """One address in each of ``count`` /48 networks that no other test uses."""
    prefix = new_id().hex[-4:]
    return [f"2001:{prefix}:{number:x}::1" for number in range(1, count + 1)]


async def guess(api: Api, person: Person, *addresses: str, times: int = 1) -> list[str | None]:
    """The error codes for wrong passwords from ``addresses``, ``times`` from each, in turn."""
    return [code(await api.at(address).login(person, WRONG)) for _ in range(times) for address in addresses]


async def test_login_throttles_address_per_account_for_any_spelling_of_the_login(start: Start) -> None:
    async with start(pair_failures="3/minute") as api:
        person = await api.person()
        for login in (person.username, person.username.upper(), f" {person.username.title()}"):
            answer = await api.post("/auth/login", {"login": login, "password": WRONG})
            assert code(answer) == "invalid_credentials"
        answer = await api.login(person)
        assert (answer.status_code, code(answer)) == (429, "too_many_requests")
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert await (await api.person()).sign_in()


async def test_throttled_username_does_not_reveal_the_email_address_of_its_account(start: Start) -> None:
    async with start(pair_failures="2/minute", account_failures="2/minute", stranger_failures="1/minute") as api:
        person, other = await api.person(), await api.person()
        assert (await guess(api, person, "192.0.2.1", times=3))[2] == "too_many_requests"
        for email in (person.email, other.email):
            answer = await api.at("192.0.2.1").post("/auth/login", {"login": email, "password": WRONG})
            assert code(answer) == "invalid_credentials"


async def test_letters_that_only_postgresql_folds_to_ascii_are_other_logins(start: Start) -> None:
    """Otherwise an account could be told from an unknown login by whether the two spellings share a throttle."""
    async with start(pair_failures="1/minute") as api:
        name = f"kiwi_{new_id().hex[:20]}"
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        assert (await api.post("/auth/register", body)).status_code == 201
        dotted = name.replace("i", "\u0130")  # lower() of PostgreSQL makes it an i, that of Python does not
        answer = await api.post("/auth/login", {"login": dotted, "password": PASSWORD})
        assert code(answer) == "invalid_credentials"
        kelvin = name.replace("k", "\u212a")  # both make it a k
        assert code(await api.post("/auth/login", {"login": kelvin, "password": WRONG})) == "invalid_credentials"
        assert code(await api.post("/auth/login", {"login": name, "password": PASSWORD})) == "too_many_requests"


async def test_login_throttles_unknown_accounts_like_known_ones(start: Start) -> None:
    async with start(pair_failures="9/minute", account_failures="2/minute", stranger_failures="1/minute") as api:
        known = await api.person()
        nobody = f"nobody_{new_id().hex[:20]}"
        answers: list[list[str | None]] = []
        for login in (known.username, nobody):
            place = api.at(networks(1)[0])
            body = {"login": login, "password": WRONG}
            answers.append([code(await place.post("/auth/login", body)) for _ in range(4)])
        assert answers[0] == answers[1] == [*["invalid_credentials"] * 3, "too_many_requests"]


async def test_login_from_other_address_works_while_a_stranger_guesses(start: Start) -> None:
    async with start(pair_failures="3/minute") as api:
        person = await api.person()
        stranger, owner = networks(2)
        assert (await guess(api, person, stranger, times=5))[2:] == ["invalid_credentials", *["too_many_requests"] * 2]
        assert (await api.at(owner).login(person)).status_code == 200


async def test_password_confirmation_is_throttled_per_session_only(start: Start) -> None:
    async with start(pair_failures="2/minute", account_failures="2/minute", session_failures="4/minute") as api:
        person = await api.person()
        here, there = await person.sign_in(), await person.sign_in()
        # A stranger at the same address, and strangers everywhere.
        assert "too_many_requests" in await guess(api, person, "127.0.0.1", times=3)
        assert "too_many_requests" in await guess(api, person, *networks(2), times=4)
        # Each counts twice, because the new password might be the current one of a retry after a lost response.
        change = {"current_password": WRONG, "new_password": "another long password"}
        answers = [await there.call("PUT", "/auth/password", change) for _ in range(3)]
        assert [code(answer) for answer in answers] == [*["wrong_password"] * 2, "too_many_requests"]
        change["current_password"] = PASSWORD
        assert code(await there.call("PUT", "/auth/password", change)) == "too_many_requests"
        assert (await here.call("PUT", "/auth/password", change)).status_code == 204
        deletion = {"current_password": change["new_password"]}
        assert (await here.call("DELETE", "/user/profile", deletion)).status_code == 204


async def test_password_confirmation_needs_the_session(api: Api) -> None:
    person = await api.person()
    headers = {"X-User-Id": str(person.id)}
    body = {"current_password": PASSWORD}
    for method, path, more in (
        ("PUT", "/auth/password", {"new_password": "another long password"}),
        ("PATCH", "/user/profile", {"email": f"new_{person.email}"}),
        ("DELETE", "/user/profile", {}),
    ):
        answer = await api.http.request(method, path, json={**body, **more}, headers=headers)
        assert (answer.status_code, code(answer)) == (401, "not_signed_in")
    assert (await api.login(person)).status_code == 200


async def test_owner_can_log_in_from_anywhere_while_account_is_under_attack(start: Start) -> None:
    """Measures that distributed guesses are bounded by the attacker's networks, and that the owner never waits."""
    async with start(
        pair_failures="10/hour", account_failures="6/hour", stranger_failures="2/hour", address_failures="1000/hour"
    ) as api:
        person = await api.person()
        home, fresh, *attackers = networks(12)
        assert (await api.at(home).login(person)).status_code == 200
        answers = await guess(api, person, *attackers, times=5)
        checked = answers.count("invalid_credentials")
        assert set(answers) == {"invalid_credentials", "too_many_requests"}
        assert checked <= 6 + 2 * len(attackers) < len(answers)
        # Further addresses in the same networks give no more guesses.
        neighbours = [address.replace("::1", ":7::9") for address in attackers]
        assert set(await guess(api, person, *neighbours)) == {"too_many_requests"}
        # The owner may mistype in a new network, and more often where a session was last used.
        assert await guess(api, person, fresh) == ["invalid_credentials"]
        assert (await api.at(fresh).login(person)).status_code == 200
        assert set(await guess(api, person, home, times=5)) == {"invalid_credentials"}
        assert (await api.at(home).login(person)).status_code == 200


async def test_parallel_guesses_do_not_exceed_the_throttle(start: Start) -> None:
    async with start(pair_failures="3/minute") as api:
        person = await api.person()
        answers = await asyncio.gather(*(api.login(person, f"wrong {n}") for n in range(30)))
        guessed = sum(answer.status_code == 401 for answer in answers)
        assert 3 <= guessed < 3 + api.settings.hashing_threads


async def test_login_throttles_address_across_accounts(start: Start) -> None:
    async with start(address_failures="2/minute") as api:
        place = api.at(networks(1)[0])
        answers = [
            await place.post("/auth/login", {"login": f"nobody_{new_id().hex[:20]}", "password": WRONG})
            for _ in range(3)
        ]
        assert [code(answer) for answer in answers] == [*["invalid_credentials"] * 2, "too_many_requests"]


async def test_attacker_with_many_networks_of_one_48_is_throttled(start: Start) -> None:
    prefix = networks(1)[0].removesuffix("::1")
    places = [f"{prefix}:{number:x}::1" for number in range(1, 5)]
    async with start(neighbourhood_failures="2/minute", neighbourhood_registrations="2/hour") as api:
        guesses = [{"login": f"nobody_{new_id().hex[:20]}", "password": WRONG} for _ in places]
        answers = [await api.at(place).post("/auth/login", body) for place, body in zip(places, guesses, strict=True)]
        assert [code(answer) for answer in answers] == [*["invalid_credentials"] * 2, *["too_many_requests"] * 2]
        names = [f"user_{number}_{new_id().hex[:20]}" for number in range(len(places))]
        wanted = [{"username": name, "email": f"{name}@example.com", "password": PASSWORD} for name in names]
        answers = [await api.at(place).post("/auth/register", body) for place, body in zip(places, wanted, strict=True)]
        assert [answer.status_code for answer in answers] == [201, 201, 429, 429]


async def test_register_throttles_password_guesses_like_login(start: Start) -> None:
    async with start(pair_failures="2/minute") as api:
        name = f"user_{new_id().hex[:20]}"
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        assert (await api.post("/auth/register", body)).status_code == 201
        for wrong in ("first guess", "second guess"):
            assert code(await api.post("/auth/register", {**body, "password": wrong})) == "username_taken"
        assert code(await api.post("/auth/register", body)) == "too_many_requests"
        answer = await api.post("/auth/login", {"login": body["email"], "password": PASSWORD})
        assert code(answer) == "too_many_requests"


@pytest.mark.parametrize("field", ["email", "username"])
async def test_update_profile_throttles_account_enumeration(start: Start, field: str) -> None:
    def change() -> dict[str, Any]:
        name = f"user_{new_id().hex[:20]}"
        value = f"{name}@example.com" if field == "email" else name
        return {field: value, "current_password": PASSWORD}

    async with start(renames="2/hour", registrations="5/hour") as api:
        place = api.at(networks(1)[0])
        first, second = [await (await place.person()).sign_in() for _ in range(2)]  # two of the five
        answers = [await first.call("PATCH", "/user/profile", change()) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert (await first.call("PATCH", "/user/profile", {"bio": "not a name"})).status_code == 200
        # Another account at the same address gets the rest of the address's limit.
        answers = [await second.call("PATCH", "/user/profile", change()) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        name = f"user_{new_id().hex[:20]}"
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        assert code(await place.post("/auth/register", body)) == "too_many_requests"


@pytest.mark.parametrize(
    ("address", "network", "neighbourhood"),
    [
        ("192.0.2.77", "192.0.2.77/32", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.77/32", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("no address", "no address", "no address"),
    ],
)
def test_client_network_is_ipv4_address_or_ipv6_64(address: str, network: str, neighbourhood: str) -> None:
    client = Client.of(address, "")
    assert (client.network, client.neighbourhood) == (network, neighbourhood)
