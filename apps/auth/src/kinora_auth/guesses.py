"""Throttles for password guessing. See docs/adr/0015-guessing.md."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, Self

from limits.aio.storage import RedisStorage
from prometheus_client import Counter

from kinora_auth.domain import Client
from kinora_auth.settings import AuthSettings
from kinora_kit.errors import TooManyRequests
from kinora_kit.throttle import Throttle

GUESSES_REFUSED = Counter(
    "kinora_auth_guesses_refused_total",
    "Password checks rejected by a throttle: per session, per address, per /24 or /48 (neighbourhood), per address and"
    " account (pair), or, for an account under attack, per /24 or /48 (stranger)",
    ["throttle"],
)


class Guess(Protocol):
    """One password check."""

    @property
    def queue_keys(self) -> tuple[str, str]:
        """The client, and the wider group that it belongs to, for the hashing queue."""

    async def allow(self) -> None:
        """Raises TooManyRequests if a throttle rejects it."""

    async def count(self) -> None:
        """Record a wrong password."""


@dataclass(frozen=True)
class Guesses:
    sessions: Throttle
    pairs: Throttle
    addresses: Throttle
    neighbourhoods: Throttle
    accounts: Throttle
    strangers: Throttle

    @classmethod
    def of(cls, settings: AuthSettings, counters: RedisStorage) -> Self:
        return cls(
            sessions=Throttle(counters, name="session_failures", limit=settings.session_failures),
            pairs=Throttle(counters, name="pair_failures", limit=settings.pair_failures),
            addresses=Throttle(counters, name="address_failures", limit=settings.address_failures),
            neighbourhoods=Throttle(counters, name="neighbourhood_failures", limit=settings.neighbourhood_failures),
            accounts=Throttle(counters, name="account_failures", limit=settings.account_failures),
            strangers=Throttle(counters, name="stranger_failures", limit=settings.stranger_failures),
        )

    def in_session(self, session: str, *, user: str) -> Guess:
        """By a signed-in user: only failures in this session count."""
        return _InSession(self, session, user)

    def at_login(self, account: str, client: Client, *, is_known: Callable[[], Awaitable[bool]]) -> Guess:
        """``account``: a login, which need not exist. ``is_known``: whether a live session of it was last used from
        that network."""
        return _AtLogin(self, account, client, is_known)


@dataclass(frozen=True)
class _InSession:
    limits: Guesses
    session: str
    user: str

    @property
    def queue_keys(self) -> tuple[str, str]:
        return self.user, self.user

    async def allow(self) -> None:
        await _check(self.limits.sessions, self.session, "session")

    async def count(self) -> None:
        await self.limits.sessions.count(self.session)


@dataclass(frozen=True)
class _AtLogin:
    limits: Guesses
    account: str
    place: Client
    is_known: Callable[[], Awaitable[bool]]

    @property
    def queue_keys(self) -> tuple[str, str]:
        return self.place.network, self.place.neighbourhood

    async def allow(self) -> None:
        await _check(self.limits.addresses, self.place.network, "address")
        await _check(self.limits.neighbourhoods, self.place.neighbourhood, "neighbourhood")
        await _check(self.limits.pairs, self._pair, "pair")
        if await self.limits.accounts.is_full(self.account) and not await self.is_known():
            await _check(self.limits.strangers, self._stranger, "stranger")

    async def count(self) -> None:
        await self.limits.addresses.count(self.place.network)
        await self.limits.neighbourhoods.count(self.place.neighbourhood)
        await self.limits.pairs.count(self._pair)
        if await self.limits.accounts.is_full(self.account):
            await self.limits.strangers.count(self._stranger)
        await self.limits.accounts.count(self.account)

    @property
    def _pair(self) -> str:
        return f"{self.account}@{self.place.network}"

    @property
    def _stranger(self) -> str:
        return f"{self.account}@{self.place.neighbourhood}"


async def _check(throttle: Throttle, key: str, name: str) -> None:
    try:
        await throttle.check(key)
    except TooManyRequests:
        GUESSES_REFUSED.labels(name).inc()
        raise
