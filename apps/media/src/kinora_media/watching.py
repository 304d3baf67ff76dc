"""The use cases of watching: views, retention, and the watch history."""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from kinora.events.media import HistoryCleared, Impression, ImpressionsRecorded, MediaViewed, MediaWatched
from kinora_kit.errors import InvalidInput
from kinora_kit.events import event
from kinora_kit.identity import Caller
from kinora_kit.mongo import Database, Relay
from kinora_media.catalogue import ATTEMPTS, MAX_BATCH, SERVICE, Catalogue
from kinora_media.clock import now
from kinora_media.domain import BINS, Heartbeat, Impressions, Media, Page, Position, View, Visit, watched
from kinora_media.errors import ChangedMeanwhile, NotTheOwner
from kinora_media.store import channels, history, impressions, views
from kinora_media.store.media import MEDIA
from kinora_media.store.tallies import Thing
from kinora_media.tallies import Tallies
from kinora_media.visible import full_page

HOUR = timedelta(hours=1)
PAUSE = timedelta(minutes=2)
"""A view continues that of the hour before if the last heartbeat is not older."""


@dataclass(frozen=True)
class Viewer:
    """Who watches: a user, or whoever is behind an address."""

    caller: Caller | None
    address: str

    @property
    def name(self) -> str:
        """Of an IPv6 address, the network, which is a household's: anybody has any number of addresses in it."""
        if self.caller:
            return str(self.caller.user_id)
        try:
            address = ipaddress.ip_address(self.address)
        except ValueError:
            return self.address
        return str(ipaddress.ip_network((address, 64), strict=False) if address.version == 6 else address)


@dataclass(frozen=True)
class Watching:
    """A viewer is known by a hash with the salt of the day, so that nobody can tell later who it was."""

    database: Database
    relay: Relay
    tallies: Tallies
    catalogue: Catalogue
    salts: dict[str, bytes] = field(default_factory=dict)

    async def record(self, viewer: Viewer, media_id: UUID, heartbeat: Heartbeat) -> None:
        """It counts a view once per hour, after VIEW_SECONDS or half of a shorter video; the owner does not count."""
        media = await self.catalogue.get(viewer.caller, media_id)
        position = heartbeat.position if media.duration is None else min(heartbeat.position, media.duration)
        if viewer.caller is None or viewer.caller.user_id != media.owner_id:
            await self._view(viewer, media, position)
        if viewer.caller is not None and await channels.keeps_history(self.database, viewer.caller.user_id):
            await self._visit(viewer.caller, media, position, final=heartbeat.final)

    async def _view(self, viewer: Viewer, media: Media, position: float) -> None:
        at = now()
        hour = at.replace(minute=0, second=0, microsecond=0)
        view_id = await self._id(viewer, media.id, hour)
        for _ in range(ATTEMPTS):
            before = await views.find(self.database, view_id)
            if before is None:
                earlier = await views.find(self.database, await self._id(viewer, media.id, hour - HOUR))
                continued = earlier is not None and earlier.counted and at - earlier.at <= PAUSE
                view = View(view_id, media.id, position, at, counted=continued, continued=continued, version=1)
            else:
                view = watched(before, position=position, at=at, duration=media.duration)
            is_new = view.counted and not view.continued and not (before and before.counted)
            viewed = event(SERVICE, MediaViewed(media_id=media.id, owner_id=media.owner_id))
            if await views.save(self.database, view, [viewed] if is_new else []):
                self.relay.wake()
                if view.counted:
                    self.tallies.wake(Thing(MEDIA, media.id))
                return
        raise ChangedMeanwhile

    async def _id(self, viewer: Viewer, media_id: UUID, hour: datetime) -> bytes:
        salt = await self._salt(hour)
        return hmac.digest(salt, f"{media_id} {hour.isoformat()} {viewer.name}".encode(), hashlib.sha256)

    async def _salt(self, at: datetime) -> bytes:
        day = at.date().isoformat()
        if day not in self.salts:
            until = datetime.combine(at.date(), datetime.min.time(), UTC) + timedelta(days=views.VIEW_DAYS)
            found = await views.salt(self.database, day, secrets.token_bytes(32), until=until)
            # Only those of today and of yesterday's last hour are used.
            for old in sorted(self.salts)[:-1]:
                del self.salts[old]
            self.salts[day] = found
        return self.salts[day]

    async def _visit(self, caller: Caller, media: Media, position: float, *, final: bool) -> None:
        for _ in range(ATTEMPTS):
            before = await history.find(self.database, caller.user_id, media.id)
            at = now()
            if before is None:
                visit = Visit(caller.user_id, media.id, position, 0.0, at, version=1)
            else:
                # The rules of a view, for a user's whole history with the document.
                last = View(b"", media.id, before.position, before.at, before.seconds)
                seconds = watched(last, position=position, at=at, duration=media.duration).seconds
                visit = replace(before, position=position, seconds=seconds, at=at, version=before.version + 1)
            share = visit.share(media)
            payload = MediaWatched(
                media_id=media.id,
                owner_id=media.owner_id,
                user_id=caller.user_id,
                share=share,
                position=position,
                final=final,
                version=visit.version,
            )
            # Not each heartbeat: once the viewer stops, and at each quarter.
            is_news = final or int(4 * share) > (int(4 * before.share(media)) if before else 0)
            if await history.save(self.database, visit, [event(SERVICE, payload)] if is_news else []):
                self.relay.wake()
                return
        raise ChangedMeanwhile

    async def record_impressions(self, viewer: Viewer, shown: Impressions, *, key: str) -> None:
        """For recommendations. A repeated request of the viewer with the same ``key`` records nothing."""
        caller = viewer.caller
        personal = caller is not None and await channels.keeps_history(self.database, caller.user_id)
        # As with views, not the viewer's address; the salt changes daily, and so does what a repeat is.
        at = now()
        name = f"impressions {viewer.name} {key}"
        digest = hmac.digest(await self._salt(at), name.encode(), hashlib.sha256)
        payload = ImpressionsRecorded(
            batch_id=UUID(bytes=digest[:16]),
            user_id=caller.user_id if caller and personal else None,
            impressions=tuple(Impression(**each.model_dump()) for each in shown.impressions),
        )
        if await impressions.insert(self.database, payload.batch_id, event(SERVICE, payload), at=at):
            self.relay.wake()

    async def history(self, caller: Caller, *, after: Position | None, limit: int) -> "Page[tuple[Media, Visit]]":
        """What the caller has watched, last watched first, except what is private now."""

        async def read(after: Position | None, size: int) -> list[Visit]:
            return await history.page(self.database, caller.user_id, after=after, limit=size)

        async def show(visits: Sequence[Visit]) -> list[tuple[Media, Visit]]:
            media = {each.id: each for each in await self.catalogue.many(caller, [each.media_id for each in visits])}
            return [(media[visit.media_id], visit) for visit in visits if visit.media_id in media]

        return await full_page(read, show, lambda visit: Position(visit.at, visit.media_id), after=after, limit=limit)

    async def positions(self, caller: Caller, ids: Sequence[UUID]) -> dict[UUID, float]:
        """Where to resume those of the documents that the caller has watched, in seconds."""
        if len(ids) > MAX_BATCH:
            raise InvalidInput(f"At most {MAX_BATCH} ids per request")
        return {visit.media_id: visit.position for visit in await history.many(self.database, caller.user_id, ids)}

    async def forget(self, caller: Caller, media_id: UUID) -> None:
        """Remove one document from the caller's history."""
        await history.delete(self.database, caller.user_id, media_id)

    async def clear(self, caller: Caller) -> None:
        """Remove the caller's whole history."""
        at = now()
        cleared = event(SERVICE, HistoryCleared(user_id=caller.user_id, at=at))
        # The event first: it also removes what a process that dies here would leave.
        await channels.note(self.database, caller.user_id, [cleared])
        self.relay.wake()
        await history.delete_until(self.database, caller.user_id, at)

    async def keeps_history(self, caller: Caller) -> bool:
        return await channels.keeps_history(self.database, caller.user_id)

    async def keep_history(self, caller: Caller, *, on: bool) -> None:
        """Switched off, nothing is added, and no recommendation is derived from what is watched."""
        await channels.keep_history(self.database, caller.user_id, on=on)

    async def retention(self, caller: Caller, media_id: UUID) -> list[int]:
        """How many views have watched each of BINS equal parts of the caller's own document."""
        media = await self.catalogue.get(caller, media_id)
        if media.owner_id != caller.user_id:
            raise NotTheOwner
        return await views.retention(self.database, media_id, BINS)
