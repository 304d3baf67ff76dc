"""A media document and its rules.

A document is built from events that may be duplicated, late and out of order. The functions below that take and return
a ``Media`` are therefore idempotent and commutative.
"""

import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID, uuid5

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StringConstraints,
    model_validator,
)

from kinora_kit.commands import INTEGRAL
from kinora_kit.errors import InvalidInput
from kinora_kit.text import displayable
from kinora_media.clock import in_milliseconds, now

T = TypeVar("T")

MAX_TAGS = 20
MAX_TAG_LENGTH = 50
MAX_ATTRIBUTE_BYTES = 16 << 10
MAX_ATTRIBUTE_DEPTH = 8
LIKE_WEIGHT, COMMENT_WEIGHT = 10, 20
"""In views."""
POPULARITY_AGE = timedelta(days=3)
MAX_PUBLISH_AHEAD = timedelta(days=365)
MAX_INTEGER = (1 << 53) - 1
"""The largest integer that all JSON parsers keep exactly: https://www.rfc-editor.org/rfc/rfc7493#section-2.2"""


class Visibility(StrEnum):
    PRIVATE = "private"
    UNLISTED = "unlisted"
    PUBLIC = "public"


class State(StrEnum):
    """In ascending order of precedence.

    READY is above FAILED, because a failed video may be transcoded again, but a ready one does not fail.
    """

    DRAFT = "draft"
    PROCESSING = "processing"
    PLAYABLE = "playable"
    FAILED = "failed"
    READY = "ready"

    def outranks(self, other: "State") -> bool:
        order = list(State)
        return order.index(self) > order.index(other)


@dataclass(frozen=True)
class Counters:
    """Totals of a media document."""

    views: int = 0
    likes: int = 0
    comments: int = 0


@dataclass(frozen=True)
class Media:
    id: UUID
    owner_id: UUID
    created_at: datetime
    updated_at: datetime
    begun: bool = False
    """Whether ``video.upload_started`` has arrived; until then the document is visible to nobody."""
    version: int = 0
    """Increases with each change."""
    title: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    category: str = ""
    language: str = ""
    visibility: Visibility = Visibility.PRIVATE
    attributes: dict[str, Any] = field(default_factory=dict)
    state: State = State.DRAFT
    duration: float | None = None
    """Seconds."""
    width: int | None = None
    height: int | None = None
    failure_code: str = ""
    failure_detail: str = ""
    publish_at: datetime | None = None
    """When a private document becomes public."""
    published_at: datetime | None = None
    """When it was ready and public for the first time."""
    comments_enabled: bool = True
    """Whether comments can be posted."""
    pinned_comment_id: UUID | None = None
    counters: Counters = field(default=Counters(), compare=False)
    """Changed by tallies only, not with the document."""

    @property
    def published(self) -> bool:
        return self.begun and self.state is State.READY and self.visibility is Visibility.PUBLIC

    def visible_to(self, user_id: UUID | None) -> bool:
        return self.begun and (self.visibility is not Visibility.PRIVATE or self.owner_id == user_id)


@dataclass(frozen=True)
class Mark:
    """What a user switches on and off for a thing: a like, a subscription."""

    user_id: UUID
    thing_id: UUID
    on: bool
    at: datetime
    """Of the last change."""
    version: int
    """Increases with each change."""


VIEW_SECONDS = 10.0
"""How long a viewer must watch for a view, or half of a shorter video."""
SPEED = 2.0
"""The fastest playback that counts as watching."""
SEEK_SECONDS = 5.0
"""How much further than that the position may be because a heartbeat was late; beyond, the viewer has sought."""
BINS = 100
"""In how many equal parts of a video it is counted who watched them."""


@dataclass(frozen=True)
class View:
    """What one viewer has watched of a media document in one hour."""

    id: bytes
    media_id: UUID
    position: float
    """Seconds, as of the last heartbeat."""
    at: datetime
    """Of the last heartbeat."""
    seconds: float = 0.0
    """That were watched."""
    bins: frozenset[int] = frozenset()
    """The parts that were watched."""
    counted: bool = False
    """Whether it is a view, or continues one of the hour before."""
    continued: bool = False
    version: int = 0


@dataclass(frozen=True)
class Visit:
    """An entry of a user's watch history."""

    user_id: UUID
    media_id: UUID
    position: float
    """Seconds: where to resume."""
    seconds: float
    """That were watched, all together."""
    at: datetime
    version: int

    def share(self, media: Media) -> float:
        """Of the document that was watched: 0 to 1."""
        return min(self.seconds / media.duration, 1.0) if media.duration else 0.0


def watched(before: View, *, position: float, at: datetime, duration: float | None) -> View:
    """Apply a heartbeat. No more is watched than SPEED times the time since the last one, and nothing by seeking."""
    step, most = position - before.position, SPEED * (at - before.at).total_seconds()
    seen = min(step, most) if 0 < step <= most + SEEK_SECONDS else 0.0
    view = replace(before, position=position, at=at, seconds=before.seconds + seen, version=before.version + 1)
    if seen and duration:
        first, last = (int(BINS * min(seconds / duration, 1)) for seconds in (before.position, position))
        view = replace(view, bins=before.bins | frozenset(range(first, min(last, BINS - 1) + 1)))
    enough = min(VIEW_SECONDS, duration / 2) if duration else VIEW_SECONDS
    return replace(view, counted=view.counted or view.seconds >= enough)


@dataclass(frozen=True)
class Channel:
    """A user as the owner of videos, with totals."""

    user_id: UUID
    subscribers: int = 0
    views: int = 0
    likes: int = 0
    comments: int = 0


MAX_ITEMS = 500
"""Of a playlist."""


class PlaylistKind(StrEnum):
    CUSTOM = "custom"
    WATCH_LATER = "watch_later"
    """One for each user, always private."""


@dataclass(frozen=True)
class Item:
    media_id: UUID
    added_at: datetime


@dataclass(frozen=True)
class Place:
    """Of an item in its playlist."""

    index: int
    media_id: UUID


@dataclass(frozen=True)
class Playlist:
    id: UUID
    owner_id: UUID
    title: str
    visibility: Visibility
    created_at: datetime
    updated_at: datetime
    kind: PlaylistKind = PlaylistKind.CUSTOM
    items: tuple[Item, ...] = ()
    version: int = 1

    def visible_to(self, user_id: UUID | None) -> bool:
        return self.visibility is not Visibility.PRIVATE or self.owner_id == user_id

    def index(self, media_id: UUID) -> int | None:
        """Of a document, if it is an item."""
        return next((index for index, item in enumerate(self.items) if item.media_id == media_id), None)


def placed(playlist: Playlist, media_id: UUID, *, at: datetime, index: int | None) -> Playlist:
    """With a document at ``index``: moved if it is an item already, otherwise added. None: at the end, or where it is.

    An index beyond the end is the end.
    """
    before = playlist.index(media_id)
    if before is not None and index is None:
        return playlist
    item = Item(media_id, at) if before is None else playlist.items[before]
    rest = [each for each in playlist.items if each.media_id != media_id]
    rest.insert(len(rest) if index is None else index, item)
    return replace(playlist, items=tuple(rest))


def without(playlist: Playlist, media_id: UUID) -> Playlist:
    return replace(playlist, items=tuple(each for each in playlist.items if each.media_id != media_id))


@dataclass(frozen=True)
class Day:
    """How the totals of a channel changed on a day (UTC), deletions included."""

    date: date
    subscribers: int = 0
    views: int = 0
    likes: int = 0
    comments: int = 0


@dataclass(frozen=True)
class Dashboard:
    channel: Channel
    days: Sequence[Day]
    """Latest first; days without a change are missing."""


class CommentOrder(StrEnum):
    NEWEST = "newest"
    TOP = "top"
    """Most liked first."""


@dataclass(frozen=True)
class Comment:
    id: UUID
    media_id: UUID
    owner_id: UUID
    """Of the media document."""
    author_id: UUID | None
    """None: it was deleted, and stays for its replies only."""
    body: str
    created_at: datetime
    parent_id: UUID | None = None
    """Of a reply: the comment that it belongs to, which is not a reply itself."""
    edited_at: datetime | None = None
    version: int = 1
    likes: int = 0
    replies: int = 0
    pinned: bool = False


class NotificationKind(StrEnum):
    VIDEO = "video"
    """A new video of a channel."""
    REPLY = "reply"
    """To a comment."""
    PIN = "pin"
    """Of a comment."""


class NotificationState(StrEnum):
    UNREAD = "unread"
    READ = "read"
    DISMISSED = "dismissed"
    """It is not listed."""


@dataclass(frozen=True)
class Notification:
    user_id: UUID
    """Who is notified."""
    kind: NotificationKind
    media_id: UUID
    subject_id: UUID
    """The new document, the reply, or the pinned comment."""
    at: datetime
    state: NotificationState = NotificationState.UNREAD
    actor_id: UUID | None = None
    """The author of a reply."""

    @property
    def id(self) -> UUID:
        """The same for the same news, so that it is written once."""
        return uuid5(self.user_id, f"{self.kind} {self.subject_id}")


@dataclass(frozen=True)
class TopPosition:
    """In a list that is ordered by both, descending."""

    likes: int
    id: UUID


@dataclass(frozen=True)
class Position:
    """In a list that is ordered by both, descending."""

    at: datetime
    id: UUID


class Sort(StrEnum):
    NEWEST = "newest"
    POPULAR = "popular"


@dataclass(frozen=True)
class Listed:
    """``cursor``: of the next page, if this document is the last one."""

    media: Media
    cursor: str


@dataclass(frozen=True)
class Page(Generic[T]):
    """``more``: whether there are items after the last one."""

    items: Sequence[T]
    more: bool


@dataclass(frozen=True)
class Thread:
    """A page of comments, with their media document, which says who may see them and which one is pinned."""

    media: Media
    comments: Page[Comment]


def begun(media: Media, *, title: str, visibility: Visibility, at: datetime, draft: Media | None = None) -> Media:
    """Apply ``video.upload_started``. A redelivery does not overwrite the owner's edits.

    ``draft``: has all fields that owners edit, of a video that was created with them.
    """
    if media.begun:
        return media
    described = draft or replace(media, title=title, visibility=visibility)
    fields = {name: getattr(described, name) for name in Changes.model_fields}
    return replace(media, begun=True, created_at=at, **fields)


def popularity(counters: Counters, published_at: datetime) -> int:
    """Ten times the interactions make up for POPULARITY_AGE (docs/adr/0022-popularity.md).

    In millionths of that, never negative, and constant as long as the counters are.
    """
    interactions = counters.views + LIKE_WEIGHT * counters.likes + COMMENT_WEIGHT * counters.comments
    age = (published_at - datetime.fromtimestamp(0, UTC)) / POPULARITY_AGE
    return max(0, round(1_000_000 * (math.log10(max(1, interactions)) + age)))


def uploaded(media: Media) -> Media:
    return _advanced(media, State.PROCESSING)


def playable(media: Media, *, duration: float, width: int, height: int) -> Media:
    if media.duration is None:  # the values of `ready` are more accurate
        media = replace(media, duration=duration, width=width, height=height)
    return _advanced(media, State.PLAYABLE)


def ready(media: Media, *, duration: float, width: int, height: int) -> Media:
    media = replace(media, duration=duration, width=width, height=height)
    return _advanced(media, State.READY)


def failed(media: Media, *, code: str, detail: str) -> Media:
    advanced = _advanced(media, State.FAILED)
    return advanced if advanced is media else replace(advanced, failure_code=code, failure_detail=detail)


def _advanced(media: Media, state: State) -> Media:
    if not state.outranks(media.state):
        return media
    return replace(media, state=state, failure_code="", failure_detail="")


def edited(media: Media, changes: "Changes") -> Media:
    """A new visibility takes effect at once, and so cancels a publication that was scheduled before.

    Raises InvalidInput if it is to be published later and is not private until then.
    """
    given = {name: getattr(changes, name) for name in changes.model_fields_set & Changes.model_fields.keys()}
    if "visibility" in given:
        given.setdefault("publish_at", None)
    after = replace(media, **given)
    if after.publish_at is not None and after.visibility is not Visibility.PRIVATE:
        raise InvalidInput.of([("publish_at", "must be private until then")])
    return after


def published_on_time(media: Media) -> Media:
    return replace(media, visibility=Visibility.PUBLIC, publish_at=None)


# Fields that owners edit ---------------------------------------------------------------------------------------------


def _tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Normalised and without duplicates, in the given order."""
    kept = dict.fromkeys(map(normal_tag, tags))
    kept.pop("", None)
    if len(kept) > MAX_TAGS:
        raise ValueError(f"at most {MAX_TAGS} tags")
    if any(len(tag) > MAX_TAG_LENGTH for tag in kept):
        raise ValueError(f"a tag has at most {MAX_TAG_LENGTH} characters")
    return tuple(kept)


def normal_tag(tag: str) -> str:
    return " ".join(displayable(unicodedata.normalize("NFKC", tag).casefold()).split())


def _visible(text: str, *, lines: bool = False) -> str:
    if not (shown := displayable(text, lines=lines)):
        raise ValueError("must show at least one visible character")
    return shown


def _publish_at(at: datetime) -> datetime:
    if not now() < at <= now() + MAX_PUBLISH_AHEAD:
        raise ValueError("must be in the future, and at most a year ahead")
    return in_milliseconds(at)


def _attributes(attributes: dict[str, JsonValue]) -> dict[str, JsonValue]:
    _check_json(attributes, depth=1)
    if len(json.dumps(attributes, ensure_ascii=False).encode()) > MAX_ATTRIBUTE_BYTES:
        raise ValueError(f"at most {MAX_ATTRIBUTE_BYTES} bytes of JSON")
    return attributes


def _check_json(value: JsonValue, *, depth: int) -> None:
    """Rejects values that MongoDB cannot store or that some clients cannot parse."""
    if depth > MAX_ATTRIBUTE_DEPTH + 1:
        raise ValueError(f"nested at most {MAX_ATTRIBUTE_DEPTH} deep")
    if isinstance(value, dict):
        for name, inner in value.items():
            if not name or name.startswith("$") or "." in name or "\0" in name:
                raise ValueError("names must not be empty, begin with $, or contain a dot or NUL")
            _check_json(inner, depth=depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_json(inner, depth=depth + 1)
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError(f"integers must be between -{MAX_INTEGER} and {MAX_INTEGER}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("numbers must be finite")


Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_visible)]
Description = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=10_000),
    AfterValidator(partial(displayable, lines=True)),
]
Tags = Annotated[tuple[str, ...], AfterValidator(_tags)]
Category = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{0,50}$")]
"""Of those that the deployment configures (settings.categories). Empty: none."""
Language = Annotated[str, StringConstraints(pattern=r"^([A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3})?$")]
"""A language tag: language, script and region (https://www.rfc-editor.org/rfc/rfc5646#section-2.1). Empty: unknown."""
PublishAt = Annotated[AwareDatetime, AfterValidator(_publish_at)]
Body = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=5_000),
    AfterValidator(partial(_visible, lines=True)),
]
"""Of a comment."""
Attributes = Annotated[dict[str, JsonValue], AfterValidator(_attributes)]


def _without_defaults(schema: dict[str, Any]) -> None:
    """Generated clients send documented defaults of fields that their users leave out."""
    for documented in schema["properties"].values():
        documented.pop("default", None)


class Changes(BaseModel):
    """An owner's edit. Fields that are not set stay unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_without_defaults)

    title: Title = ""
    description: Description = ""
    tags: Tags = ()
    category: Category = ""
    language: Language = ""
    visibility: Visibility = Visibility.PRIVATE
    attributes: Attributes = {}
    publish_at: PublishAt = Field(
        datetime.max.replace(tzinfo=UTC),
        description="When a private document becomes public. An edit of the visibility cancels it.",
    )
    comments_enabled: StrictBool = True


class Creation(Changes):
    """A new upload, and its document."""

    filename: str = Field(min_length=1, max_length=255)
    size: Annotated[int, Field(ge=0, strict=True, description="Bytes."), INTEGRAL]
    title: Title


@dataclass(frozen=True)
class Upload:
    """``id``: of the video and its document. ``url``: the tus resource that receives the bytes."""

    id: UUID
    url: str


Key = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,64}$")]
"""Chosen by the client for something that it creates, such as a UUID: repeated requests with it create it once."""


class CreationKey(BaseModel):
    model_config = ConfigDict(frozen=True)

    key: Key


class Heartbeat(BaseModel):
    """Of a player, about every ten seconds, and at pauses and seeks."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    position: float = Field(ge=0, le=1e6, allow_inf_nan=False, description="Seconds.")
    final: bool = Field(False, description="Whether the viewer stops here.")


class Surface(StrEnum):
    """Where videos are shown."""

    FEED = "feed"
    SEARCH = "search"
    CHANNEL = "channel"
    SUBSCRIPTIONS = "subscriptions"
    SIMILAR = "similar"
    FOR_YOU = "for_you"
    OTHER = "other"


class Impression(BaseModel):
    """A video that was shown to a viewer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    media_id: UUID
    surface: Surface
    position: Annotated[int, Field(ge=0, lt=10_000, strict=True, description="In the list, from 0."), INTEGRAL]


class Impressions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    impressions: list[Impression] = Field(min_length=1, max_length=100)


class Reading(BaseModel):
    """Which notifications were read: some, or all up to a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: Annotated[list[UUID], Field(max_length=100)] | None = None
    until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _one(self) -> "Reading":
        if (self.ids is None) == (self.until is None):
            raise ValueError("give either ids or until")
        return self


class NewPlaylist(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Title
    visibility: Visibility = Visibility.PRIVATE


class PlaylistChanges(BaseModel):
    """An owner's edit. Fields that are not set stay unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_without_defaults)

    title: Title = ""
    visibility: Visibility = Visibility.PRIVATE


class Words(BaseModel):
    """The text of a comment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body: Body
