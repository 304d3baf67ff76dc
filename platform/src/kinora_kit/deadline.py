"""The deadline of the current call. Nested calls get less time, so the outermost caller waits longest.

Otherwise a service would keep working for callers that have given up, and they would see a timeout instead of the
unavailable dependency.
"""

import time
from contextvars import ContextVar

from kinora_kit.errors import Unavailable

MARGIN_SECONDS = 0.2
"""Reserved for returning the response."""

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def start(seconds: float | None) -> None:
    """Set the deadline of the current task and of tasks that it starts; None for no deadline."""
    _deadline.set(None if seconds is None else time.monotonic() + seconds)


def remaining() -> float | None:
    """Seconds that a nested call may take, None without a deadline. Raises Unavailable if no time is left."""
    end = _deadline.get()
    if end is None:
        return None
    left = end - time.monotonic() - MARGIN_SECONDS
    if left <= 0:
        raise Unavailable("The response would come too late; try again")
    return left


def within(seconds: float) -> float:
    """``seconds``, or the remaining time if that is less. Raises Unavailable if no time is left."""
    left = remaining()
    return seconds if left is None else min(seconds, left)
