from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from kinora_kit.events import Payload

EXCHANGE = "media"

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


class CommentDeleted(_Comment):
    type: ClassVar[str] = "comment.deleted"
