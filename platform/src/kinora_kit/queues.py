"""Queues of events, and work queues."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Queue:
    """One queue. ``bindings`` are (exchange, routing pattern); work queues have none, because senders address them."""

    name: str
    bindings: Sequence[tuple[str, str]] = ()
    retry_seconds: Sequence[int] = (1, 5, 30, 120)
    prefetch: int = 16

    def __post_init__(self) -> None:
        if not self.retry_seconds:
            raise ValueError("a queue needs at least one retry delay, to wait for the end of an outage")

    @property
    def dead(self) -> str:
        return f"{self.name}.dead"

    def retry(self, attempt: int) -> str:
        return f"{self.name}.retry.{self.retry_seconds[attempt]}"
