"""How long the call at hand may still take. What it calls itself gets less, so the outermost caller waits longest.

Without that a service works on for callers who have gone, and they hear a bare timeout instead of what was away.
"""

import time
from contextvars import ContextVar

from kinora_kit.errors import Unavailable

MARGIN_SECONDS = 0.2
"""What is kept for the way back of an answer."""

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def start(seconds: float | None) -> None:
    """The call at hand, and whatever its task starts, has so long; None for as long as it takes."""
    _deadline.set(None if seconds is None else time.monotonic() + seconds)


def remaining() -> float | None:
    """Seconds that a call made now may take, None without a deadline. Raises Unavailable when there are none left."""
    end = _deadline.get()
    if end is None:
        return None
    left = end - time.monotonic() - MARGIN_SECONDS
    if left <= 0:
        raise Unavailable("The answer would come too late, try again")
    return left


def within(seconds: float) -> float:
    """``seconds``, or what is left of them. Raises Unavailable when nothing is."""
    left = remaining()
    return seconds if left is None else min(seconds, left)
