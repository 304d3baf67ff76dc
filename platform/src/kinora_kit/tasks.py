"""Background work that runs as long as the process and is restarted when it fails."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from kinora_kit import logs
from kinora_kit.metrics import BACKGROUND_FAILURES

log = logs.get(__name__)

RESTART_SECONDS = 1.0
CANCEL_SECONDS = 10.0
"""How soon work that has not ended is cancelled again: longer than cleanups take."""


def cancelled() -> bool:
    """Whether this task was cancelled. Drivers also raise CancelledError for calls that fail with their connection."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def raise_if_cancelled() -> None:
    """For loops, after calls of drivers: before Python 3.12, asyncio.wait_for, which redis-py and aio-pika use, loses a
    cancellation that coincides with its result."""
    if cancelled():
        raise asyncio.CancelledError


async def forever(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` again whenever it ends or fails, until cancelled."""
    while True:
        try:
            await work()
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and cancelled():
                raise
            BACKGROUND_FAILURES.labels(name).inc()
            log.warning("background work failed, restarting it", task=name, error=repr(error))
        raise_if_cancelled()
        await asyncio.sleep(RESTART_SECONDS)


@contextlib.asynccontextmanager
async def background(**works: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Keep each of ``works`` running while the context is open; cancelled and awaited at its end.

    A driver may lose a cancellation (see ``raise_if_cancelled``), so it is repeated until the work ends.
    """
    running = {asyncio.create_task(forever(name, work), name=name) for name, work in works.items()}
    try:
        yield
    finally:
        while running:
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=CANCEL_SECONDS)


async def every(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    """Run ``work`` now and every ``seconds``, until it fails or is cancelled."""
    while True:
        await work()
        raise_if_cancelled()
        await asyncio.sleep(seconds)
