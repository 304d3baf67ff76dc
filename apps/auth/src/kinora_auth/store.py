from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from kinora_auth.domain import EXPORT_LIMIT, SESSION_LIMIT, Credentials, Export, RefreshToken, Session, User
from kinora_auth.errors import EmailTaken, UsernameTaken
from kinora_kit.errors import Conflict
from kinora_kit.postgres import Connection, Pool

_SIGNING_KEYS = 0x6B657973  # "keys": the advisory lock for adding and removing keys

_USER = "id, username, email, display_name, bio, roles, created_at"
_SESSION = "id, user_id, user_agent, address, created_at, last_used_at, expires_at"


def _user(row: Any) -> User:
    return User(
        id=row["id"],
        username=row["username"],
        email=row["email"],
        display_name=row["display_name"],
        bio=row["bio"],
        roles=tuple(row["roles"]),
        created_at=row["created_at"],
    )


def _taken(error: asyncpg.UniqueViolationError) -> Conflict:
    return EmailTaken() if error.constraint_name == "users_email" else UsernameTaken()


# --- users ---------------------------------------------------------------------------------------------------------


async def taken(pool: Pool, username: str, email: str) -> tuple[bool, bool]:
    """Whether the username, and whether the email address, is taken."""
    row = await pool.fetchrow(
        "SELECT EXISTS (SELECT FROM users WHERE lower(username) = lower($1)),"
        " EXISTS (SELECT FROM users WHERE lower(email) = lower($2))",
        username,
        email,
    )
    return row[0], row[1]


async def add_user(connection: Connection, user: User, *, password_hash: str) -> None:
    """Raises UsernameTaken, EmailTaken."""
    try:
        await connection.execute(
            "INSERT INTO users"
            " (id, username, email, display_name, bio, roles, password_hash, password_changed_at, created_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
            user.id,
            user.username,
            user.email,
            user.display_name,
            user.bio,
            list(user.roles),
            password_hash,
            user.created_at,
        )
    except asyncpg.UniqueViolationError as error:
        raise _taken(error) from None


async def users(pool: Connection | Pool, ids: Sequence[UUID]) -> list[User]:
    rows = await pool.fetch(f"SELECT {_USER} FROM users WHERE id = ANY($1) ORDER BY id", ids)
    return [_user(row) for row in rows]


async def users_named(pool: Connection | Pool, usernames: Sequence[str]) -> list[User]:
    """By usernames in lower case."""
    rows = await pool.fetch(f"SELECT {_USER} FROM users WHERE lower(username) = ANY($1::text[]) ORDER BY id", usernames)
    return [_user(row) for row in rows]


async def credentials(pool: Pool, *, user_id: UUID | None = None, login: str | None = None) -> Credentials | None:
    """Of one user, by id or by login in lower case. No username contains an @, and every email address does."""
    row = await pool.fetchrow(
        f"SELECT {_USER}, password_hash, password_changed_at FROM users"
        " WHERE id = $1 OR lower(username) = $2 OR lower(email) = $2",
        user_id,
        login,
    )
    return row and Credentials(_user(row), row["password_hash"], row["password_changed_at"])


async def lock_user(connection: Connection, user_id: UUID) -> None:
    """Blocks logins of this user, and other changes to it, until the transaction ends."""
    await connection.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", user_id)


async def password_is_of(connection: Connection, user_id: UUID, password_changed_at: datetime) -> bool:
    """Whether the password is still the one set at that time.

    It cannot change, and the user cannot log in elsewhere, until the transaction ends.
    """
    found = await connection.fetchval(
        "SELECT true FROM users WHERE id = $1 AND password_changed_at = $2 FOR NO KEY UPDATE",
        user_id,
        password_changed_at,
    )
    return bool(found)


async def change_user(
    connection: Connection,
    user_id: UUID,
    *,
    username: str | None,
    email: str | None,
    display_name: str | None,
    bio: str | None,
) -> User | None:
    """Set the fields that are not ``None``. Raises UsernameTaken, EmailTaken."""
    try:
        row = await connection.fetchrow(
            "UPDATE users SET username = coalesce($2, username), email = coalesce($3, email),"
            " display_name = coalesce($4, display_name), bio = coalesce($5, bio)"
            f" WHERE id = $1 RETURNING {_USER}",
            user_id,
            username,
            email,
            display_name,
            bio,
        )
    except asyncpg.UniqueViolationError as error:
        raise _taken(error) from None
    return row and _user(row)


async def rehash(pool: Pool, user_id: UUID, *, password_changed_at: datetime, password_hash: str) -> None:
    """Replace the hash; the password stays the same."""
    await pool.execute(
        "UPDATE users SET password_hash = $3 WHERE id = $1 AND password_changed_at = $2",
        user_id,
        password_changed_at,
        password_hash,
    )


async def set_password(
    connection: Connection, user_id: UUID, *, before: datetime, now: datetime, password_hash: str
) -> bool:
    """Replace the password that was set at ``before``. Returns False if it was changed concurrently."""
    status = await connection.execute(
        "UPDATE users SET password_hash = $4, password_changed_at = $3 WHERE id = $1 AND password_changed_at = $2",
        user_id,
        before,
        now,
        password_hash,
    )
    return bool(status == "UPDATE 1")


async def remove_user(connection: Connection, user_id: UUID) -> bool:
    return bool(await connection.execute("DELETE FROM users WHERE id = $1", user_id) == "DELETE 1")


# --- sessions ------------------------------------------------------------------------------------------------------


async def add_session(connection: Connection, session: Session) -> None:
    await connection.execute(
        f"INSERT INTO sessions ({_SESSION}) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        session.id,
        session.user_id,
        session.user_agent,
        session.address,
        session.created_at,
        session.last_used_at,
        session.expires_at,
    )


async def sessions(pool: Pool, user_id: UUID, *, now: datetime) -> list[Session]:
    """The live sessions, most recently used first."""
    rows = await pool.fetch(
        f"SELECT {_SESSION} FROM sessions WHERE user_id = $1 AND expires_at > $2"
        " ORDER BY last_used_at DESC, id DESC LIMIT $3",
        user_id,
        now,
        SESSION_LIMIT,
    )
    return [Session(*row) for row in rows]


async def session_addresses(pool: Pool, user_id: UUID | None, *, now: datetime) -> list[str]:
    """The addresses where the live sessions of a user were last used."""
    rows = await pool.fetch(
        "SELECT DISTINCT address FROM sessions WHERE user_id = $1 AND expires_at > $2", user_id, now
    )
    return [row["address"] for row in rows]


async def lock_session_of(connection: Connection, token_hash: bytes) -> Session | None:
    """The session of a refresh token, locked until the transaction ends."""
    row = await connection.fetchrow(
        f"SELECT {_SESSION} FROM sessions"
        " WHERE id = (SELECT session_id FROM refresh_tokens WHERE hash = $1) FOR UPDATE",
        token_hash,
    )
    return row and Session(*row)


async def prolong_session(
    connection: Connection, session_id: UUID, *, now: datetime, expires_at: datetime, address: str, user_agent: str
) -> None:
    await connection.execute(
        "UPDATE sessions SET last_used_at = $2, expires_at = $3, address = $4, user_agent = $5 WHERE id = $1",
        session_id,
        now,
        expires_at,
        address,
        user_agent,
    )


async def surplus_sessions(connection: Connection, user_id: UUID, *, limit: int) -> list[UUID]:
    """All but the ``limit`` most recently used sessions of a user."""
    rows = await connection.fetch(
        "SELECT id FROM sessions WHERE user_id = $1 ORDER BY last_used_at DESC, id DESC OFFSET $2", user_id, limit
    )
    return [row["id"] for row in rows]


async def end_sessions(
    connection: Connection,
    user_id: UUID,
    *,
    only: Sequence[UUID] | None = None,
    keep: UUID | None = None,
    revoked_until: datetime,
) -> list[UUID]:
    """End sessions of a user and revoke their access tokens; returns the ended sessions."""
    rows = await connection.fetch(
        "WITH ended AS ("
        "  DELETE FROM sessions WHERE user_id = $1 AND ($2::uuid[] IS NULL OR id = ANY($2)) AND id IS DISTINCT FROM $3"
        "  RETURNING id)"
        " INSERT INTO revocations (session_id, expires_at) SELECT id, $4 FROM ended RETURNING session_id",
        user_id,
        only,
        keep,
        revoked_until,
    )
    return [row["session_id"] for row in rows]


async def is_revoked(pool: Pool, session_id: UUID) -> bool:
    return bool(await pool.fetchval("SELECT EXISTS (SELECT FROM revocations WHERE session_id = $1)", session_id))


async def revocations(pool: Pool, *, now: datetime) -> dict[UUID, datetime]:
    """Ended sessions whose access tokens may not have expired yet, with the latest expiry."""
    rows = await pool.fetch("SELECT session_id, expires_at FROM revocations WHERE expires_at > $1", now)
    return {row["session_id"]: row["expires_at"] for row in rows}


# --- refresh tokens ------------------------------------------------------------------------------------------------


async def add_refresh_token(connection: Connection, token: RefreshToken) -> None:
    await connection.execute(
        "INSERT INTO refresh_tokens (hash, session_id, access_id, created_at) VALUES ($1, $2, $3, $4)",
        token.hash,
        token.session_id,
        token.access_id,
        token.created_at,
    )


async def refresh_token(connection: Connection, token_hash: bytes) -> RefreshToken | None:
    row = await connection.fetchrow(
        "SELECT hash, session_id, access_id, created_at, used_at, late_run FROM refresh_tokens WHERE hash = $1",
        token_hash,
    )
    return row and RefreshToken(*row)


async def use_refresh_token(connection: Connection, token_hash: bytes, *, now: datetime) -> None:
    await connection.execute("UPDATE refresh_tokens SET used_at = $2 WHERE hash = $1", token_hash, now)


async def renew_refresh_token(connection: Connection, token: RefreshToken) -> None:
    """Reissue an unused token, with a new access token."""
    await connection.execute(
        "UPDATE refresh_tokens SET access_id = $2, created_at = $3, late_run = $4 WHERE hash = $1",
        token.hash,
        token.access_id,
        token.created_at,
        token.late_run,
    )


async def sweep(pool: Pool, *, now: datetime, used_before: datetime) -> None:
    """Delete expired rows."""
    await pool.execute("DELETE FROM sessions WHERE expires_at <= $1", now)
    await pool.execute("DELETE FROM refresh_tokens WHERE used_at < $1", used_before)
    await pool.execute("DELETE FROM revocations WHERE expires_at <= $1", now)
    await pool.execute("DELETE FROM exports WHERE expires_at <= $1", now)


# --- exports -------------------------------------------------------------------------------------------------------

_EXPORT = "id, user_id, session_id, created_at, expires_at, source, cursor, progress, pages, records, size, finished_at"


async def add_export(connection: Connection, export: Export) -> bool:
    """Instead of an earlier one of the user. False if the session or the user does not exist any more."""
    await connection.execute("DELETE FROM exports WHERE user_id = $1", export.user_id)
    try:
        await connection.execute(
            "INSERT INTO exports (id, user_id, session_id, created_at, expires_at, source)"
            " VALUES ($1, $2, $3, $4, $5, $6)",
            export.id,
            export.user_id,
            export.session_id,
            export.created_at,
            export.expires_at,
            export.source,
        )
    except asyncpg.ForeignKeyViolationError:
        return False
    return True


async def export_of(pool: Connection | Pool, user_id: UUID, *, now: datetime) -> Export | None:
    row = await pool.fetchrow(f"SELECT {_EXPORT} FROM exports WHERE user_id = $1 AND expires_at > $2", user_id, now)
    return row and Export(*row)


async def export(pool: Pool, export_id: UUID, *, now: datetime) -> Export | None:
    row = await pool.fetchrow(f"SELECT {_EXPORT} FROM exports WHERE id = $1 AND expires_at > $2", export_id, now)
    return row and Export(*row)


async def remove_export(pool: Pool, user_id: UUID) -> None:
    await pool.execute("DELETE FROM exports WHERE user_id = $1", user_id)


async def claim_export(pool: Pool, *, now: datetime, leased_until: datetime) -> Export | None:
    """An unfinished export on which no process works; it is leased to this one until then."""
    row = await pool.fetchrow(
        "UPDATE exports SET leased_until = $2 WHERE id = ("
        "  SELECT id FROM exports WHERE finished_at IS NULL AND leased_until <= $1 AND created_at > $3"
        "  ORDER BY leased_until, id LIMIT 1 FOR UPDATE SKIP LOCKED"
        f") RETURNING {_EXPORT}",
        now,
        leased_until,
        now - EXPORT_LIMIT,
    )
    return row and Export(*row)


async def add_export_page(
    connection: Connection, before: Export, after: Export, data: bytes, *, leased_until: datetime
) -> bool:
    """Save a page, if not empty, and the state after it. False if another process did, or the export is gone."""
    status = await connection.execute(
        "UPDATE exports SET source = $4, cursor = $5, progress = $6, pages = $7, records = $8, size = $9,"
        " finished_at = $10, leased_until = $11 WHERE id = $1 AND source = $2 AND cursor = $3 AND finished_at IS NULL",
        before.id,
        before.source,
        before.cursor,
        after.source,
        after.cursor,
        after.progress,
        after.pages,
        after.records,
        after.size,
        after.finished_at,
        leased_until,
    )
    if status != "UPDATE 1":
        return False
    if data:
        await connection.execute("INSERT INTO export_pages VALUES ($1, $2, $3)", before.id, before.pages, data)
    return True


async def export_page(pool: Pool, export_id: UUID, number: int) -> bytes | None:
    data: bytes | None = await pool.fetchval(
        "SELECT data FROM export_pages WHERE export_id = $1 AND number = $2", export_id, number
    )
    return data


async def export_account(pool: Pool, user_id: UUID) -> dict[str, Any] | None:
    """The row as JSON, without the hash of the password."""
    found: dict[str, Any] | None = await pool.fetchval(
        "SELECT to_jsonb(users) - 'password_hash' FROM users WHERE id = $1", user_id
    )
    return found


async def export_sessions(pool: Pool, user_id: UUID, *, after: UUID | None, limit: int) -> list[dict[str, Any]]:
    """Rows as JSON, by id."""
    rows = await pool.fetch(
        "SELECT to_jsonb(sessions) FROM sessions WHERE user_id = $1 AND ($2::uuid IS NULL OR id > $2)"
        " ORDER BY id LIMIT $3",
        user_id,
        after,
        limit,
    )
    return [row[0] for row in rows]


# --- signing keys --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredKey:
    kid: str
    signs_from: datetime
    sealed: bytes


async def lock_signing_keys(connection: Connection) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _SIGNING_KEYS)


async def signing_keys(pool: Connection | Pool) -> list[StoredKey]:
    """Ordered by ``signs_from``."""
    rows = await pool.fetch("SELECT kid, signs_from, encrypted_private_key FROM signing_keys ORDER BY signs_from, kid")
    return [StoredKey(*row) for row in rows]


async def add_signing_key(connection: Connection, key: StoredKey) -> None:
    await connection.execute(
        "INSERT INTO signing_keys (kid, signs_from, encrypted_private_key) VALUES ($1, $2, $3)",
        key.kid,
        key.signs_from,
        key.sealed,
    )


async def remove_signing_keys(connection: Connection, kids: Sequence[str]) -> None:
    await connection.execute("DELETE FROM signing_keys WHERE kid = ANY($1)", kids)
