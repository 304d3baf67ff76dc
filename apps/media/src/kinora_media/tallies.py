"""Exact counters: each contributor is counted once, also when a process dies (docs/adr/0020-tallies.md)."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence

from kinora_kit import logs, tasks
from kinora_kit.mongo import Database
from kinora_media.clock import now
from kinora_media.store import channels
from kinora_media.store import tallies as store
from kinora_media.store.tallies import Contribution, State, Tally, Thing

log = logs.get(__name__)

SWEEP_SECONDS = 2.0
"""How soon contributors are counted whose process died before it did."""
SETTLE_SECONDS = 2.0
CONCURRENCY = 8
"""How many tallies are brought up to date at the same time."""


class Tallies:
    """Counts in rounds: what is written during one is counted in the next, together. Must be ``running``."""

    def __init__(self, database: Database, tallies: Sequence[Tally]) -> None:
        self._database = database
        self._tallies = {tally.collection: tally for tally in tallies}
        self._waiting: dict[Thing, asyncio.Future[None]] = {}
        self._work = asyncio.Event()
        self._limit = asyncio.Semaphore(CONCURRENCY)

    async def settle(self, thing: Thing) -> None:
        """Wait until what was written before this call is counted, at most SETTLE_SECONDS. Never fails: it will be."""
        waiting = self.wake(thing)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await asyncio.shield(waiting)

    def wake(self, thing: Thing) -> asyncio.Future[None]:
        """Count soon what was written before this call; the result is when."""
        if thing not in self._waiting:
            self._waiting[thing] = asyncio.get_running_loop().create_future()
        self._work.set()
        return self._waiting[thing]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with tasks.background(tallies=self._rounds, tallies_sweep=self._sweeps):
            yield

    async def _rounds(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            waiting, self._waiting = self._waiting, {}
            try:
                async with asyncio.TaskGroup() as group:
                    for thing, future in waiting.items():
                        group.create_task(self._round(thing, future))
            finally:
                for future in waiting.values():
                    _resolve(future)

    async def _round(self, thing: Thing, counted: asyncio.Future[None]) -> None:
        async with self._limit:
            try:
                await self.count(thing, lambda: _resolve(counted))
            except Exception as error:  # the sweep repeats it
                log.warning("a tally could not be brought up to date", thing=str(thing.id), error=repr(error))

    async def _sweeps(self) -> None:
        await tasks.every(SWEEP_SECONDS, self.sweep)

    async def sweep(self) -> None:
        """Count what is due, whoever wrote it."""
        for tally in self._tallies.values():
            for thing in await store.unfinished(self._database, tally):
                self.wake(thing)

    async def count(self, thing: Thing, counted: Callable[[], None] = lambda: None) -> None:
        """Count everything that was written before the call; ``counted`` is called before it is also recorded."""
        tally = self._tallies[thing.collection]
        while True:
            state = await store.read(self._database, tally, thing)
            if state is None:
                for source in tally.sources:
                    await store.forget(self._database, source, thing)
                return
            if state.batch:  # of a process that died, or is at it
                await self._record(thing, state)
                continue
            # After the tally was read: if it is unchanged when they are added, all its batches had been recorded.
            found = [await store.due(self._database, source, thing) for source in tally.sources]
            batch = list(itertools.chain(*found))[: store.BATCH]
            if not batch:
                return
            if await self._remove_orphans(thing, batch):
                continue
            added = await store.add(self._database, tally, thing, state, batch=batch, today=now().date())
            if added is None:
                continue
            if is_all := sum(map(len, found)) < store.BATCH:
                counted()
            await self._record(thing, added)
            if state.parent:
                self.wake(state.parent)
            if is_all:
                return

    async def _record(self, thing: Thing, state: State) -> None:
        await store.record(self._database, state.batch)
        await store.close(self._database, thing, state)

    async def _remove_orphans(self, thing: Thing, batch: Sequence[Contribution]) -> bool:
        """Remove contributions of deleted accounts, which were written while the account was deleted."""
        deleted = await channels.deleted(self._database, {each.author for each in batch if each.author})
        orphans = [each for each in batch if each.author in deleted and not each.gone]
        for each in orphans:
            await store.remove(self._database, each, thing)
        return bool(orphans)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
