"""Pages of lists that have things which the caller may no longer see."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from kinora_media.catalogue import MAX_BATCH
from kinora_media.domain import Page, Position

S = TypeVar("S")
T = TypeVar("T")


async def full_page(
    read: Callable[[Position | None, int], Awaitable[Sequence[S]]],
    show: Callable[[Sequence[S]], Awaitable[Sequence[T]]],
    position: Callable[[S], Position],
    *,
    after: Position | None,
    limit: int,
) -> Page[T]:
    """Read on until the page is full, so that only the last one has fewer than ``limit`` items.

    ``read``: what is stored after a position, at most so many. ``show``: what the caller sees of it, in the same order.
    """
    found: list[T] = []
    size = min(limit + 1, MAX_BATCH)
    while True:
        stored = await read(after, size)
        found += await show(stored)
        if len(found) > limit or len(stored) < size:
            return Page(found[:limit], more=len(found) > limit)
        after = position(stored[-1])
