"""What users do not want to see: videos, and channels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from kinora.events.media import RecommendationDismissed
from kinora_kit.events import Event, event
from kinora_kit.identity import Caller
from kinora_media.catalogue import SERVICE, Catalogue
from kinora_media.domain import Mark
from kinora_media.errors import ChannelNotFound
from kinora_media.marks import Marks
from kinora_media.store.marks import HIDDEN_CHANNEL, NOT_INTERESTED
from kinora_media.users import Users


@dataclass(frozen=True)
class Hiding:
    marks: Marks
    catalogue: Catalogue
    users: Users

    async def switch_media(self, caller: Caller, media_id: UUID, *, on: bool) -> None:
        """Do not recommend a document to the caller, or do again."""
        if on:
            await self.catalogue.get(caller, media_id)
        events = _events(media_id=media_id)
        await self.marks.switch(caller, NOT_INTERESTED, media_id, on=on, events=events)

    async def switch_channel(self, caller: Caller, channel_id: UUID, *, on: bool) -> None:
        """Recommend nothing of a channel to the caller, or do again."""
        if on and channel_id not in await self.users.many([channel_id]):
            raise ChannelNotFound
        events = _events(channel_id=channel_id)
        await self.marks.switch(caller, HIDDEN_CHANNEL, channel_id, on=on, events=events)


def _events(*, media_id: UUID | None = None, channel_id: UUID | None = None) -> Callable[[Mark], Sequence[Event]]:
    def of(mark: Mark) -> Sequence[Event]:
        payload = RecommendationDismissed(
            user_id=mark.user_id, media_id=media_id, channel_id=channel_id, dismissed=mark.on, version=mark.version
        )
        return [event(SERVICE, payload)]

    return of
