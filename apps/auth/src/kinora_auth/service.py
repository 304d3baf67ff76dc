"""The use cases, called by REST and gRPC. Nothing else changes an account, a session or a token."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prometheus_client import Counter
from pydantic import SecretStr
from redis.asyncio import Redis

from kinora.events.auth import EXCHANGE, UserDeleted, UserRegistered, UserUpdated
from kinora_auth import store, tokens
from kinora_auth.belongings import Belongings
from kinora_auth.domain import (
    SESSION_LIMIT,
    Client,
    Credentials,
    PasswordChange,
    ProfileChange,
    RefreshKind,
    RefreshToken,
    Registration,
    Session,
    SignIn,
    User,
    classify_refresh,
)
from kinora_auth.errors import (
    EmailTaken,
    InvalidCredentials,
    InvalidRefreshToken,
    RefreshTokenReused,
    SessionNotFound,
    UsernameTaken,
    UserNotFound,
    WrongPassword,
)
from kinora_auth.guesses import Guess, Guesses
from kinora_auth.keys import KeyRing
from kinora_auth.passwords import Passwords
from kinora_auth.settings import MAX_ACCESS_TOKEN_SECONDS, AuthSettings
from kinora_auth.text import opaque
from kinora_kit import outbox, postgres, revocations
from kinora_kit.errors import NotSignedIn
from kinora_kit.events import Payload, event
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.postgres import Connection, Pool
from kinora_kit.settings import reveal
from kinora_kit.throttle import Throttle

LOGINS = Counter("kinora_auth_logins_total", "Logins, by outcome (done, refused)", ["outcome"])
REFRESHES = Counter("kinora_auth_refreshes_total", "Refreshes, by kind (rotate, repeat, late, reuse)", ["turn"])
SESSIONS_ENDED = Counter("kinora_auth_sessions_ended_total", "Sessions ended before they expired")

RECENT = timedelta(minutes=1)
REVOKED_SECONDS = MAX_ACCESS_TOKEN_SECONDS + 60.0
"""A minute longer than the lifetime of any access token, for clock skew. Replicas may have other settings."""


@dataclass(frozen=True)
class Tokens:
    user_id: UUID
    access_token: str
    refresh_token: str
    expires_in: int
    """In seconds."""


@dataclass(frozen=True)
class Throttles:
    guesses: Guesses
    registrations: Throttle
    neighbourhood_registrations: Throttle
    renames: Throttle


def _utcnow() -> datetime:
    return datetime.now(UTC)


def _session(caller: Caller) -> str:
    """The throttle key of a signed-in caller. Every access token names a session."""
    if caller.session_id is None:
        raise NotSignedIn
    return str(caller.session_id)


async def _emit(connection: Connection, payload: Payload) -> None:
    await outbox.emit(connection, event("auth", payload), exchange=EXCHANGE)


@dataclass(frozen=True)
class Accounts:
    settings: AuthSettings
    pool: Pool
    redis: Redis
    keys: KeyRing
    passwords: Passwords
    throttles: Throttles
    belongings: Belongings
    now: Callable[[], datetime] = _utcnow

    # --- accounts --------------------------------------------------------------------------------------------------

    async def register(self, wanted: Registration, client: Client) -> User:
        """The new user; also for a retry after a lost response.

        Raises UsernameTaken, EmailTaken, TooManyRequests, TooBusy.
        """
        await self._count_name(client)
        try:
            return await self._add_user(wanted, client)
        except (UsernameTaken, EmailTaken):
            login = wanted.email.lower()
            known = await store.credentials(self.pool, login=login)
            if known is None or not known.user.registered_as(wanted) or not self._is_recent(known.user.created_at):
                raise
            # Treated as a login, so that it reveals no more about a password, and no faster.
            if not await self._password_is_right(known, wanted.password, self._login(known, login, client)):
                raise
            return known.user

    async def _add_user(self, wanted: Registration, client: Client) -> User:
        # Checked first because hashing costs 60 ms of CPU; the unique indexes are authoritative.
        username_taken, email_taken = await store.taken(self.pool, wanted.username, wanted.email)
        if username_taken:
            raise UsernameTaken
        if email_taken:
            raise EmailTaken
        async with self.passwords.slot(client.network, client.neighbourhood):
            password_hash = await self.passwords.hash(reveal(wanted.password))
        user = User(
            id=new_id(),
            username=wanted.username,
            email=wanted.email,
            display_name=wanted.display_name or wanted.username,
            bio="",
            roles=(),
            created_at=self.now(),
        )
        async with postgres.transaction(self.pool) as connection:
            await store.add_user(connection, user, password_hash=password_hash)
            await _emit(
                connection, UserRegistered(user_id=user.id, username=user.username, display_name=user.display_name)
            )
        return user

    async def users(self, ids: Sequence[UUID]) -> list[User]:
        """Those that exist, ordered by id."""
        return await store.users(self.pool, ids)

    async def users_named(self, usernames: Sequence[str]) -> list[User]:
        """Those that exist, regardless of case, ordered by id."""
        return await store.users_named(self.pool, [username.lower() for username in usernames])

    async def user_named(self, username: str) -> User:
        found = await self.users_named([username])
        if not found:
            raise UserNotFound
        return found[0]

    async def user(self, user_id: UUID) -> User:
        found = await store.users(self.pool, [user_id])
        if not found:
            raise UserNotFound
        return found[0]

    async def change_profile(self, caller: Caller, change: ProfileChange, client: Client) -> User:
        """Raises WrongPassword (a new email address needs the password), UsernameTaken, EmailTaken, UserNotFound,
        TooManyRequests."""
        if change.email is not None:
            await self._confirm(caller, change.current_password)
        if change.email is not None or change.username is not None:
            # As for registration, the response reveals whether a name is taken, so attempts are throttled.
            await self.throttles.renames.hit(str(caller.user_id))
            await self._count_name(client)
        async with postgres.transaction(self.pool) as connection:
            user = await store.change_user(
                connection,
                caller.user_id,
                username=change.username,
                email=change.email,
                display_name=change.display_name,
                bio=change.bio,
            )
            if user is None:
                raise UserNotFound
            if change.username is not None or change.display_name is not None:
                await _emit(
                    connection, UserUpdated(user_id=user.id, username=user.username, display_name=user.display_name)
                )
        return user

    async def change_password(self, caller: Caller, change: PasswordChange) -> None:
        """Ends every other session. Does nothing for a retry after a lost response.

        Raises WrongPassword, UserNotFound.
        """
        try:
            await self._set_password(caller, change)
        except WrongPassword:
            known = await store.credentials(self.pool, user_id=caller.user_id)
            if known is None or not self._is_recent(known.password_changed_at):
                raise
            await self._confirm(caller, change.new_password)
            # The first attempt may have died before it announced the ended sessions.
            await self.restore_revocations()
            await revocations.settle()

    async def _set_password(self, caller: Caller, change: PasswordChange) -> None:
        before = await self._confirm(caller, change.current_password)
        async with self.passwords.slot(str(caller.user_id), str(caller.user_id)):
            password_hash = await self.passwords.hash(reveal(change.new_password))
        now = self.now()
        async with postgres.transaction(self.pool) as connection:
            changed = await store.set_password(
                connection, caller.user_id, before=before.password_changed_at, now=now, password_hash=password_hash
            )
            if not changed:
                raise WrongPassword("The password was changed concurrently")
            ended = await self._end(connection, caller.user_id, keep=caller.session_id)
        await self._announce(ended)

    async def delete_account(self, caller: Caller, current_password: SecretStr) -> None:
        """Deletes the user: public data at once, everything else soon, in every store.

        Raises WrongPassword, UserNotFound, and an outage if some public data could not be deleted. Public data goes
        first and the account last, because the account authorises a retry.
        """
        await self._confirm(caller, current_password)
        await self.belongings.drop()
        async with postgres.transaction(self.pool) as connection:
            await store.lock_user(connection, caller.user_id)
            ended = await self._end(connection, caller.user_id)
            if not await store.remove_user(connection, caller.user_id):
                raise UserNotFound
            await _emit(connection, UserDeleted(user_id=caller.user_id))
        await self._announce(ended)

    # --- sessions --------------------------------------------------------------------------------------------------

    async def login(self, given: SignIn, client: Client) -> Tokens:
        """Ends the least recently used sessions beyond SESSION_LIMIT.

        Raises InvalidCredentials, TooManyRequests, TooBusy.
        """
        login = given.login.lower()
        known = await store.credentials(self.pool, login=login)
        right = await self._password_is_right(known, given.password, self._login(known, login, client))
        if known is None or not right:
            LOGINS.labels("refused").inc()
            raise InvalidCredentials
        now = self.now()
        session = Session(
            id=new_id(),
            user_id=known.user.id,
            user_agent=client.user_agent,
            address=client.address,
            created_at=now,
            last_used_at=now,
            expires_at=self._expiry(created_at=now, now=now),
        )
        opaque = tokens.new_refresh_token()
        token = RefreshToken(tokens.stored(opaque), session.id, access_id=new_id(), created_at=now)
        async with postgres.transaction(self.pool) as connection:
            # The password may have been changed, and all sessions ended, during the check.
            if not await store.password_is_of(connection, known.user.id, known.password_changed_at):
                raise InvalidCredentials
            await store.add_session(connection, session)
            await store.add_refresh_token(connection, token)
            surplus = await store.surplus_sessions(connection, known.user.id, limit=SESSION_LIMIT)
            ended = await self._end(connection, known.user.id, only=surplus)
        await self._announce(ended)
        LOGINS.labels("done").inc()
        return await self._pair(known.user, token, opaque)

    async def refresh(self, given: SecretStr, client: Client) -> Tokens:
        """The next pair of tokens of a session. A retry gets the same pair within the grace period, and later the same
        refresh token with a new access token.

        Raises InvalidRefreshToken, and RefreshTokenReused after ending the session.
        See docs/adr/0002-refresh-rotation.md.
        """
        used = tokens.stored(reveal(given))
        opaque = tokens.successor(reveal(given), reveal(self.settings.refresh_secret))
        ended: list[UUID] = []
        async with postgres.transaction(self.pool) as connection:
            session = await store.lock_session_of(connection, used)
            now = self.now()
            # Read after taking the lock: concurrent refreshes that came first have committed by now.
            token = await store.refresh_token(connection, used)
            if session is None or token is None or session.expires_at <= now:
                raise InvalidRefreshToken
            following = await store.refresh_token(connection, tokens.stored(opaque))
            grace = timedelta(seconds=self.settings.refresh_grace_seconds)
            kind = classify_refresh(token, following, now=now, grace=grace)
            if kind in (RefreshKind.ROTATE, RefreshKind.LATE):
                following = RefreshToken(tokens.stored(opaque), session.id, access_id=new_id(), created_at=now)
                if kind is RefreshKind.ROTATE:
                    await store.use_refresh_token(connection, used, now=now)
                    await store.add_refresh_token(connection, following)
                else:
                    following = dataclasses.replace(following, late_run=token.late_run + 1)
                    await store.renew_refresh_token(connection, following)
                await store.prolong_session(
                    connection,
                    session.id,
                    now=now,
                    expires_at=self._expiry(created_at=session.created_at, now=now),
                    address=client.address,
                    user_agent=client.user_agent,
                )
            elif kind is RefreshKind.REUSE:
                ended = await self._end(connection, session.user_id, only=[session.id])
            owner = await store.users(connection, [session.user_id])
        REFRESHES.labels(kind.name.lower()).inc()
        if kind is RefreshKind.REUSE or following is None:
            await self._announce(ended)
            raise RefreshTokenReused
        return await self._pair(owner[0], following, opaque)

    async def sessions(self, caller: Caller) -> list[Session]:
        """The live sessions, most recently used first, at most SESSION_LIMIT."""
        return await store.sessions(self.pool, caller.user_id, now=self.now())

    async def logout(self, caller: Caller) -> None:
        """Idempotent: a client that received 503 may retry until it succeeds."""
        if caller.session_id is None:
            raise NotSignedIn
        await self._end_and_announce(caller, only=caller.session_id)

    async def logout_all(self, caller: Caller) -> None:
        await self._end_and_announce(caller)

    async def end_session(self, caller: Caller, session_id: UUID) -> None:
        """Raises SessionNotFound, also for another user's session."""
        if session_id == caller.session_id:
            await self.logout(caller)
        elif not await self._end_and_announce(caller, only=session_id):
            raise SessionNotFound

    async def restore_revocations(self) -> None:
        """Write the revocations that Redis lacks, because it was down or has lost data."""

        async def all_revoked() -> dict[UUID, float]:
            now = self.now()
            revoked = await store.revocations(self.pool, now=now)
            return {session_id: (until - now).total_seconds() for session_id, until in revoked.items()}

        await revocations.restore(self.redis, all_revoked)

    async def sweep(self) -> None:
        now = self.now()
        used_before = now - timedelta(days=self.settings.refresh_token_days)
        await store.sweep(self.pool, now=now, used_before=used_before)

    # --- helpers ---------------------------------------------------------------------------------------------------

    async def _count_name(self, client: Client) -> None:
        await self.throttles.registrations.hit(client.network)
        await self.throttles.neighbourhood_registrations.hit(client.neighbourhood)

    def _login(self, known: Credentials | None, login: str, client: Client) -> Guess:
        # By login, so that an unknown one is throttled like a known one: a counter shared by a username and an email
        # address would reveal that they belong together. Hashed, because it may be someone's email address.
        account = hashlib.sha256(login.encode()).hexdigest()

        async def is_known() -> bool:
            user_id = known.user.id if known else None
            addresses = await store.session_addresses(self.pool, user_id, now=self.now())
            return client.network in {Client(address, "").network for address in addresses}

        return self.throttles.guesses.at_login(account, client, is_known=is_known)

    async def _password_is_right(self, known: Credentials | None, password: SecretStr, guess: Guess) -> bool:
        # Counted while holding a slot: parallel guesses exceed the limit by at most the number of slots.
        async with self.passwords.slot(*guess.queue_keys):
            await guess.allow()
            form = await self.passwords.verify(known.password_hash if known else None, reveal(password))
            if form is None:
                await guess.count()
            elif known and self.passwords.outdated(known.password_hash, form):
                await store.rehash(
                    self.pool,
                    known.user.id,
                    password_changed_at=known.password_changed_at,
                    password_hash=await self.passwords.hash(opaque(form)),
                )
            return form is not None

    async def _confirm(self, caller: Caller, password: SecretStr | None) -> Credentials:
        known = await store.credentials(self.pool, user_id=caller.user_id)
        if known is None:
            raise UserNotFound
        guess = self.throttles.guesses.in_session(_session(caller), user=str(caller.user_id))
        if password is None or not await self._password_is_right(known, password, guess):
            raise WrongPassword
        return known

    def _is_recent(self, moment: datetime) -> bool:
        """Whether this is recent enough that a client may still be retrying."""
        return self.now() - moment < RECENT

    def _expiry(self, *, created_at: datetime, now: datetime) -> datetime:
        unused = now + timedelta(days=self.settings.refresh_token_days)
        return min(unused, created_at + timedelta(days=self.settings.session_days))

    async def _pair(self, user: User, token: RefreshToken, opaque: str) -> Tokens:
        lifetime = timedelta(seconds=self.settings.access_token_seconds)
        access = tokens.access_token(
            await self.keys.signing_key(),
            issuer=self.settings.public_url,
            user=user,
            session_id=token.session_id,
            token_id=token.access_id,
            issued_at=token.created_at,
            lifetime=lifetime,
        )
        left = token.created_at + lifetime - self.now()
        return Tokens(user.id, access, opaque, expires_in=max(0, int(left.total_seconds())))

    async def _end(
        self, connection: Connection, user_id: UUID, *, only: Sequence[UUID] | None = None, keep: UUID | None = None
    ) -> list[UUID]:
        until = self.now() + timedelta(seconds=REVOKED_SECONDS)
        return await store.end_sessions(connection, user_id, only=only, keep=keep, revoked_until=until)

    async def _end_and_announce(self, caller: Caller, *, only: UUID | None = None) -> list[UUID]:
        async with postgres.transaction(self.pool) as connection:
            ended = await self._end(connection, caller.user_id, only=None if only is None else [only])
        # An earlier attempt that did not reach Redis may have ended the caller's own session.
        own = [caller.session_id] if caller.session_id and only in (None, caller.session_id) else []
        await self._announce([*ended, *own])
        return ended

    async def _announce(self, ended: Sequence[UUID]) -> None:
        """Make all verifiers reject these sessions. Raises RedisError: then the request must not be confirmed.

        PostgreSQL has recorded them anyway, and ``restore_revocations`` retries the write.
        """
        await revocations.announce(self.redis, dict.fromkeys(ended, REVOKED_SECONDS))
        SESSIONS_ENDED.inc(len(ended))
