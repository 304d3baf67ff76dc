"""Every queue of events: who consumes what.

A queue is called ``<consumer>.<exchange>``, so that the broker's permissions follow from its name: the consumer
declares it, and the owner of the exchange may bind it (pulumi/kinora_environment/grants.py). An event is not published
before all queues listed here for its type exist, so that no consumer misses any.
"""

from kinora.events import auth, media, video
from kinora_kit.events import Payload
from kinora_kit.queues import Queue


def _queue(consumer: str, exchange: str, *events: type[Payload]) -> Queue:
    return Queue(f"{consumer}.{exchange}", [(exchange, event.type) for event in events])


MEDIA_AUTH = _queue("media", auth.EXCHANGE, auth.UserUpdated, auth.UserDeleted)
MEDIA_VIDEO = _queue(
    "media",
    video.EXCHANGE,
    video.UploadStarted,
    video.Uploaded,
    video.Playable,
    video.Ready,
    video.Failed,
    video.Deleted,
)
MEDIA_MEDIA = _queue(
    "media",
    media.EXCHANGE,
    media.MediaPublished,
    media.MediaDeleted,
    media.CommentPosted,
    media.CommentPinned,
    media.CommentDeleted,
    media.HistoryCleared,
)
VIDEO_AUTH = _queue("video", auth.EXCHANGE, auth.UserDeleted)
VIDEO_MEDIA = _queue("video", media.EXCHANGE, media.MediaUpdated, media.MediaDeleted)

ALL = (MEDIA_AUTH, MEDIA_VIDEO, MEDIA_MEDIA, VIDEO_AUTH, VIDEO_MEDIA)


def of(exchange: str) -> list[Queue]:
    """The queues that receive events from an exchange."""
    return [queue for queue in ALL if any(owner == exchange for owner, _ in queue.bindings)]
