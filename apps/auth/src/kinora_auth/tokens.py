"""Token creation: access tokens are JWTs (RFC 9068), refresh tokens are opaque."""

import base64
import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from uuid import UUID

import jwt

from kinora_auth.domain import User
from kinora_auth.keys import SigningKey
from kinora_kit.identity import ALGORITHM, AUDIENCE, TOKEN_TYPE

CLIENT_ID = "kinora"
"""RFC 9068 requires the claim, and other programs' validators check it; clients have no ids of their own here."""


def new_refresh_token() -> str:
    return secrets.token_urlsafe(32)


def successor(refresh_token: str, secret: str) -> str:
    """The successor of a token: deterministic, so that a retry cannot fork a session."""
    digest = hmac.digest(secret.encode(), refresh_token.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def stored(refresh_token: str) -> bytes:
    """The stored hash of a refresh token. It has 256 random bits, so a fast hash suffices."""
    return hashlib.sha256(refresh_token.encode()).digest()


def access_token(
    key: SigningKey,
    *,
    issuer: str,
    user: User,
    session_id: UUID,
    token_id: UUID,
    issued_at: datetime,
    lifetime: timedelta,
) -> str:
    """Deterministic, because Ed25519 signatures are."""
    issued = int(issued_at.timestamp())
    claims = {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": str(user.id),
        "sid": str(session_id),
        "client_id": CLIENT_ID,
        "roles": list(user.roles),
        "jti": str(token_id),
        "iat": issued,
        "exp": issued + int(lifetime.total_seconds()),
    }
    return jwt.encode(claims, key.private_key, algorithm=ALGORITHM, headers={"typ": TOKEN_TYPE, "kid": key.kid})
