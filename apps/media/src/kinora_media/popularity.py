"""Ranks published documents anew, epoch by epoch (docs/adr/0022-popularity.md)."""

from dataclasses import dataclass

from kinora_kit.ids import new_id
from kinora_kit.mongo import Database
from kinora_media.domain import popularity
from kinora_media.store import media as documents
from kinora_media.store import popularity as store

CHECK_SECONDS = 5.0
LEASE_MS = 30_000
"""Longer than the work between two extensions."""
PAGE = 500


@dataclass(frozen=True)
class Popularity:
    """Any number of processes may run it; one of them builds."""

    database: Database
    epoch_seconds: float

    async def advance(self) -> bool:
        """Build the next epoch if it is time, and make it the current one. False if there was nothing to do.

        Idempotent: after a crash, another process takes over when the lease has expired, and writes what is missing.
        """
        lease = await store.claim(self.database, new_id(), age_ms=round(self.epoch_seconds * 1000), lease_ms=LEASE_MS)
        after = None
        while lease is not None:
            page = await documents.ranked(self.database, lease.building.slot, after=after, limit=PAGE)
            scores = {each.id: popularity(each.counters, each.published_at) for each in page}
            changed = {each.id: scores[each.id] for each in page if each.score != scores[each.id]}
            await store.write(self.database, lease, changed)
            if len(page) < PAGE:
                return await store.flip(self.database, lease)
            after = page[-1].feed_at, page[-1].id
            lease = await store.extend(self.database, lease, lease_ms=LEASE_MS)
        return False
