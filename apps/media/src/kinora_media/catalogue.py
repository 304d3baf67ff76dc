"""The use cases of media documents, called by REST, gRPC and event consumers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from kinora.events.media import MediaDeleted, MediaPublished, MediaUpdated
from kinora_kit.errors import DomainError, Forbidden, InvalidInput, NotFound
from kinora_kit.events import Event, Payload, event
from kinora_kit.identity import Caller
from kinora_kit.ids import new_id
from kinora_kit.mongo import Database, Relay
from kinora_media import domain
from kinora_media.clock import now
from kinora_media.domain import Changes, Creation, Media, Upload
from kinora_media.errors import ChangedMeanwhile, MediaNotFound, NotTheOwner
from kinora_media.pages import Pages
from kinora_media.store import channels, drafts
from kinora_media.store import media as store
from kinora_media.store.media import Tombstone
from kinora_media.videos import Videos

SERVICE = "media"
MAX_BATCH = 100
ATTEMPTS = 20
"""How often a write is attempted when the document is changed concurrently."""


@dataclass(frozen=True)
class Catalogue:
    database: Database
    relay: Relay
    videos: Videos
    pages: Pages
    categories: Mapping[str, str]
    """Names by id."""

    async def get(self, caller: Caller | None, media_id: UUID) -> Media:
        return visible(await self.find(media_id), caller)

    async def find(self, media_id: UUID) -> Media:
        """Also if nobody but its owner may see it."""
        media = await store.find(self.database, media_id)
        if not isinstance(media, Media):
            raise MediaNotFound
        return media

    async def many(self, caller: Caller | None, ids: Sequence[UUID]) -> list[Media]:
        """The documents that the caller may see, in no particular order."""
        if len(ids) > MAX_BATCH:
            raise InvalidInput(f"At most {MAX_BATCH} ids per request")
        return [media for media in await store.many(self.database, ids) if media.visible_to(_user_id(caller))]

    async def create(self, caller: Caller, creation: Creation) -> Upload:
        """Create an upload whose document begins with these fields. Raises InvalidInput, and the errors of video.

        The fields are saved first, as a draft. The video's first event names it, so they are neither lost nor visible
        before the upload exists; without an upload, the draft expires.
        """
        self._check_category(creation, current="")
        at = now()
        draft = domain.edited(Media(id=new_id(), owner_id=caller.user_id, created_at=at, updated_at=at), creation)
        await drafts.insert(self.database, draft)
        if await channels.deleted(self.database, [caller.user_id]):  # after the write, as in apply
            await drafts.delete_of(self.database, caller.user_id)
        return await self.videos.create_upload(draft, filename=creation.filename, size=creation.size)

    async def draft(self, draft_id: UUID, owner_id: UUID, media_id: UUID) -> Media | None:
        """What the owner said of this document in ``create``."""
        return await drafts.use(self.database, draft_id, owner_id, media_id)

    async def edit(self, caller: Caller, media_id: UUID, changes: Changes) -> Media:
        """Once this returns, video enforces the new visibility. Raises an outage if video does not confirm it."""
        for _ in range(ATTEMPTS):
            before = await self._own(caller, media_id)
            self._check_category(changes, current=before.category)
            after = await self._save(before, domain.edited(before, changes))
            if after is not None:
                break
        else:
            raise ChangedMeanwhile
        await self.pages.media_changed(media_id)
        if "visibility" in changes.model_fields_set:
            # Even if nothing changed: an earlier attempt may have failed between saving and this call.
            await self.videos.set_visibility(after)
        return after

    async def add_facets(self) -> None:
        """Add published documents of earlier releases to the lists, without another version."""
        after = UUID(int=0)
        while found := await store.without_facets(self.database, after=after, limit=MAX_BATCH):
            for media in found:
                await store.update(self.database, media, expected_version=media.version, events=[])
            after = found[-1].id

    async def publish_due(self) -> None:
        """Make those documents public whose time has come.

        Several processes may do this: the optimistic lock lets one publish each. Video follows the event.
        """
        while due := await store.due(self.database, until=now(), limit=MAX_BATCH):
            for media in due:
                await self._save(media, domain.published_on_time(media))

    async def pin(self, media: Media, comment_id: UUID | None, events: Sequence[Event]) -> Media:
        """Show a comment of the document before all others, or with None, no longer."""
        await store.pin(self.database, media.id, comment_id, events)
        self.relay.wake()
        return replace(media, pinned_comment_id=comment_id)

    async def delete(self, caller: Caller, media_id: UUID) -> None:
        """Once this returns, the document and its stream are inaccessible.

        Raises an outage if video does not confirm it.
        """
        if isinstance(await store.find(self.database, media_id), Tombstone):
            # An earlier attempt may have failed before the stream was closed, and 404 confirms that it is closed.
            await self.pages.media_changed(media_id)
            await self._close(media_id)
            raise MediaNotFound
        media = await self._own(caller, media_id)
        await self.remove(media.id, media.owner_id)
        await self.pages.media_changed(media_id)
        await self.videos.drop(media.id)

    async def _close(self, media_id: UUID) -> None:
        """Close the stream of a removed document, whose tombstone has no owner; video checks ownership."""
        try:
            await self.videos.drop(media_id)
        except DomainError as error:
            if error.status not in (Forbidden.status, NotFound.status):  # not the caller's, or closed already
                raise

    async def drop(self, caller: Caller, media_id: UUID) -> None:
        """Remove a document because its video was deleted; nothing happens if there is none."""
        media = await store.find(self.database, media_id)
        if isinstance(media, Media):
            if media.owner_id != caller.user_id:
                raise NotTheOwner
            await self.remove(media.id, media.owner_id)
        await self.pages.media_changed(media_id)

    async def drop_all(self, caller: Caller) -> None:
        """Remove all documents of the caller, whose account is deleted next. New ones may be created until then."""
        await drafts.delete_of(self.database, caller.user_id)
        ids = await store.ids_of(self.database, caller.user_id)
        for media_id in ids:
            await self.remove(media_id, caller.user_id)
        await self.pages.media_changed(*ids)

    async def apply(self, media_id: UUID, owner_id: UUID, change: Callable[[Media], Media]) -> None:
        """Apply an event of the video to its document, creating it if missing. Ignored if the document was removed."""
        for _ in range(ATTEMPTS):
            before = await store.find(self.database, media_id)
            if isinstance(before, Tombstone):
                return
            if before is None:
                before = Media(id=media_id, owner_id=owner_id, created_at=now(), updated_at=now())
            if await self._save(before, change(before)) is not None:
                break
        else:
            raise ChangedMeanwhile
        # After the write, because the owner may be deleted concurrently: one of the two then sees the other's write.
        if await channels.deleted(self.database, [owner_id]):
            await self.remove(media_id, owner_id)

    async def remove(self, media_id: UUID, owner_id: UUID) -> None:
        """Idempotent."""
        deleted = event(SERVICE, MediaDeleted(media_id=media_id, owner_id=owner_id))
        if await store.delete(self.database, media_id, owner_id, at=now(), event=deleted):
            self.relay.wake()
        await drafts.delete_of_video(self.database, media_id)

    async def remove_owner(self, owner_id: UUID) -> None:
        """Remove all documents of a user, including ones whose events have not arrived yet."""
        await channels.delete(self.database, owner_id, at=now())
        await drafts.delete_of(self.database, owner_id)
        for media_id in await store.ids_of(self.database, owner_id):
            await self.remove(media_id, owner_id)

    def _check_category(self, changes: Changes, *, current: str) -> None:
        """A document keeps a category that is no longer configured."""
        if "category" in changes.model_fields_set and changes.category not in {"", current, *self.categories}:
            raise InvalidInput.of([("category", "must be one of the platform's categories")])

    async def _own(self, caller: Caller, media_id: UUID) -> Media:
        media = await self.get(caller, media_id)
        if media.owner_id != caller.user_id:
            raise NotTheOwner
        return media

    async def _save(self, before: Media, after: Media) -> Media | None:
        """Save the document with the events it causes. None if it was changed concurrently (optimistic lock)."""
        if after == before and before.version:
            return before
        after = replace(after, version=before.version + 1, updated_at=now())
        if after.published and after.published_at is None:
            after = replace(after, published_at=after.updated_at)
        events = _events(before, after)
        if before.version:
            saved = await store.update(self.database, after, expected_version=before.version, events=events)
        else:
            saved = await store.insert(self.database, after, events)
        if not saved:
            return None
        if events:
            self.relay.wake()
        return after


def visible(media: Media, caller: Caller | None) -> Media:
    """The document, if the caller may see it. Raises MediaNotFound."""
    if not media.visible_to(_user_id(caller)):
        raise MediaNotFound
    return media


def _user_id(caller: Caller | None) -> UUID | None:
    return caller.user_id if caller else None


def _events(before: Media, after: Media) -> list[Event]:
    payloads: list[Payload] = []
    if before.begun and _editable(before) != _editable(after):
        payloads.append(
            MediaUpdated(
                media_id=after.id,
                owner_id=after.owner_id,
                title=after.title,
                description=after.description,
                tags=after.tags,
                category=after.category,
                language=after.language,
                visibility=after.visibility.value,
                version=after.version,
            )
        )
    if after.published and not before.published:
        payloads.append(
            MediaPublished(
                media_id=after.id,
                owner_id=after.owner_id,
                title=after.title,
                description=after.description,
                tags=after.tags,
                category=after.category,
                language=after.language,
                duration=after.duration,
                version=after.version,
                published_at=after.published_at,
            )
        )
    return [event(SERVICE, payload) for payload in payloads]


def _editable(media: Media) -> Sequence[object]:
    return [getattr(media, name) for name in Changes.model_fields]
