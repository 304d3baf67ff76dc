import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from redis.asyncio import Redis
from starlette.datastructures import Headers

from kinora_kit import identity, redis, revocations
from kinora_kit.errors import InvalidToken, NotSignedIn, Unavailable
from kinora_kit.identity import LEEWAY_SECONDS, Caller, RemoteKeys, TokenVerifier
from kinora_kit.testing import eventually, free_port, proxy

ISSUER = "https://kit.test"
KEY = Ed25519PrivateKey.generate()
RAW_PUBLIC = KEY.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
PEM_PUBLIC = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class Keys:
    async def public_key(self, kid: str) -> Any | None:
        return KEY.public_key() if kid == "one" else None


@pytest.fixture
def verifier(client: Redis) -> TokenVerifier:
    return TokenVerifier(keys=Keys(), issuer=ISSUER, revocations=client)


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    good = {"iss": ISSUER, "aud": "kinora", "sub": str(uuid4()), "sid": str(uuid4()), "iat": now, "exp": now + 60}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(payload: dict[str, Any], key: Ed25519PrivateKey = KEY, **header: Any) -> str:
    headers = {name: value for name, value in {"kid": "one", "typ": "at+jwt", **header}.items() if value != "absent"}
    return jwt.encode(payload, key, algorithm="EdDSA", headers=headers)


def _part(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


def by_hand(alg: str, payload: dict[str, Any], secret: bytes | None) -> str:
    """A token built manually, because libraries refuse to build it."""
    header = {"alg": alg, "kid": "one", "typ": "at+jwt"}
    text = _part(json.dumps(header).encode()) + b"." + _part(json.dumps(payload).encode())
    signature = hmac.new(secret, text, hashlib.sha256).digest() if secret else b""
    return (text + b"." + _part(signature)).decode()


async def test_valid_token_identifies_the_caller(verifier: TokenVerifier) -> None:
    payload = claims(roles=["admin"])
    caller, expires = await verifier.verify_with_expiry(signed(payload))
    assert caller == Caller(UUID(payload["sub"]), UUID(payload["sid"]), frozenset({"admin"}))
    assert expires == payload["exp"] + LEEWAY_SECONDS
    assert await verifier.verify(signed(payload)) == caller


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        by_hand("none", claims(), None),
        by_hand("NONE", claims(), None),
        by_hand("HS256", claims(), RAW_PUBLIC),
        by_hand("HS256", claims(), PEM_PUBLIC),
        by_hand("EdDSA", claims(), RAW_PUBLIC),
        signed(claims(), Ed25519PrivateKey.generate()),
        signed(claims(), typ="JWT"),
        signed(claims(), typ=""),
        signed(claims(), kid="two"),
        signed(claims(), kid="absent"),
        signed(claims(aud="another")),
        signed(claims(aud=None)),
        signed(claims(iss="https://evil.test")),
        signed(claims(iss=None)),
        signed(claims(exp=None)),
        signed(claims(exp=1)),
        signed(claims(iat=None)),
        signed(claims(sub=None)),
        signed(claims(sub="root")),
        signed(claims(sid=None)),
        signed(claims(sid="1")),
        signed(claims(nbf=int(time.time()) + 600)),
        signed(claims(roles=7)),
        signed(claims())[:-4] + "AAAA",
    ],
    ids=[
        "empty", "nonsense", "alg none", "alg NONE", "HS256 with the public key", "HS256 with the PEM",
        "EdDSA by HMAC", "another's key", "typ of an id token", "no typ", "unknown kid", "no kid", "aud", "no aud",
        "iss", "no iss", "no exp", "expired", "no iat", "no sub", "sub no uuid", "no sid", "sid no uuid",
        "not yet valid", "roles no list", "signature cut",
    ],
)  # fmt: skip
async def test_invalid_token_is_rejected(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(InvalidToken):
        await verifier.verify(token)


@pytest.mark.parametrize(
    ("claim", "seconds_from_now"),
    [("iat", LEEWAY_SECONDS - 2), ("nbf", LEEWAY_SECONDS - 2), ("exp", 2 - LEEWAY_SECONDS)],
)
async def test_verify_tolerates_clock_skew_within_leeway(
    verifier: TokenVerifier, claim: str, seconds_from_now: float
) -> None:
    await verifier.verify(signed(claims(**{claim: int(time.time() + seconds_from_now)})))


@pytest.mark.parametrize(
    ("claim", "seconds_from_now"),
    [("iat", LEEWAY_SECONDS + 10), ("nbf", LEEWAY_SECONDS + 10), ("exp", -1 - LEEWAY_SECONDS)],
)
async def test_verify_rejects_clock_skew_beyond_leeway(
    verifier: TokenVerifier, claim: str, seconds_from_now: float
) -> None:
    with pytest.raises(InvalidToken):
        await verifier.verify(signed(claims(**{claim: int(time.time() + seconds_from_now)})))


async def test_token_of_ended_session_is_rejected(verifier: TokenVerifier, client: Redis) -> None:
    payload = claims()
    await verifier.verify(signed(payload))
    await revocations.announce(client, {UUID(payload["sid"]): 60})
    with pytest.raises(InvalidToken, match="session has ended"):
        await verifier.verify(signed(payload))


async def test_verify_fails_closed_without_revocations() -> None:
    async with redis.connect(f"redis://127.0.0.1:{free_port()}/0", name="kit-test") as away:
        with pytest.raises(Unavailable):
            await TokenVerifier(keys=Keys(), issuer=ISSUER, revocations=away).verify(signed(claims()))


async def test_verify_falls_back_while_redis_is_down_and_retries_redis(
    client: Redis, kit: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: set[UUID] = set()
    asked: list[str] = []

    async def otherwise(session_id: UUID, token: str) -> bool:
        asked.append(token)
        return session_id in ended

    living, payload = signed(claims()), claims()
    ended.add(UUID(payload["sid"]))
    async with (
        proxy(kit["REDIS_URL"]) as link,
        redis.connect(link.url, name="kit-test") as behind_cable,
    ):
        verifier = TokenVerifier(keys=Keys(), issuer=ISSUER, revocations=behind_cable, otherwise=otherwise)
        await verifier.verify(living)
        assert asked == [], "Redis answers"
        link.stall()
        with pytest.raises(InvalidToken, match="session has ended"):
            await verifier.verify(signed(payload))
        attempts = link.accepted
        for _ in range(5):
            await verifier.verify(living)
            with pytest.raises(InvalidToken, match="session has ended"):
                await verifier.verify(signed(payload))
        assert len(asked) == 11
        assert link.accepted == attempts, "an unresponsive Redis delays only one request per second"
        await link.cut()
        monkeypatch.setattr(revocations, "RETRY_SECONDS", 0.0)
        await verifier.verify(living)
        await link.restore()
        await revocations.announce(client, {UUID(payload["sid"]): 60})
        ended.clear()

        async def redis_decides() -> bool:
            try:
                await verifier.verify(signed(payload))
            except InvalidToken:
                return True
            return False

        await eventually(redis_decides)


@pytest.mark.parametrize("turns", range(12))
async def test_until_ended_can_be_cancelled_at_any_moment(verifier: TokenVerifier, turns: int) -> None:
    """``turns`` of the event loop after its start."""
    watching = asyncio.create_task(verifier.until_ended(signed(claims()), check_seconds=0))
    for _ in range(turns):
        await asyncio.sleep(0)
    watching.cancel()
    await asyncio.wait({watching}, timeout=5)
    ended = watching.cancelled()
    watching.cancel()
    assert ended


@pytest.mark.parametrize(("status", "ended"), [(200, False), (401, True), (503, None), (500, None)])
async def test_ask_auth_maps_status_to_ended(status: int, ended: bool | None) -> None:
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(f"HTTP/1.1 {status} Said\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with identity.ask_auth(f"http://127.0.0.1:{port}/auth/.well-known/jwks.json") as has_ended:
            if ended is None:
                with pytest.raises(Unavailable):
                    await has_ended(uuid4(), "a.b.c")
            else:
                assert await has_ended(uuid4(), "a.b.c") == ended
    assert requests[0].startswith(b"GET /user/token_verify ")
    assert b"authorization: bearer a.b.c" in requests[0].lower()


class KeyServer:
    """A fake auth service that publishes ``kids`` and counts requests."""

    def __init__(self) -> None:
        self.kids = ["one"]
        self.fetches = 0
        self.status = 200
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.fetches += 1
        key: dict[str, Any] = OKPAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
        body = json.dumps({"keys": [{**key, "kid": kid, "alg": "EdDSA", "use": "sig"} for kid in self.kids]}).encode()
        head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    keys = KeyServer()
    async with await asyncio.start_server(keys.answer, "127.0.0.1", 0) as listening:
        keys.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/jwks.json"
        yield keys


async def test_key_set_is_fetched_once_for_concurrent_callers(server: KeyServer) -> None:
    keys = RemoteKeys(server.url)
    found = await asyncio.gather(*(keys.public_key("one") for _ in range(20)))
    assert all(key == KEY.public_key() for key in found)
    assert server.fetches == 1


async def test_forged_kids_do_not_overload_auth(server: KeyServer) -> None:
    keys = RemoteKeys(server.url, cooldown_seconds=60)
    for n in range(20):
        assert await keys.public_key(f"forged {n}") is None
    assert server.fetches == 1


async def test_new_key_is_found_after_cooldown(server: KeyServer) -> None:
    keys = RemoteKeys(server.url, cooldown_seconds=0)
    assert await keys.public_key("two") is None
    server.kids = ["one", "two"]
    assert await keys.public_key("two") == KEY.public_key()
    assert await keys.public_key("one") == KEY.public_key()
    assert server.fetches == 2


async def test_withdrawn_key_is_dropped_when_key_set_expires(server: KeyServer) -> None:
    keys = RemoteKeys(server.url, lifetime_seconds=0, cooldown_seconds=0)
    assert await keys.public_key("one") is not None
    server.kids = ["two"]
    assert await keys.public_key("one") is None


async def test_stale_key_set_is_used_while_auth_is_down(server: KeyServer) -> None:
    keys = RemoteKeys(server.url, lifetime_seconds=0, cooldown_seconds=0)
    assert await keys.public_key("one") is not None
    keys._cooldown = 60
    server.status = 503
    for n in range(10):
        assert await keys.public_key("one") is not None
        assert await keys.public_key(f"forged {n}") is None
    assert server.fetches == 1
    keys._cooldown = 0
    assert await keys.public_key("one") is not None
    assert server.fetches == 2


async def test_verify_is_unavailable_without_any_key_set(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = RemoteKeys(server.url)
    server.status = 503
    for _ in range(5):
        with pytest.raises(Unavailable):
            await keys.public_key("one")
    assert server.fetches == 1
    server.status = 200
    monkeypatch.setattr(identity, "RETRY_SECONDS", 0.0)
    assert await keys.public_key("one") is not None


@pytest.mark.parametrize("body", ["[]", "{}", '{"keys": []}', '{"keys": 7}', '{"keys": [7]}', "<html>"])
async def test_malformed_key_set_is_rejected(body: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable):
            await RemoteKeys(f"http://127.0.0.1:{port}/").public_key("one")


def test_identity_headers_round_trip() -> None:
    caller = Caller(uuid4(), uuid4(), frozenset({"admin", "editor"}))
    assert identity.caller_from_headers(Headers(caller.headers())) == caller
    anonymous_session = Caller(uuid4())
    assert identity.caller_from_headers(Headers(anonymous_session.headers())) == anonymous_session
    assert identity.caller_from_headers(Headers()) is None


@pytest.mark.parametrize("headers", [{"X-User-Id": "1"}, {"X-User-Id": str(uuid4()), "X-Session-Id": "x"}])
def test_malformed_identity_headers_are_rejected(headers: dict[str, str]) -> None:
    with pytest.raises(NotSignedIn):
        identity.caller_from_headers(Headers(headers))


def test_bearer_rejects_other_authorization_schemes() -> None:
    for absent in (Headers(), Headers({"Authorization": ""}), Headers({"Authorization": " "})):
        assert identity.bearer(absent) is None
    assert identity.bearer(Headers({"Authorization": "bearer  a.b.c "})) == "a.b.c"
    for value in ("Bearer", "Bearer ", "Basic YTpi", "a.b.c"):
        with pytest.raises(InvalidToken):
            identity.bearer(Headers({"Authorization": value}))
