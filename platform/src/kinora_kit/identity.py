"""The caller's identity, from the headers that the gateway sets or from an access token.

Tokens follow RFC 9068 (``typ: at+jwt``) and RFC 8725: one algorithm (Ed25519), issuer and audience checked, expiry
required. A token whose session was revoked is rejected although its signature is valid.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol
from urllib.parse import urljoin
from uuid import UUID

import httpx
import jwt
from fastapi import Depends, Request
from redis.asyncio import Redis

from kinora_kit import http, logs, tasks
from kinora_kit.errors import InvalidToken, NotSignedIn, Unavailable
from kinora_kit.recent import Recent
from kinora_kit.revocations import HasEnded, Revocations

log = logs.get(__name__)

USER_ID = "X-User-Id"
SESSION_ID = "X-Session-Id"
ROLES = "X-User-Roles"

ALGORITHM = "EdDSA"
AUDIENCE = "kinora"
TOKEN_TYPE = "at+jwt"  # noqa: S105 - the media type of RFC 9068


LEEWAY_SECONDS = 5.0
"""Tolerated clock skew: tokens are valid this much earlier and later than stated."""

RETRY_SECONDS = 1.0
"""How soon the key set is fetched again while there is none."""
REMEMBERED_TOKENS = 10_000


@dataclass(frozen=True)
class Caller:
    user_id: UUID
    session_id: UUID | None = None
    roles: frozenset[str] = frozenset()

    def headers(self) -> dict[str, str]:
        """The identity headers of ForwardAuth's response."""
        found = {USER_ID: str(self.user_id), ROLES: ",".join(sorted(self.roles))}
        if self.session_id:
            found[SESSION_ID] = str(self.session_id)
        return found


def caller_from_headers(headers: Mapping[str, str]) -> Caller | None:
    """The caller according to the gateway's headers, ``None`` if anonymous.

    Only the gateway can set them: it removes those that a client sends.
    """
    user_id = headers.get(USER_ID)
    if not user_id:
        return None
    try:
        session_id = headers.get(SESSION_ID)
        return Caller(
            user_id=UUID(user_id),
            session_id=UUID(session_id) if session_id else None,
            roles=frozenset(filter(None, headers.get(ROLES, "").split(","))),
        )
    except ValueError:
        raise NotSignedIn("The identity headers are malformed") from None


async def _optional(request: Request) -> Caller | None:
    return caller_from_headers(request.headers)


async def _required(request: Request) -> Caller:
    caller = caller_from_headers(request.headers)
    if caller is None:
        raise NotSignedIn
    return caller


OptionalCaller = Annotated[Caller | None, Depends(_optional)]
SignedIn = Annotated[Caller, Depends(_required)]


def bearer(headers: Mapping[str, str]) -> str | None:
    """The token of ``Authorization: Bearer``, ``None`` if the header is absent or empty.

    Clients written after Apollo's documentation send an empty one when nobody is signed in. Raises InvalidToken for an
    Authorization header of another form.
    """
    value = headers.get("authorization", "").strip()
    if not value:
        return None
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidToken("Send the access token as: Authorization: Bearer <token>")
    return token.strip()


async def _required_token(request: Request) -> str:
    token = bearer(request.headers)
    if token is None:
        raise NotSignedIn
    return token


RequiredToken = Annotated[str, Depends(_required_token)]
"""The unverified access token: for a response that must end when the token expires."""


class KeySource(Protocol):
    async def public_key(self, kid: str) -> Any | None:
        """The verification key with that id, ``None`` if it is not (or no longer) in the set."""


class RemoteKeys:
    """The key set that auth publishes, fetched on demand and cached.

    An unknown kid causes a new fetch, at most once every ``cooldown_seconds``, so that forged kids cannot be used to
    overload auth. The same limit applies while auth does not answer.
    """

    def __init__(self, url: str, *, lifetime_seconds: float = 300, cooldown_seconds: float = 5) -> None:
        self._url = url
        self._lifetime = lifetime_seconds
        self._cooldown = cooldown_seconds
        self._keys: dict[str, Any] = {}
        self._fetched = self._tried = float("-inf")
        self._fetching = asyncio.Lock()

    async def public_key(self, kid: str) -> Any | None:
        # Callers whose key is cached do not wait for another caller's fetch.
        if self._wants(kid) and not (kid in self._keys and self._fetching.locked()):
            async with self._fetching:
                if self._wants(kid):  # another caller may have fetched it meanwhile
                    await self._fetch()
        if not self._keys:
            raise Unavailable("The key set of the auth service is unavailable")
        return self._keys.get(kid)

    def _wants(self, kid: str) -> bool:
        now = time.monotonic()
        if not self._keys:
            return now - self._tried > RETRY_SECONDS
        stale = now - self._fetched > self._lifetime
        return (stale or kid not in self._keys) and now - self._tried > self._cooldown

    async def _fetch(self) -> None:
        try:
            async with http.connect(timeout_seconds=3) as client:
                answer = await client.get(self._url)
                answer.raise_for_status()
                keys = jwt.PyJWKSet.from_dict(answer.json())
        except (httpx.HTTPError, jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
            # While auth is unavailable, a stale set is better than none.
            log.warning("the key set could not be fetched", error=repr(error))
            return
        finally:
            self._tried = time.monotonic()
        self._keys = {key.key_id: key.key for key in keys.keys if key.key_id}
        self._fetched = time.monotonic()


@contextlib.asynccontextmanager
async def ask_auth(jwks_url: str) -> AsyncIterator[HasEnded]:
    """Asks the auth service that publishes ``jwks_url``."""
    url = urljoin(jwks_url, "/user/token_verify")
    async with httpx.AsyncClient(timeout=2, trust_env=False, limits=httpx.Limits(max_connections=32)) as client:

        async def has_ended(_: UUID, token: str) -> bool:
            answer = await client.get(url, headers={"Authorization": f"Bearer {token}"})
            if answer.status_code not in (200, 401):
                raise Unavailable("Cannot determine whether the session has ended")
            return answer.status_code == 401

        yield has_ended


@dataclass(frozen=True)
class _Verified:
    caller: Caller
    session_id: UUID
    expires: float
    kid: str
    key: Any


class TokenVerifier:
    """Verifies the signature of each token once. Whether its session has ended is checked each time."""

    def __init__(self, *, keys: KeySource, issuer: str, revocations: Redis, otherwise: HasEnded | None = None) -> None:
        self._keys = keys
        self._issuer = issuer
        self.revocations = Revocations(revocations, otherwise)
        self._verified: Recent[str, _Verified] = Recent(REMEMBERED_TOKENS)

    async def verify(self, token: str) -> Caller:
        """The caller to whom the token was issued.

        Raises InvalidToken unless it is a valid token of a live session, Unavailable if that cannot be determined.
        """
        caller, _ = await self.verify_with_expiry(token)
        return caller

    async def until_ended(self, token: str, *, check_seconds: float) -> None:
        """Return when the token has expired, or soon after its session ends. For long-lived connections.

        At once if ``revocations.follow`` runs, and after ``check_seconds`` otherwise. While that cannot be determined,
        the session is assumed to be live until the token expires.
        """
        expiry = float("inf")
        while time.time() < expiry:
            news = self.revocations.next()  # before verifying, so that none is missed
            try:
                _, expiry = await self.verify_with_expiry(token)
            except InvalidToken:
                return
            except Exception as error:
                log.warning("cannot determine whether the session has ended", error=repr(error))
            tasks.raise_if_cancelled()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(check_seconds, max(expiry - time.time(), 0))):
                    await news.wait()

    async def verify_with_expiry(self, token: str) -> tuple[Caller, float]:
        """Like verify, plus the Unix time from which the token is rejected."""
        known = self._verified.get(token)
        if known is None or await self._keys.public_key(known.kid) != known.key:  # the key may have been withdrawn
            known = await self._decode(token)
            self._verified.put(token, known)
        if time.time() >= known.expires:
            raise InvalidToken("The access token has expired")
        if await self.revocations.has_ended(known.session_id, token):
            raise InvalidToken("The session has ended")
        return known.caller, known.expires

    async def _decode(self, token: str) -> _Verified:
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") != ALGORITHM or str(header.get("typ", "")).lower() != TOKEN_TYPE:
                raise InvalidToken
            kid = str(header.get("kid", ""))
            key = await self._keys.public_key(kid)
            if key is None:
                raise InvalidToken("The access token was not signed by a current key")
            claims = jwt.decode(
                token,
                key=key,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=AUDIENCE,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "sub", "sid"]},
            )
            session_id = UUID(claims["sid"])
            caller = Caller(UUID(claims["sub"]), session_id, frozenset(claims.get("roles", ())))
        except jwt.ExpiredSignatureError:
            raise InvalidToken("The access token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            raise InvalidToken from None
        return _Verified(caller, session_id, float(claims["exp"]) + LEEWAY_SECONDS, kid, key)
