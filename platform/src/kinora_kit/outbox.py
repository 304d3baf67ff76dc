"""The transactional outbox and inbox of a PostgreSQL service.

``emit`` writes an event in the transaction of its cause; the relay publishes it with a confirm and then deletes it, so
an event is published at least once, and never for a change that was rolled back. ``first_time`` makes a handler
idempotent.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from uuid import UUID

from kinora_kit import logs, postgres, tasks
from kinora_kit.broker import Broker, Unroutable
from kinora_kit.errors import Unavailable
from kinora_kit.events import Event
from kinora_kit.metrics import OUTBOX_PENDING
from kinora_kit.postgres import Connection, Pool

log = logs.get(__name__)

BATCH = 100
BATCH_SECONDS = 10.0  # plus one slow confirm: well below the server's idle-in-transaction timeout
SWEEP_SECONDS = 5.0
INBOX_DAYS = 14


async def emit(
    connection: Connection,
    event: Event,
    *,
    exchange: str,
    routing_key: str | None = None,
    mandatory: bool = False,
) -> None:
    """Publish ``event`` if and when the transaction of ``connection`` commits.

    The routing key defaults to the event's type. It is kept until all declared queues for it exist (broker.connect),
    if ``mandatory`` also until any queue accepts it.
    """
    await connection.execute(
        "INSERT INTO outbox (exchange, routing_key, mandatory, event) VALUES ($1, $2, $3, $4)",
        exchange,
        routing_key or event.type,
        mandatory,
        event.model_dump(mode="json", exclude_none=True),
    )


async def first_time(connection: Connection, queue: str, event_id: UUID) -> bool:
    """Whether this event has not been handled before. Call it in the transaction of the effect."""
    status = await connection.execute(
        "INSERT INTO inbox (queue, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", queue, event_id
    )
    return bool(status == "INSERT 0 1")


async def publish_batch(pool: Pool, broker: Broker, kept: set[int] | None = None) -> int:
    """Publish the oldest events that no other relay has locked; returns how many were published.

    Events that their queues do not accept yet are added to ``kept``. Events in ``kept`` are skipped, so that they do
    not block others. After a crash, some events are published again.
    """
    kept = set() if kept is None else kept
    published: list[int] = []
    away: Unavailable | None = None
    started = time.monotonic()
    async with postgres.transaction(pool) as connection:
        rows = await connection.fetch(
            "SELECT id, exchange, routing_key, mandatory, event FROM outbox WHERE id <> ALL ($2::bigint[])"
            " ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED",
            BATCH,
            list(kept),
        )
        for row in rows:  # sequentially: a service's events keep their order as long as one relay runs
            event = Event.model_validate(row["event"])
            try:
                await broker.publish(
                    event.model_dump_json(exclude_none=True).encode(),
                    exchange=row["exchange"],
                    routing_key=row["routing_key"],
                    message_id=str(event.id),
                    mandatory=row["mandatory"],
                )
            except Unroutable as error:
                log.warning("an event waits for its queue", event_type=event.type, error=str(error))
                kept.add(row["id"])
                continue
            except Unavailable as error:
                away = error  # raised after committing that the events before it are published
                break
            published.append(row["id"])
            if time.monotonic() - started > BATCH_SECONDS:
                break
        await connection.execute("DELETE FROM outbox WHERE id = ANY($1::bigint[])", published)
    if away:
        raise away
    return len(published)


async def _publish_all(pool: Pool, broker: Broker) -> None:
    kept: set[int] = set()
    while True:
        count = len(kept)
        if not await publish_batch(pool, broker, kept) and len(kept) == count:
            return


async def sweep(pool: Pool) -> None:
    OUTBOX_PENDING.set(await pool.fetchval("SELECT count(*) FROM outbox"))
    await pool.execute("DELETE FROM inbox WHERE received_at < now() - make_interval(days => $1)", INBOX_DAYS)


@contextlib.asynccontextmanager
async def relay(pool: Pool, broker: Broker, *, url: str) -> AsyncIterator[None]:
    """Publish while the context is open: at once when notified, otherwise every few seconds."""
    work = asyncio.Event()
    work.set()

    async def listen() -> None:
        await postgres.listen(url, channel="outbox", on_notify=lambda _: work.set(), on_connect=work.set)

    async def publish() -> None:
        while True:
            # Not wait_for: before Python 3.12 it loses a cancellation that coincides with the result.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await work.wait()
            work.clear()
            await _publish_all(pool, broker)

    async def sweeping() -> None:
        await tasks.every(60, lambda: sweep(pool))

    async with tasks.background(outbox_listen=listen, outbox_publish=publish, outbox_sweep=sweeping):
        yield
