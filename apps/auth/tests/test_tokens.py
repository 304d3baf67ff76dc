from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from kinora_auth.keys import Cipher, KeyRing, KeysUnreadable
from kinora_kit import postgres
from kinora_kit.errors import Unavailable
from kinora_kit.ids import new_id
from kinora_kit.settings import reveal
from kinora_kit.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Api, Start

LEAD = timedelta(seconds=600)


def encoded(part: dict[str, Any] | bytes) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def claims(api: Api, **changes: Any) -> dict[str, Any]:
    """The claims of a live session, with changes; None removes a claim."""
    device = await (await api.person()).sign_in()
    known = jwt.decode(device.access_token, options={"verify_signature": False})
    return {name: value for name, value in {**known, **changes}.items() if value is not None}


async def sign(api: Api, content: dict[str, Any], **header: Any) -> str:
    key = await api.state.keys.signing_key()
    return jwt.encode(content, key.private_key, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": key.kid, **header})


async def test_access_token_has_identity_and_expiry(api: Api) -> None:
    person = await api.person()
    device = await person.sign_in()
    assert jwt.get_unverified_header(device.access_token)["typ"] == "at+jwt"
    content = jwt.decode(device.access_token, options={"verify_signature": False})
    required = {"iss", "aud", "sub", "client_id", "jti", "iat", "exp"}  # by RFC 9068
    assert set(content) == required | {"sid", "roles"}
    assert (content["iss"], content["aud"]) == (api.settings.public_url, "kinora")
    assert content["exp"] - content["iat"] == api.settings.access_token_seconds <= 900
    verified = await device.verify()
    assert (verified.status_code, verified.content) == (200, b"")
    assert verified.headers["x-user-id"] == str(person.id) == content["sub"]
    assert verified.headers["x-session-id"] == content["sid"]
    assert verified.headers["x-user-roles"] == ""


async def test_token_verify_returns_roles(api: Api) -> None:
    person = await api.person()
    await api.state.accounts.pool.execute("UPDATE users SET roles = '{editor,admin}' WHERE id = $1", person.id)
    assert (await (await person.sign_in()).verify()).headers["x-user-roles"] == "admin,editor"


@pytest.mark.parametrize("headers", [{}, {"Authorization": ""}])
async def test_anonymous_caller_passes_only_if_optional(api: Api, headers: dict[str, str]) -> None:
    refused = await api.http.get("/user/token_verify", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "not_signed_in")
    assert refused.headers["www-authenticate"] == "Bearer"
    passed = await api.http.get("/user/token_verify?optional=1", headers=headers)
    assert passed.status_code == 200
    assert not {"x-user-id", "x-session-id", "x-user-roles"} & set(passed.headers)


async def forge_none(api: Api) -> str:
    return f"{encoded({'alg': 'none', 'typ': 'at+jwt'})}.{encoded(await claims(api))}."


async def forge_hs256(api: Api, *, pem: bool) -> str:
    """Algorithm confusion: the public key used as a shared secret."""
    key = await api.state.keys.signing_key()
    public = key.private_key.public_key()
    secret = (
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        if pem
        else public.public_bytes_raw()
    )
    signed = f"{encoded({'alg': 'HS256', 'typ': 'at+jwt', 'kid': key.kid})}.{encoded(await claims(api))}"
    return f"{signed}.{encoded(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


async def forge_foreign(api: Api, *, kid: str | None = None) -> str:
    key = await api.state.keys.signing_key()
    headers = {"typ": "at+jwt", "kid": kid or key.kid}
    return jwt.encode(await claims(api), Ed25519PrivateKey.generate(), algorithm="EdDSA", headers=headers)


async def forge_body(api: Api) -> str:
    head, _, signature = (await sign(api, await claims(api))).split(".")
    return f"{head}.{encoded(await claims(api, sub=str(new_id())))}.{signature}"


FORGERIES: dict[str, Callable[[Api], Any]] = {
    "alg none": forge_none,
    "HS256 with the public key": lambda api: forge_hs256(api, pem=False),
    "HS256 with the public key in PEM": lambda api: forge_hs256(api, pem=True),
    "foreign key under our kid": forge_foreign,
    "foreign key under its own kid": lambda api: forge_foreign(api, kid="mine"),
    "another body": forge_body,
}


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("forgery", FORGERIES)
async def test_forged_token_is_rejected(api: Api, forgery: str, optional: bool) -> None:
    answer = await api.verify(await FORGERIES[forgery](api), optional=optional)
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    assert "x-user-id" not in answer.headers


@pytest.mark.parametrize(
    ("changes", "header"),
    [
        ({}, {"typ": "JWT"}),
        ({}, {"kid": ""}),
        ({"aud": "elsewhere"}, {}),
        ({"aud": None}, {}),
        ({"iss": "https://elsewhere.example"}, {}),
        ({"iss": None}, {}),
        ({"exp": int(time.time()) - 60}, {}),
        ({"exp": None}, {}),
        ({"iat": int(time.time()) + 3600}, {}),
        ({"sub": None}, {}),
        ({"sub": "admin"}, {}),
        ({"sid": None}, {}),
        ({"sid": ""}, {}),
        ({"roles": 7}, {}),
    ],
)
async def test_token_with_missing_or_wrong_claim_is_rejected(
    api: Api, changes: dict[str, Any], header: dict[str, Any]
) -> None:
    answer = await api.verify(await sign(api, await claims(api, **changes), **header))
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer x y", "Bearer a.b.c", "\xff"])
async def test_malformed_authorization_header_is_rejected(api: Api, value: str) -> None:
    for query in ("", "?optional=1"):
        answer = await api.http.get(f"/user/token_verify{query}", headers=[(b"Authorization", value.encode("latin-1"))])
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")


async def test_key_set_contains_public_keys_only(api: Api) -> None:
    answer = await api.http.get("/auth/.well-known/jwks.json")
    assert answer.headers["cache-control"] == "public, max-age=300"
    key = await api.state.keys.signing_key()
    known = {each["kid"]: each for each in answer.json()["keys"]}
    assert set(known[key.kid]) == {"kty", "crv", "use", "alg", "kid", "x"}
    token = await sign(api, await claims(api))
    assert jwt.decode(token, jwt.PyJWK(known[key.kid]), algorithms=["EdDSA"], audience="kinora")


async def test_private_keys_are_encrypted_in_the_database(api: Api) -> None:
    key = await api.state.keys.signing_key()
    sealed = await api.state.accounts.pool.fetchval(
        "SELECT encrypted_private_key FROM signing_keys WHERE kid = $1", key.kid
    )
    assert key.private_key.private_bytes_raw() not in sealed
    with pytest.raises(KeysUnreadable, match="KINORA_KEY_ENCRYPTION_SECRET"):
        Cipher("another secret").decrypt(key.kid, sealed)
    cipher = Cipher("a secret")
    with pytest.raises(KeysUnreadable):
        cipher.decrypt("another kid", cipher.encrypt(key.kid, key.private_key))


async def test_replicas_that_start_together_create_one_key(empty_database: SecretStr) -> None:
    async with postgres.connect(reveal(empty_database), name="test", size=20) as pool:
        rings = [KeyRing(pool, Cipher("a secret"), lead=LEAD) for _ in range(20)]
        keys = await asyncio.gather(*(ring.signing_key() for ring in rings))
        assert len({key.kid for key in keys}) == 1


async def test_new_key_is_published_before_it_signs_and_old_tokens_stay_valid(
    start: Start, empty_database: SecretStr
) -> None:
    async with start(postgres_url=empty_database) as api:
        device = await (await api.person()).sign_in()
        ring = api.state.keys
        old = await ring.signing_key()
        following = await ring.rotate()
        assert await ring.rotate() == following  # one next key at a time
        published = {key["kid"] for key in (await api.http.get("/auth/.well-known/jwks.json")).json()["keys"]}
        assert published == {old.kid, following.kid}
        assert (await ring.signing_key()).kid == old.kid

        async def pass_time(seconds: int) -> None:
            await api.state.accounts.pool.execute(
                "UPDATE signing_keys SET signs_from = signs_from - make_interval(secs => $1)", seconds
            )

        await pass_time(601)
        await ring.load()
        renewed = (await device.refresh()).json()["access_token"]
        assert jwt.get_unverified_header(renewed)["kid"] == following.kid
        assert (await api.verify(renewed)).status_code == 200
        assert (await device.verify()).status_code == 200

        await pass_time(1800)
        await ring.rotate(older_than=timedelta(days=1))
        assert [key["kid"] for key in (await ring.key_set())["keys"]] == [following.kid]
        assert (await device.verify()).status_code == 401


async def test_replica_loads_key_created_by_another_replica(start: Start, empty_database: SecretStr) -> None:
    url = empty_database
    async with start(postgres_url=url) as one, start(postgres_url=url, key_lead_seconds=0) as other:
        await one.person()
        await one.state.keys.signing_key()
        await other.state.keys.rotate()
        device = await (await other.person()).sign_in()
        assert jwt.get_unverified_header(device.access_token)["kid"] != (await one.state.keys.signing_key()).kid

        async def known() -> bool:  # after the cooldown between lookups of unknown kids
            return (await one.verify(device.access_token)).status_code == 200

        await eventually(known, seconds=60)


async def test_forged_kids_do_not_cause_a_query_each(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def counted() -> None:
        nonlocal looks
        looks += 1
        await look()

    ring = api.state.keys
    look = ring._load
    monkeypatch.setattr(ring, "_load", counted)
    begun = time.monotonic()
    assert [await ring.public_key(f"kid {number}") for number in range(50)] == [None] * 50
    assert looks <= 1 + (time.monotonic() - begun)


async def test_forged_kids_do_not_wait_for_a_database_that_is_away_one_after_another() -> None:
    waited = 0

    class Away:
        async def fetch(self, *_: object) -> None:
            nonlocal waited
            waited += 1
            raise TimeoutError

    ring = KeyRing(Away(), Cipher("a secret"), lead=LEAD)
    begun = time.monotonic()
    answers = await asyncio.gather(*(ring.public_key(f"kid {n}") for n in range(50)), return_exceptions=True)
    assert waited <= 1 + (time.monotonic() - begun)
    # Whether a key exists is unknown, so nobody's token is rejected as invalid.
    assert {type(answer) for answer in answers} <= {TimeoutError, Unavailable}


async def test_keys_rotate_command_publishes_the_next_key(
    empty_database: SecretStr, environment: Callable[[str], dict[str, str]]
) -> None:
    command = [sys.executable, "-m", "kinora_auth.keys", "rotate"]
    variables = {**environment("auth"), "KINORA_POSTGRES_URL": reveal(empty_database)}
    first, second = [
        await asyncio.to_thread(subprocess.run, command, env=variables, check=True, capture_output=True, text=True)
        for _ in range(2)
    ]
    said = first.stdout.splitlines()[-1]
    assert said == second.stdout.splitlines()[-1]
    assert "signs from" in said
    connection = await asyncpg.connect(reveal(empty_database))
    try:
        assert await connection.fetchval("SELECT count(*) FROM signing_keys WHERE signs_from > now()") == 1
    finally:
        await connection.close()
