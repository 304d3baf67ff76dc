"""Cursors: opaque to clients, and valid only for the kind of list that they come from."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from kinora_kit.errors import InvalidInput
from kinora_media.domain import Comment, Liked, Media, Position, TopPosition

FEED = r"^f[0-9a-f]{12}[0-9a-f]{32}$"
"""Milliseconds since 1970 and the id."""
LIKE = r"^l[0-9a-f]{12}[0-9a-f]{32}$"
"""As FEED."""
COMMENT = r"^c[0-9a-f]{32}$"
"""The id."""
TOP_COMMENT = r"^t[0-9a-f]{12}[0-9a-f]{32}$"
"""The number of likes and the id."""
REPLY = r"^r[0-9a-f]{32}$"
"""The id."""
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


def of_comment(comment: Comment) -> str:
    return f"c{comment.id.hex}"


def in_comments(cursor: str) -> UUID:
    """Raises InvalidInput."""
    _check(COMMENT, cursor)
    return UUID(cursor[1:])


def of_top_comment(comment: Comment) -> str:
    return f"t{comment.likes:012x}{comment.id.hex}"


def in_top_comments(cursor: str) -> TopPosition:
    """Raises InvalidInput."""
    _check(TOP_COMMENT, cursor)
    return TopPosition(int(cursor[1:13], 16), UUID(cursor[13:]))


def of_reply(comment: Comment) -> str:
    return f"r{comment.id.hex}"


def in_replies(cursor: str) -> UUID:
    """Raises InvalidInput."""
    _check(REPLY, cursor)
    return UUID(cursor[1:])


def _check(pattern: str, cursor: str) -> None:
    if not re.fullmatch(pattern, cursor):
        raise InvalidInput("The cursor is invalid; use one that this list has returned")
