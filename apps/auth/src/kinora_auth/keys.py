"""The keys that sign access tokens. ``python -m kinora_auth.keys rotate`` publishes the next one early.

Each key has a time from which it signs. The newest key whose time has come signs; a newer one is only published, so
that every verifier has cached it before it signs; older ones verify until their last token has expired. This depends
only on the clock, so replicas need no coordination and no rotation can be half done.
"""

import asyncio
import base64
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kinora_auth import store
from kinora_auth.settings import MAX_ACCESS_TOKEN_SECONDS, AuthSettings
from kinora_auth.store import StoredKey
from kinora_kit import logs, postgres
from kinora_kit.errors import Unavailable
from kinora_kit.identity import ALGORITHM
from kinora_kit.ids import new_id
from kinora_kit.settings import load, reveal

log = logs.get(__name__)

# Longer than the lifetime of any access token, with a margin for clock skew.
RETIRED = timedelta(seconds=2 * MAX_ACCESS_TOKEN_SECONDS)
# Unknown kids cause at most one query in this time.
COOLDOWN_SECONDS = 1.0
_NONCE_BYTES = 12


class KeysUnreadable(Exception):
    pass


@dataclass(frozen=True)
class SigningKey:
    kid: str
    signs_from: datetime
    private_key: Ed25519PrivateKey

    def jwk(self) -> dict[str, str]:
        """The public key as a JWK (RFC 8037)."""
        raw = self.private_key.public_key().public_bytes_raw()
        x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        return {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": ALGORITHM, "kid": self.kid, "x": x}


class Cipher:
    """Encrypts private keys in the database, bound to their kid so that rows cannot be swapped."""

    def __init__(self, secret: str) -> None:
        derived = HKDF(hashes.SHA256(), 32, salt=None, info=b"kinora signing keys").derive(secret.encode())
        self._aead = AESGCM(derived)

    def encrypt(self, kid: str, key: Ed25519PrivateKey) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, key.private_bytes_raw(), kid.encode())

    def decrypt(self, kid: str, sealed: bytes) -> Ed25519PrivateKey:
        try:
            raw = self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], kid.encode())
        except InvalidTag:
            raise KeysUnreadable("The signing keys were encrypted with another KINORA_KEY_ENCRYPTION_SECRET") from None
        return Ed25519PrivateKey.from_private_bytes(raw)


def signing(keys: Sequence[SigningKey], now: datetime) -> SigningKey:
    """The key that signs now. ``keys`` are ordered by ``signs_from``; if the clock is behind all of them, the first."""
    return next((key for key in reversed(keys) if key.signs_from <= now), keys[0])


class KeyRing:
    """The database's keys, cached in memory. Also the key source for auth's own token verification."""

    def __init__(self, pool: postgres.Pool, cipher: Cipher, *, lead: timedelta) -> None:
        self._pool = pool
        self._cipher = cipher
        self._lead = lead
        self._keys: list[SigningKey] = []
        self._public: dict[str, Ed25519PublicKey] = {}
        self._tried = float("-inf")
        self._unreachable = False
        self._loading = asyncio.Lock()

    async def signing_key(self) -> SigningKey:
        if not self._keys:
            await self.load()
        return signing(self._keys, datetime.now(UTC))

    async def public_key(self, kid: str) -> Any | None:
        if kid not in self._public:
            async with self._loading:
                if kid not in self._public and time.monotonic() - self._tried > COOLDOWN_SECONDS:
                    await self._load()
            if kid not in self._public and self._unreachable:
                raise Unavailable("The signing keys are unavailable")
        return self._public.get(kid)

    async def key_set(self) -> dict[str, list[dict[str, str]]]:
        """The JSON Web Key Set (RFC 7517)."""
        await self.signing_key()
        return {"keys": [key.jwk() for key in self._keys]}

    async def load(self) -> None:
        async with self._loading:
            await self._load()

    async def _load(self) -> None:
        self._unreachable = True
        try:
            rows = await store.signing_keys(self._pool)
        finally:
            self._tried = time.monotonic()
        if not rows:
            async with postgres.transaction(self._pool) as connection:
                await store.lock_signing_keys(connection)
                rows = await store.signing_keys(connection)
                if not rows:  # checked again under the lock: another replica may have been faster
                    rows = [await self._add(connection, signs_from=datetime.now(UTC))]
        self._keys = [SigningKey(row.kid, row.signs_from, self._cipher.decrypt(row.kid, row.sealed)) for row in rows]
        self._public = {key.kid: key.private_key.public_key() for key in self._keys}
        self._unreachable = False

    async def _add(self, connection: postgres.Connection, *, signs_from: datetime) -> StoredKey:
        kid = str(new_id())
        row = StoredKey(kid, signs_from, self._cipher.encrypt(kid, Ed25519PrivateKey.generate()))
        await store.add_signing_key(connection, row)
        log.info("new signing key", kid=kid, signs_from=signs_from.isoformat())
        return row

    async def rotate(self, *, older_than: timedelta = timedelta(0)) -> StoredKey:
        """Publish the next key if the newest has been signing for ``older_than``; returns the newest.

        Does nothing if a next key is already published.
        """
        await self.load()
        now = datetime.now(UTC)
        async with postgres.transaction(self._pool) as connection:
            await store.lock_signing_keys(connection)
            rows = await store.signing_keys(connection)
            newest = rows[-1]
            if newest.signs_from + older_than <= now:
                newest = await self._add(connection, signs_from=now + self._lead)
            # A key is retired once its successor signs.
            retired = [key.kid for key, successor in pairwise(rows) if successor.signs_from + RETIRED < now]
            await store.remove_signing_keys(connection, retired)
        await self.load()
        return newest


def ring(settings: AuthSettings, pool: postgres.Pool) -> KeyRing:
    cipher = Cipher(reveal(settings.key_encryption_secret))
    return KeyRing(pool, cipher, lead=timedelta(seconds=settings.key_lead_seconds))


async def _rotate(settings: AuthSettings) -> StoredKey:
    async with postgres.connect(reveal(settings.postgres_url), name="auth keys", size=1) as pool:
        return await ring(settings, pool).rotate()


if __name__ == "__main__":
    if sys.argv[1:] != ["rotate"]:
        sys.exit("usage: python -m kinora_auth.keys rotate")
    key = asyncio.run(_rotate(load(AuthSettings)))
    print(f"{key.kid} signs from {key.signs_from:%Y-%m-%d %H:%M:%S} UTC")  # noqa: T201
