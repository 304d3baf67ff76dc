"""Cursors: opaque to clients, and valid only for the kind of list that they come from."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from kinora_kit.errors import InvalidInput
from kinora_media.domain import Liked, Media, Position

FEED = r"^f[0-9a-f]{12}[0-9a-f]{32}$"
"""Milliseconds since 1970 and the id."""
LIKE = r"^l[0-9a-f]{12}[0-9a-f]{32}$"
"""As FEED."""
USER = r"^u[0-9a-f]{32}$"
"""The id."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LATEST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND


def of_feed(media: Media) -> str:
    assert media.published_at is not None  # noqa: S101 - as for every document in the feed
    return _of_position("f", media.published_at, media.id)


def in_feed(cursor: str) -> Position:
    """Raises InvalidInput."""
    return _position(FEED, cursor)


def of_like(liked: Liked) -> str:
    return _of_position("l", liked.at, liked.media.id)


def in_like(cursor: str) -> Position:
    """Raises InvalidInput."""
    return _position(LIKE, cursor)


def of_user(media: Media) -> str:
    return f"u{media.id.hex}"


def in_user(cursor: str) -> UUID:
    """Raises InvalidInput."""
    _check(USER, cursor)
    return UUID(cursor[1:])


def _of_position(kind: str, at: datetime, item_id: UUID) -> str:
    return f"{kind}{(at - _EPOCH) // _MILLISECOND:012x}{item_id.hex}"


def _position(pattern: str, cursor: str) -> Position:
    _check(pattern, cursor)
    milliseconds = min(int(cursor[1:13], 16), _LATEST)
    return Position(_EPOCH + milliseconds * _MILLISECOND, UUID(cursor[13:]))


def _check(pattern: str, cursor: str) -> None:
    if not re.fullmatch(pattern, cursor):
        raise InvalidInput("The cursor is invalid; use one that this list has returned")
