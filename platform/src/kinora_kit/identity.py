"""Who is calling: from the headers that the gateway set, or from an access token.

Tokens follow RFC 9068 (``typ: at+jwt``) and RFC 8725: one algorithm (Ed25519), issuer and audience checked, expiry
required. A token whose session was revoked is refused although its signature still holds.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol
from urllib.parse import urljoin
from uuid import UUID

import httpx
import jwt
from fastapi import Depends, Request
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kinora_kit import http, logs
from kinora_kit.errors import InvalidToken, NotSignedIn, Unavailable

log = logs.get(__name__)

USER_ID = "X-User-Id"
SESSION_ID = "X-Session-Id"
ROLES = "X-User-Roles"

ALGORITHM = "EdDSA"
AUDIENCE = "kinora"
TOKEN_TYPE = "at+jwt"  # noqa: S105 - the media type of RFC 9068


LEEWAY_SECONDS = 5.0
"""By how much the clocks of two machines may differ: tokens are valid this much earlier and later than they say."""

RETRY_SECONDS = 1.0
"""How soon a key set is asked for again while there is none at all, and Redis after it did not answer."""
REDIS_SECONDS = 1.0
"""How long Redis may take to say whether a session has ended."""


@dataclass(frozen=True)
class Caller:
    user_id: UUID
    session_id: UUID | None = None
    roles: frozenset[str] = frozenset()

    def headers(self) -> dict[str, str]:
        """The identity headers that ForwardAuth answers with."""
        found = {USER_ID: str(self.user_id), ROLES: ",".join(sorted(self.roles))}
        if self.session_id:
            found[SESSION_ID] = str(self.session_id)
        return found


def caller_from_headers(headers: Mapping[str, str]) -> Caller | None:
    """The caller named by the gateway's headers, ``None`` for an anonymous one.

    Only the gateway can set them: it removes what a client sent.
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


def _optional(request: Request) -> Caller | None:
    return caller_from_headers(request.headers)


def _required(request: Request) -> Caller:
    caller = caller_from_headers(request.headers)
    if caller is None:
        raise NotSignedIn
    return caller


OptionalCaller = Annotated[Caller | None, Depends(_optional)]
SignedIn = Annotated[Caller, Depends(_required)]


def bearer(headers: Mapping[str, str]) -> str | None:
    """The token of ``Authorization: Bearer``, ``None`` when the header is absent.

    Raises InvalidToken when there is an Authorization header of another form.
    """
    value = headers.get("authorization")
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidToken("Send the access token as: Authorization: Bearer <token>")
    return token.strip()


def _required_token(request: Request) -> str:
    token = bearer(request.headers)
    if token is None:
        raise NotSignedIn
    return token


RequiredToken = Annotated[str, Depends(_required_token)]
"""The access token itself, not yet verified: for a response that must end when the token does."""


class KeySource(Protocol):
    async def public_key(self, kid: str) -> Any | None:
        """The verification key of that id, ``None`` when it is not (or no longer) in the set."""


class RemoteKeys:
    """The key set that auth publishes, fetched on demand and kept.

    A kid that is not in it causes a new fetch, at most once every ``cooldown_seconds``, so that forged kids cannot be
    used to load auth. The same holds for an auth that does not answer.
    """

    def __init__(self, url: str, *, lifetime_seconds: float = 300, cooldown_seconds: float = 5) -> None:
        self._url = url
        self._lifetime = lifetime_seconds
        self._cooldown = cooldown_seconds
        self._keys: dict[str, Any] = {}
        self._fetched = self._tried = float("-inf")
        self._fetching = asyncio.Lock()

    async def public_key(self, kid: str) -> Any | None:
        # While one caller fetches, those whose key is known need not wait for it.
        if self._wants(kid) and not (kid in self._keys and self._fetching.locked()):
            async with self._fetching:
                if self._wants(kid):  # it may have come while another fetched
                    await self._fetch()
        if not self._keys:
            raise Unavailable("The key set of the auth service is not reachable")
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
            # An old set is better than none while auth is away.
            log.warning("the key set could not be fetched", error=repr(error))
            return
        finally:
            self._tried = time.monotonic()
        self._keys = {key.key_id: key.key for key in keys.keys if key.key_id}
        self._fetched = time.monotonic()


def revocation_key(session_id: UUID) -> str:
    """Where auth notes a revoked session in Redis, until its last access token has expired."""
    return f"auth:revoked:{session_id}"


HasEnded = Callable[[UUID, str], Awaitable[bool]]
"""Whether a session, given by its id and its access token, has ended. Raises an outage when that cannot be known."""


@contextlib.asynccontextmanager
async def ask_auth(jwks_url: str) -> AsyncIterator[HasEnded]:
    """Asks auth itself, which publishes its key set at ``jwks_url``."""
    url = urljoin(jwks_url, "/user/token_verify")
    async with httpx.AsyncClient(timeout=2, trust_env=False, limits=httpx.Limits(max_connections=32)) as client:

        async def has_ended(_: UUID, token: str) -> bool:
            answer = await client.get(url, headers={"Authorization": f"Bearer {token}"})
            if answer.status_code not in (200, 401):
                raise Unavailable("Whether the session has ended cannot be known")
            return answer.status_code == 401

        yield has_ended


class TokenVerifier:
    """``revocations`` is asked whether a session has ended, and while it does not answer, ``otherwise``.

    Both know it exactly: an answer of a moment ago would let a session pass that has ended since.
    """

    def __init__(self, *, keys: KeySource, issuer: str, revocations: Redis, otherwise: HasEnded | None = None) -> None:
        self._keys = keys
        self._issuer = issuer
        self._revocations = revocations
        self._otherwise = otherwise
        self._away_until = float("-inf")

    async def verify(self, token: str) -> Caller:
        """The caller that the token was issued to.

        Raises InvalidToken for anything but a valid token of a living session, Unavailable when that cannot be known.
        """
        caller, _ = await self.verify_with_expiry(token)
        return caller

    async def until_ended(self, token: str, *, check_seconds: float) -> None:
        """Return when the token has expired, or soon after its session was ended. For connections that stay.

        While that cannot be known, the session is taken to live on, as long as the token does.
        """
        expiry = float("inf")
        while time.time() < expiry:
            try:
                _, expiry = await self.verify_with_expiry(token)
            except InvalidToken:
                return
            except Exception as error:
                log.warning("cannot tell whether the session lives", error=repr(error))
            await asyncio.sleep(min(check_seconds, max(expiry - time.time(), 0)))

    async def verify_with_expiry(self, token: str) -> tuple[Caller, float]:
        """As verify, with the Unix time from which the token is refused."""
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") != ALGORITHM or str(header.get("typ", "")).lower() != TOKEN_TYPE:
                raise InvalidToken
            key = await self._keys.public_key(str(header.get("kid", "")))
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
            caller = Caller(
                user_id=UUID(claims["sub"]),
                session_id=UUID(claims["sid"]),
                roles=frozenset(claims.get("roles", ())),
            )
        except jwt.ExpiredSignatureError:
            raise InvalidToken("The access token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            raise InvalidToken from None
        if await self._has_ended(UUID(claims["sid"]), token):
            raise InvalidToken("The session has ended")
        return caller, float(claims["exp"]) + LEEWAY_SECONDS

    async def _has_ended(self, session_id: UUID, token: str) -> bool:
        # While Redis is away it is asked once a second, so that not every request waits for it.
        if self._otherwise is None or time.monotonic() >= self._away_until:
            try:
                # Its own timeouts are longer, and hold where nobody else can be asked.
                async with asyncio.timeout(None if self._otherwise is None else REDIS_SECONDS):
                    return bool(await self._revocations.exists(revocation_key(session_id)))
            except (RedisError, OSError, TimeoutError) as error:
                if self._otherwise is None:
                    raise Unavailable("Whether the session has ended cannot be known") from error
                self._away_until = time.monotonic() + RETRY_SECONDS
        return await self._otherwise(session_id, token)
