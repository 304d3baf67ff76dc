from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from kinora.media.v1 import notifications_pb2 as pb

if TYPE_CHECKING:
    from kinora.media.v1.notifications_pb2_grpc import NotificationsAsyncStub


def load_notifications(
    notifications: "NotificationsAsyncStub",
) -> Callable[[list[UUID]], Awaitable[list[pb.Notification | None]]]:
    """Only the caller's own; raises NotSignedIn for anonymous callers."""

    async def load(ids: list[UUID]) -> list[pb.Notification | None]:
        request = pb.BatchGetNotificationsRequest(ids=map(str, dict.fromkeys(ids)))
        answer = await notifications.BatchGetNotifications(request)
        found = {UUID(each.id): each for each in answer.notifications}
        return [found.get(notification_id) for notification_id in ids]

    return load
