from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Any

import aio_pika
import httpx
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from kinora_auth.service import RECENT
from kinora_kit.ids import new_id
from kinora_kit.settings import reveal

if TYPE_CHECKING:
    from conftest import Api, Others, Start

PASSWORD = "correct horse battery"


def unique(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(8)}"


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["code"] == code
    return document


def registration(**changes: Any) -> dict[str, Any]:
    username = unique("user")
    return {"username": username, "email": f"{username}@example.com", "password": PASSWORD, **changes}


async def test_register_returns_profile(api: Api) -> None:
    body = registration(display_name="  Ada Lovelace ")
    answer = await api.post("/auth/register", body)
    assert answer.status_code == 201
    profile = answer.json()
    assert (profile["username"], profile["email"]) == (body["username"], body["email"])
    assert (profile["display_name"], profile["bio"], profile["roles"]) == ("Ada Lovelace", "", [])
    assert "password" not in answer.text


async def test_concurrent_registrations_of_one_name_create_one_account(api: Api) -> None:
    name = unique("race")
    spellings = [name.upper() if number % 2 else name for number in range(50)]
    answers = await asyncio.gather(
        *(
            api.post("/auth/register", registration(username=spelling, email=f"{unique('mail')}@example.com"))
            for spelling in spellings
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 49
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"username_taken"}


async def test_register_can_be_retried_after_lost_response(api: Api) -> None:
    body = registration()
    first, again = await api.post("/auth/register", body), await api.post("/auth/register", body)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    body = registration()
    at_once = [answer.json() for answer in await asyncio.gather(*(api.post("/auth/register", body) for _ in range(3)))]
    assert at_once == [at_once[0]] * 3
    assert at_once[0]["username"] == body["username"]

    for other in (
        {"password": "another password"},
        {"display_name": "Somebody else"},
        {"username": body["username"].upper()},
    ):
        problem(await api.post("/auth/register", {**body, **other}), 409, "username_taken")
    problem(await api.post("/auth/register", {**body, "username": unique("user")}), 409, "email_taken")
    others = {**body, "email": f"{unique('mail')}@example.com"}
    problem(await api.post("/auth/register", others), 409, "username_taken")


async def test_register_can_be_retried_for_a_minute_only(api: Api) -> None:
    body = registration()
    id_ = (await api.post("/auth/register", body)).json()["id"]
    await api.state.accounts.pool.execute(
        "UPDATE users SET created_at = created_at - $2::interval WHERE id = $1", id_, RECENT
    )
    problem(await api.post("/auth/register", body), 409, "username_taken")


async def test_register_rejects_taken_username_and_email_in_any_case(api: Api) -> None:
    first = registration()
    assert (await api.post("/auth/register", first)).status_code == 201
    problem(await api.post("/auth/register", registration(username=first["username"].upper())), 409, "username_taken")
    problem(await api.post("/auth/register", registration(email=first["email"].upper())), 409, "email_taken")
    other = await (await api.person()).sign_in()
    problem(await other.call("PATCH", "/user/profile", {"username": first["username"].title()}), 409, "username_taken")
    change = {"email": first["email"].title(), "current_password": PASSWORD}
    problem(await other.call("PATCH", "/user/profile", change), 409, "email_taken")


@pytest.mark.parametrize(
    "wrong",
    [
        {"username": "ab"},
        {"username": "a" * 33},
        {"username": "with space"},
        {"username": "a@example.com"},
        {"username": "name\n"},
        {"email": "nobody"},
        {"email": "nobody@localhost"},
        {"email": f"{'a' * 250}@example.com"},
        {"password": "short"},
        {"password": "x" * 257},
        {"password": None},
        {"display_name": "   "},
        {"display_name": "\u202eoverridden"},
        {"roles": ["admin"]},
    ],
)
async def test_register_rejects_invalid_fields(api: Api, wrong: dict[str, Any]) -> None:
    document = problem(await api.post("/auth/register", registration(**wrong)), 422, "invalid_input")
    assert next(iter(wrong)) in {error["field"] for error in document["errors"]}
    assert PASSWORD not in str(document)


@pytest.mark.parametrize("path", ["/auth/login", "/auth/refresh"])
async def test_response_to_invalid_fields_is_not_larger_than_the_request(api: Api, path: str) -> None:
    many = {f"{number:x}": 0 for number in range(2000)}
    document = problem(await api.post(path, many), 422, "invalid_input")
    assert len(document["errors"]) == 10
    assert len(problem(await api.post(path, {"x" * 20_000: 0}), 422, "invalid_input")["detail"]) < 1000
    problem(await api.post(path, {"login": "x" * 40_000}), 413, "too_large")


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"null", b"\xff\xfe", b'{"login": "\\ud800", "password": "\\ud800"}', b""]
)
@pytest.mark.parametrize("path", ["/auth/register", "/auth/login", "/auth/refresh", "/user/list"])
async def test_malformed_json_body_is_rejected(api: Api, path: str, body: bytes) -> None:
    answer = await api.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/user/17", "/user/profile2", "/user/%00", "/user/..%2fprofile"])
async def test_get_user_answers_404_for_malformed_id(api: Api, path: str) -> None:
    answer = await api.http.get(path)
    assert answer.status_code in (400, 404)  # 400 for NUL, before any route
    assert answer.headers["content-type"] == "application/problem+json"


async def test_get_user_omits_private_fields(api: Api) -> None:
    person = await api.person()
    answer = await api.http.get(f"/user/{person.id}")
    assert answer.status_code == 200
    assert set(answer.json()) == {"id", "username", "display_name", "bio", "created_at"}
    problem(await api.http.get(f"/user/{new_id()}"), 404, "user_not_found")


async def test_get_user_by_name_ignores_case(api: Api) -> None:
    person = await api.person()
    answer = await api.http.get(f"/user/by-name/{person.username.upper()}")
    assert (answer.status_code, answer.json()["id"]) == (200, str(person.id))
    problem(await api.http.get(f"/user/by-name/{new_id().hex}"), 404, "user_not_found")
    problem(await api.http.get("/user/by-name/a%20b"), 422, "invalid_input")


async def test_list_users_omits_unknown_ids(api: Api) -> None:
    people = [await api.person() for _ in range(3)]
    ids = [str(person.id) for person in people]
    answer = await api.post("/user/list", {"ids": [*ids, str(new_id()), ids[0]]})
    assert [item["id"] for item in answer.json()["items"]] == sorted(ids)
    assert "email" not in answer.text
    problem(await api.post("/user/list", {"ids": [str(new_id())] * 101}), 422, "invalid_input")
    problem(await api.post("/user/list", {"ids": ["1"]}), 422, "invalid_input")


async def test_update_profile_changes_only_given_fields(api: Api) -> None:
    person = await api.person()
    device = await person.sign_in()
    answer = await device.call("PATCH", "/user/profile", {"display_name": "Grace", "bio": "one\ntwo"})
    assert answer.status_code == 200
    assert (answer.json()["display_name"], answer.json()["bio"]) == ("Grace", "one\ntwo")
    assert (await device.call("PATCH", "/user/profile", {"bio": ""})).json()["display_name"] == "Grace"
    assert (await device.call("GET", "/user/profile")).json()["bio"] == ""
    problem(await device.call("PATCH", "/user/profile", {"bio": None}), 422, "invalid_input")
    problem(await device.call("PATCH", "/user/profile", {"role": "admin"}), 422, "invalid_input")


async def test_update_profile_requires_password_for_new_email(api: Api) -> None:
    person = await api.person()
    device = await person.sign_in()
    new = f"{unique('new')}@example.com"
    problem(await device.call("PATCH", "/user/profile", {"email": new}), 403, "wrong_password")
    problem(
        await device.call("PATCH", "/user/profile", {"email": new, "current_password": "wrong"}), 403, "wrong_password"
    )
    answer = await device.call("PATCH", "/user/profile", {"email": new, "current_password": PASSWORD})
    assert answer.json()["email"] == new
    assert (await api.post("/auth/login", {"login": new, "password": PASSWORD})).status_code == 200
    problem(await api.post("/auth/login", {"login": person.email, "password": PASSWORD}), 401, "invalid_credentials")


async def test_login_does_not_reveal_whether_account_exists(api: Api) -> None:
    def hashes() -> float:
        return REGISTRY.get_sample_value("kinora_auth_hash_seconds_count") or 0

    person = await api.person()
    answers = []
    for login in (person.username, person.email, unique("nobody")):
        before = hashes()
        answers.append(await api.post("/auth/login", {"login": login, "password": "wrong password"}))
        assert hashes() == before + 1
    documents = [problem(answer, 401, "invalid_credentials") for answer in answers]
    for document in documents:
        document.pop("request_id")
    assert documents[0] == documents[1] == documents[2]


async def test_register_is_throttled_per_address(start: Start) -> None:
    async with start(registrations="2/hour", address=f"2001:db8:{new_id().hex[-4:]}::2") as api:
        assert [(await api.post("/auth/register", registration())).status_code for _ in range(3)] == [201, 201, 429]


async def test_register_answers_503_when_hashing_queue_is_full(start: Start) -> None:
    async with start(hashing_threads=1, hashing_queue=1) as api:
        async with api.state.accounts.passwords.slot("somebody", "somewhere"):
            places = [api.at(f"192.0.2.{number}") for number in range(3)]
            asked = [asyncio.create_task(place.post("/auth/register", registration())) for place in places]
            while sum(task.done() for task in asked) < 2:
                await asyncio.wait([task for task in asked if not task.done()], return_when=asyncio.FIRST_COMPLETED)
            for refused in [task.result() for task in asked if task.done()]:
                problem(refused, 503, "too_busy")
                assert refused.headers["retry-after"]
        assert sorted(answer.status_code for answer in await asyncio.gather(*asked)) == [201, 503, 503]


@pytest.mark.parametrize(
    ("flooders", "owner", "accepted"),
    [
        (["192.0.2.1"], "192.0.2.2", 10),
        ([f"2001:db8:77:{number:x}::1" for number in range(30)], "2001:db8:78::1", 15),
    ],
)
async def test_login_works_while_another_client_floods_it(
    start: Start, flooders: list[str], owner: str, accepted: int
) -> None:
    async with start(hashing_threads=1, hashing_queue=20, pair_failures="100/hour") as api:
        person = await api.person()
        places = [api.at(flooders[number % len(flooders)]) for number in range(30)]
        body = {"login": f"nobody_{new_id().hex[:20]}", "password": "wrong password"}
        async with api.state.accounts.passwords.slot("somebody", "somewhere"):
            flood = [asyncio.create_task(place.post("/auth/login", body)) for place in places]
            while sum(task.done() for task in flood) < 30 - accepted:
                await asyncio.wait([task for task in flood if not task.done()], return_when=asyncio.FIRST_COMPLETED)
            for refused in [task.result() for task in flood if task.done()]:
                problem(refused, 429, "too_many_at_once")
            login = asyncio.create_task(api.at(owner).login(person))
        assert (await login).status_code == 200
        statuses = sorted(answer.status_code for answer in await asyncio.gather(*flood))
        assert statuses == [*[401] * accepted, *[429] * (30 - accepted)]


async def test_delete_account_leaves_no_row_and_frees_username(api: Api) -> None:
    person = await api.person()
    device = await person.sign_in()
    other = await person.sign_in()
    session_ids = [await device.session_id(), await other.session_id()]
    problem(await device.call("DELETE", "/user/profile", {"current_password": "wrong"}), 403, "wrong_password")
    answer = await device.call("DELETE", "/user/profile", {"current_password": PASSWORD})
    assert answer.status_code == 204
    pool = api.state.accounts.pool
    assert await pool.fetchval("SELECT count(*) FROM users WHERE id = $1", person.id) == 0
    assert await pool.fetchval("SELECT count(*) FROM sessions WHERE user_id = $1", person.id) == 0
    assert await pool.fetchval("SELECT count(*) FROM refresh_tokens WHERE session_id = ANY($1)", session_ids) == 0
    problem(await api.http.get(f"/user/{person.id}"), 404, "user_not_found")
    problem(await device.verify(), 401, "invalid_token")
    problem(await other.verify(), 401, "invalid_token")
    again = {"username": person.username, "email": person.email, "password": PASSWORD}
    assert (await api.post("/auth/register", again)).status_code == 201


async def test_delete_account_deletes_public_data_first(api: Api, others: Others) -> None:
    person = await api.person()
    device = await person.sign_in()
    problem(await device.call("DELETE", "/user/profile", {"current_password": "wrong"}), 403, "wrong_password")
    assert others.media == others.videos == []
    others.away = True
    refused = await device.call("DELETE", "/user/profile", {"current_password": PASSWORD})
    problem(refused, 503, "unavailable")
    assert refused.headers["retry-after"]
    assert (await device.verify()).status_code == 200, "the account must survive, for a retry"
    others.away = False
    assert (await device.call("DELETE", "/user/profile", {"current_password": PASSWORD})).status_code == 204
    assert others.media == others.videos == [device.access_token]


async def test_events_are_kept_until_the_broker_accepts_them(start: Start, empty_database: SecretStr) -> None:
    nobody = SecretStr("amqp://127.0.0.1:1")
    async with start(postgres_url=empty_database, rabbitmq_url=nobody) as cut_off:
        device = await (await cut_off.person()).sign_in()
        await device.call("DELETE", "/user/profile", {"current_password": PASSWORD})
        kept = await cut_off.state.accounts.pool.fetch("SELECT event ->> 'type' AS type FROM outbox ORDER BY id")
    assert [row["type"] for row in kept] == ["user.registered", "user.deleted"]


async def test_each_account_change_publishes_one_event(api: Api) -> None:
    connection = await aio_pika.connect(reveal(api.settings.rabbitmq_url))
    async with connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("auth", aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(f"auth.test.{new_id()}", exclusive=True, auto_delete=True)
        await queue.bind(exchange, "user.*")
        person = await api.person()
        device = await person.sign_in()
        await device.call("PATCH", "/user/profile", {"bio": "not part of any event"})
        await device.call("PATCH", "/user/profile", {"display_name": "Hopper"})
        await device.call("DELETE", "/user/profile", {"current_password": PASSWORD})
        seen = []
        async with asyncio.timeout(20), queue.iterator() as messages:
            async for message in messages:
                await message.ack()
                event = json.loads(message.body)
                if event["subject"] == str(person.id):
                    seen.append((event["type"], event["data"].get("display_name")))
                if event["subject"] == str(person.id) and event["type"] == "user.deleted":
                    break
    assert seen == [("user.registered", person.username), ("user.updated", "Hopper"), ("user.deleted", None)]
