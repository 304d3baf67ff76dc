from typing import Annotated, ClassVar

from limits import parse
from pydantic import AfterValidator, Field, SecretStr

from kinora_kit.settings import Port, Secret, Settings


def _limit(value: str) -> str:
    parse(value)
    return value


MAX_ACCESS_TOKEN_SECONDS = 900

Limit = Annotated[str, AfterValidator(_limit)]
"""A rate, such as ``10/minute``."""


class AuthSettings(Settings):
    service: ClassVar[str] = "auth"

    max_body_bytes: int = Field(default=32 << 10, ge=1)
    """A profile with every character escaped takes 20 KiB."""
    grpc_port: Port
    public_url: str
    """The platform's URL for clients; also the issuer of its tokens."""
    postgres_url: SecretStr
    redis_url: SecretStr
    rabbitmq_url: SecretStr
    media_grpc: str
    video_grpc: str
    key_encryption_secret: Secret
    """Encrypts the signing keys in the database."""
    refresh_secret: Secret
    """Derives each refresh token from its predecessor (docs/adr/0002-refresh-rotation.md), and signs the addresses of
    exports (docs/adr/0023-export.md)."""

    access_token_seconds: int = Field(default=600, ge=60, le=MAX_ACCESS_TOKEN_SECONDS)
    refresh_token_days: int = Field(default=30, ge=1)
    """How long a session may stay unused."""
    refresh_grace_seconds: int = Field(default=10, ge=0, le=60)
    """How long a client that lost the response may retry a refresh and get the same pair."""
    session_days: int = Field(default=180, ge=1)
    """The maximum lifetime of a session, however often it is used."""

    key_rotation_days: int = Field(default=30, ge=1)
    key_lead_seconds: int = Field(default=600, ge=0)
    """How long a new key is published before it signs; verifiers cache the key set for 300 s."""
    revocation_sync_seconds: float = Field(default=5, gt=0)
    """How often the revocations that Redis lacks are written, in case it lost its data."""

    hashing_threads: int = Field(default=2, ge=1)
    """Passwords hashed in parallel; each takes 64 MiB."""
    hashing_queue: int = Field(default=100, ge=1)
    """Requests that may wait for a hashing thread; others get 503. At most half of them from one address or account,
    and three quarters from one IPv4 /24 or IPv6 /48; others get 429."""
    # Failures are wrong passwords; see docs/adr/0015-guessing.md. Redis keeps each failure for the length of its
    # window.
    session_failures: Limit = "10/minute"
    """In one session, for password-confirmed changes."""
    pair_failures: Limit = "10/10 minutes"
    """For one account, from one address."""
    address_failures: Limit = "100/minute"
    """From one address, for any account."""
    neighbourhood_failures: Limit = "1000/minute"
    """From one IPv4 /24 or IPv6 /48, for any account: whoever has an IPv6 /48 has 65,536 addresses."""
    account_failures: Limit = "30/hour"
    """For one account, from anywhere: beyond it the account is under attack, and ``stranger_failures`` also applies."""
    stranger_failures: Limit = "3/hour"
    """For an account under attack, from one IPv4 /24 or IPv6 /48, unless a live session was last used there."""
    registrations: Limit = "60/hour"
    """Attempts from one address to register, or to change a username or an email address."""
    neighbourhood_registrations: Limit = "600/hour"
    """The same from one IPv4 /24 or IPv6 /48."""
    renames: Limit = "20/hour"
    """Attempts by one account to change its username or email address; each reveals whether one is taken."""
