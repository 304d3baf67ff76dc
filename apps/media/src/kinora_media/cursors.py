"""Cursors: opaque to clients, and valid only for the kind of list that they come from."""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from kinora_kit.errors import InvalidInput
from kinora_media.domain import Comment, Mark, Media, Notification, Place, Playlist, Position, TopPosition, Visit

NEWEST = r"n[0-9a-f]{12}[0-9a-f]{12}[0-9a-f]{32}"
"""The list (see _list_of), milliseconds since 1970, and the id."""
POPULAR = r"p[0-9a-f]{12}[0-9a-f]{12}[0-9a-f]{16}[0-9a-f]{32}"
"""The list, the epoch, the score, and the id."""
COMMENT = r"^c[0-9a-f]{32}$"
"""The id."""
TOP_COMMENT = r"^t[0-9a-f]{12}[0-9a-f]{32}$"
"""The number of likes and the id."""
REPLY = r"^r[0-9a-f]{32}$"
"""The id."""
OWN = r"u[0-9a-f]{32}"
"""The id."""
LISTED = f"^({NEWEST}|{POPULAR}|{OWN})$"
PLAYLIST = r"^l[0-9a-f]{32}$"
"""The id."""
ITEM = r"^i[0-9a-f]{4}[0-9a-f]{32}$"
"""The index and the id of the media document."""
MARK = r"^m[0-9a-f]{12}[0-9a-f]{32}$"
"""Milliseconds since 1970 and the id."""
HISTORY = r"^h[0-9a-f]{12}[0-9a-f]{32}$"
"""As MARK."""
SUBSCRIBED = r"^s[0-9a-f]{12}[0-9a-f]{32}$"
"""As MARK."""
NOTIFICATION = r"^o[0-9a-f]{12}[0-9a-f]{32}$"
"""As MARK."""
_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LATEST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND
_MAX_SCORE = (1 << 63) - 1  # MongoDB has no larger integers


def of_newest(at: datetime, media_id: UUID, facets: Sequence[str]) -> str:
    return _of_position(f"n{_list_of(facets)}", at, media_id)


def in_newest(cursor: str, facets: Sequence[str]) -> tuple[datetime, UUID]:
    """Raises InvalidInput."""
    _check(NEWEST, cursor)
    _check(_list_of(facets), cursor[1:13])
    position = _parse(cursor[13:])
    return position.at, position.id


def of_popular(epoch: int, score: int, media_id: UUID, facets: Sequence[str]) -> str:
    return f"p{_list_of(facets)}{epoch:012x}{score:016x}{media_id.hex}"


def in_popular(cursor: str, facets: Sequence[str]) -> tuple[int, tuple[int, UUID]]:
    """The epoch, and the position in it. Raises InvalidInput."""
    _check(POPULAR, cursor)
    _check(_list_of(facets), cursor[1:13])
    score = min(int(cursor[25:41], 16), _MAX_SCORE)
    return int(cursor[13:25], 16), (score, UUID(cursor[41:]))


def of_own(media: Media) -> str:
    return f"u{media.id.hex}"


def in_own(cursor: str) -> UUID:
    """Raises InvalidInput."""
    _check(OWN, cursor)
    return UUID(cursor[1:])


def _list_of(facets: Sequence[str]) -> str:
    """Identifies the list of documents with these facets."""
    return hashlib.sha256("\n".join(facets).encode()).hexdigest()[:12]


def of_mark(mark: Mark) -> str:
    return _of_position("m", mark.at, mark.thing_id)


def in_marks(cursor: str) -> Position:
    """Raises InvalidInput."""
    return _position(MARK, cursor)


def of_visit(visit: Visit) -> str:
    return _of_position("h", visit.at, visit.media_id)


def in_history(cursor: str) -> Position:
    """Raises InvalidInput."""
    return _position(HISTORY, cursor)


def of_notification(notification: Notification) -> str:
    return _of_position("o", notification.at, notification.id)


def in_notifications(cursor: str) -> Position:
    """Raises InvalidInput."""
    return _position(NOTIFICATION, cursor)


def of_playlist(playlist: Playlist) -> str:
    return f"l{playlist.id.hex}"


def in_playlists(cursor: str) -> UUID:
    """Raises InvalidInput."""
    _check(PLAYLIST, cursor)
    return UUID(cursor[1:])


def of_item(place: Place) -> str:
    return f"i{place.index:04x}{place.media_id.hex}"


def in_items(cursor: str) -> Place:
    """Raises InvalidInput."""
    _check(ITEM, cursor)
    return Place(int(cursor[1:5], 16), UUID(cursor[5:]))


def of_subscribed(at: datetime, media_id: UUID) -> str:
    return _of_position("s", at, media_id)


def in_subscribed(cursor: str) -> tuple[datetime, UUID]:
    """Raises InvalidInput."""
    position = _position(SUBSCRIBED, cursor)
    return position.at, position.id


def _of_position(kind: str, at: datetime, item_id: UUID) -> str:
    return f"{kind}{(at - _EPOCH) // _MILLISECOND:012x}{item_id.hex}"


def _position(pattern: str, cursor: str) -> Position:
    _check(pattern, cursor)
    return _parse(cursor[1:])


def _parse(position: str) -> Position:
    milliseconds = min(int(position[:12], 16), _LATEST)
    return Position(_EPOCH + milliseconds * _MILLISECOND, UUID(position[12:]))


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
