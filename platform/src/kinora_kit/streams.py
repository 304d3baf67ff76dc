"""Long-lived connections (WebSockets and server-sent events): limits and cleanup.

There are limits per process and per client. A signed-in client is counted by user, an anonymous one by address. All
clients of an address together, signed in or not, can take half of the process's slots.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import NoReturn
from uuid import UUID

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from kinora_kit.edge import client_network
from kinora_kit.errors import TooManyAtOnce, Unavailable
from kinora_kit.metrics import STREAMS_OPEN, STREAMS_REFUSED
from kinora_kit.settings import StreamSettings


class Seat:
    """The slot of one connection; it can move from the address to the user once that is known."""

    def __init__(self, seats: "Seats", client: UUID | str) -> None:
        self._seats = seats
        self.client = client

    def sign_in(self, user_id: UUID) -> None:
        """Raises TooManyAtOnce if the user has too many; the connection then still counts for its address."""
        self._seats.move(self, user_id)


class Seats:
    """The slots of one process for one kind of connection (``websocket``, ``events``)."""

    def __init__(self, kind: str, settings: StreamSettings) -> None:
        self._kind = kind
        self._settings = settings
        self._taken: Counter[UUID | str] = Counter()
        self._by_address: Counter[str] = Counter()
        STREAMS_OPEN.labels(kind).set_function(self._taken.total)

    @contextlib.contextmanager
    def take(self, scope: Scope, user_id: UUID | None = None) -> Iterator[Seat]:
        """A slot for the duration of the block. Raises Unavailable if the process is full, TooManyAtOnce."""
        if self._taken.total() >= self._settings.streams:
            STREAMS_REFUSED.labels(self._kind, "process").inc()
            raise Unavailable("Too many open connections at the moment; try again")
        address = client_network(scope)
        if 2 * self._by_address[address] >= self._settings.streams:
            self._refuse("address")
        seat = Seat(self, user_id or address)
        self._add(seat.client)
        self._by_address[address] += 1
        try:
            yield seat
        finally:
            self._remove(seat.client)
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def move(self, seat: Seat, user_id: UUID) -> None:
        if seat.client != user_id:
            self._add(user_id)
            self._remove(seat.client)
            seat.client = user_id

    def _add(self, client: UUID | str) -> None:
        user = isinstance(client, UUID)
        limit = self._settings.streams_per_user if user else self._settings.streams_per_address
        if self._taken[client] >= limit:
            self._refuse("user" if user else "address")
        self._taken[client] += 1

    def _refuse(self, limit: str) -> NoReturn:
        STREAMS_REFUSED.labels(self._kind, limit).inc()
        raise TooManyAtOnce("You have too many open connections; close one first")

    def _remove(self, client: UUID | str) -> None:
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]


class EventStream(StreamingResponse):
    """Server-sent events. ``held`` is closed at the end, even if the client disconnects before the first event."""

    def __init__(self, events: AsyncIterator[str], held: contextlib.ExitStack) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)
