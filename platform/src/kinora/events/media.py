from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from kinora_kit.events import Payload

EXCHANGE = "media"
COMMENTS_EXCHANGE = "media.comments"
"""Posted comments once more, with the media's id as routing key."""
CHANNELS_EXCHANGE = "media.channels"
"""Once more, published media with the owner's id as routing key, and new subscriptions with the subscriber's."""

Visibility = Literal["private", "unlisted", "public"]


class _Media(Payload):
    media_id: UUID
    owner_id: UUID

    @property
    def subject(self) -> str:
        return str(self.media_id)


class MediaPublished(_Media):
    """The media became ready and public, for the first time or again. Carries the data for search and recommendation.

    A consumer keeps the event with the highest ``version`` of published, updated and deleted: a late redelivery must
    not bring a private video back.
    """

    type: ClassVar[str] = "media.published"
    title: str
    description: str = ""
    tags: tuple[str, ...] = ()
    category: str = ""
    language: str = ""
    duration: float | None = None
    version: int = 0
    """As in MediaUpdated."""
    published_at: datetime | None = None
    """When it was ready and public for the first time."""


class MediaUpdated(_Media):
    type: ClassVar[str] = "media.updated"
    title: str
    description: str = ""
    tags: tuple[str, ...] = ()
    category: str = ""
    language: str = ""
    visibility: Visibility
    version: int
    """Increases with each change of the document; an event with a smaller version is stale."""


class MediaDeleted(_Media):
    type: ClassVar[str] = "media.deleted"


class _Like(_Media):
    user_id: UUID
    version: int
    """Increases with each change of this user's like of this media; the event with the highest one holds."""


class MediaLiked(_Like):
    type: ClassVar[str] = "media.liked"


class MediaUnliked(_Like):
    type: ClassVar[str] = "media.unliked"


class _Comment(_Media):
    comment_id: UUID
    parent_id: UUID | None = None
    """Of a reply: the comment that it belongs to."""


class CommentPosted(_Comment):
    type: ClassVar[str] = "comment.posted"
    author_id: UUID
    answered_id: UUID | None = None
    """Of a reply: the comment or the other reply that it answers."""


class CommentDeleted(_Comment):
    type: ClassVar[str] = "comment.deleted"


class CommentPinned(_Comment):
    """The owner of the media shows this comment before all others."""

    type: ClassVar[str] = "comment.pinned"


class _Subscription(Payload):
    channel_id: UUID
    """Of the channel's user."""
    user_id: UUID
    """Who subscribes."""
    version: int
    """Increases with each change of this user's subscription to this channel; the event with the highest one holds."""

    @property
    def subject(self) -> str:
        return str(self.channel_id)


class ChannelSubscribed(_Subscription):
    type: ClassVar[str] = "channel.subscribed"


class ChannelUnsubscribed(_Subscription):
    type: ClassVar[str] = "channel.unsubscribed"


class RecommendationDismissed(Payload):
    """A user does not want to be recommended a media document, or a channel; with ``dismissed`` false, does again."""

    type: ClassVar[str] = "recommendation.dismissed"
    user_id: UUID
    media_id: UUID | None = None
    channel_id: UUID | None = None
    dismissed: bool
    version: int
    """Increases with each change of this user's choice; the event with the highest one holds."""

    @property
    def subject(self) -> str:
        return str(self.user_id)


class MediaViewed(_Media):
    """Somebody has watched enough for a view; see MediaWatched for who."""

    type: ClassVar[str] = "media.viewed"


class MediaWatched(_Media):
    """How far a user who keeps a history is in a media document."""

    type: ClassVar[str] = "media.watched"
    user_id: UUID
    share: float
    """Of the document that was watched: 0 to 1."""
    position: float
    """Seconds."""
    final: bool = False
    """Whether the user stopped here."""
    version: int
    """Increases with each event of this user and this media; the one with the highest holds."""


class Impression(BaseModel):
    model_config = ConfigDict(frozen=True)

    media_id: UUID
    """Not checked: it may not exist, and a viewer may lie."""
    surface: str
    """Where it was shown: feed, search, channel, subscriptions, similar, for_you, other."""
    position: int
    """In the list, from 0."""


class ImpressionsRecorded(Payload):
    """These media were shown to a viewer."""

    type: ClassVar[str] = "impressions.recorded"
    batch_id: UUID
    """The same if the client repeats its request."""
    user_id: UUID | None = None
    """None for anonymous viewers, and for users without personalisation."""
    impressions: tuple[Impression, ...]

    @property
    def subject(self) -> str:
        return str(self.batch_id)


class HistoryCleared(Payload):
    """A user has removed the watch history up to a time."""

    type: ClassVar[str] = "history.cleared"
    user_id: UUID
    at: datetime

    @property
    def subject(self) -> str:
        return str(self.user_id)


class _PlaylistItem(Payload):
    playlist_id: UUID
    media_id: UUID
    user_id: UUID
    """The playlist's owner."""
    version: int
    """Increases with each change of the playlist."""

    @property
    def subject(self) -> str:
        return str(self.playlist_id)


class PlaylistItemAdded(_PlaylistItem):
    type: ClassVar[str] = "playlist.item_added"


class PlaylistItemRemoved(_PlaylistItem):
    type: ClassVar[str] = "playlist.item_removed"


FEEDS = {
    CommentPosted.type: (COMMENTS_EXCHANGE, "media_id"),
    MediaPublished.type: (CHANNELS_EXCHANGE, "owner_id"),
    ChannelSubscribed.type: (CHANNELS_EXCHANGE, "user_id"),
}
"""Events that are also published to another exchange, by type: its name, and the field that is the routing key."""
