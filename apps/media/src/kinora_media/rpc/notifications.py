"""gRPC API of notifications: platform/protos/kinora/media/v1/notifications.proto."""
# ruff: noqa: N802 - method names come from the proto

import grpc

from kinora.media.v1 import notifications_pb2 as pb
from kinora.media.v1.notifications_pb2_grpc import NotificationsServicer, add_NotificationsServicer_to_server
from kinora_kit.commands import command
from kinora_kit.ids import parse_id
from kinora_kit.rpc import signed_in
from kinora_kit.structs import moment, timestamp
from kinora_media import cursors
from kinora_media.domain import NotificationKind, NotificationState, Reading
from kinora_media.notifications import Notifications, Notified
from kinora_media.rpc.media import page_size

KINDS = {kind: pb.NotificationKind.Value(f"NOTIFICATION_KIND_{kind.name}") for kind in NotificationKind}


def register(server: grpc.aio.Server, notifications: Notifications) -> None:
    add_NotificationsServicer_to_server(NotificationsRpc(notifications), server)


class NotificationsRpc(NotificationsServicer):
    def __init__(self, notifications: Notifications) -> None:
        self._notifications = notifications

    async def BatchGetNotifications(
        self, request: pb.BatchGetNotificationsRequest, context: object
    ) -> pb.BatchGetNotificationsResponse:
        found = await self._notifications.many(signed_in(), [parse_id(text) for text in request.ids])
        return pb.BatchGetNotificationsResponse(notifications=map(_message, found))

    async def ListNotifications(self, request: pb.ListNotificationsRequest, context: object) -> pb.NotificationPage:
        after = cursors.in_notifications(request.after) if request.after else None
        page = await self._notifications.page(signed_in(), after=after, limit=page_size(request.limit))
        entries = [
            pb.NotificationEntry(notification=_message(each), cursor=cursors.of_notification(each.notification))
            for each in page.items
        ]
        return pb.NotificationPage(entries=entries, has_more=page.more)

    async def CountUnread(self, request: pb.CountUnreadRequest, context: object) -> pb.Unread:
        return pb.Unread(count=await self._notifications.unread(signed_in()))

    async def MarkRead(self, request: pb.MarkReadRequest, context: object) -> pb.Unread:
        until = moment(request.until) if request.HasField("until") else None
        ids = [parse_id(text) for text in request.ids] if request.ids or until is None else None
        caller = signed_in()
        await self._notifications.read(caller, command(Reading, {"ids": ids, "until": until}))
        return pb.Unread(count=await self._notifications.unread(caller))

    async def DismissNotification(
        self, request: pb.DismissNotificationRequest, context: object
    ) -> pb.DismissNotificationResponse:
        await self._notifications.dismiss(signed_in(), parse_id(request.id))
        return pb.DismissNotificationResponse()


def _message(notified: Notified) -> pb.Notification:
    notification = notified.notification
    return pb.Notification(
        id=str(notification.id),
        kind=KINDS[notification.kind],
        created_at=timestamp(notification.at),
        read=notification.state is NotificationState.READ,
        media_id=str(notification.media_id),
        comment_id=str(notified.comment.id) if notified.comment else None,
    )
