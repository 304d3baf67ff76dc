import strawberry

from kinora.media.v1 import notifications_pb2 as pb
from kinora_graphql.connections import DEFAULT_FIRST, After, Connection, First, page_size
from kinora_graphql.context import Info
from kinora_graphql.costs import Cost
from kinora_graphql.notifications.types import Notification, notification_page


@strawberry.type
class NotificationsQuery:
    @strawberry.field(description="The caller's notifications, newest first.")
    async def notifications(
        self, info: Info, first: First = DEFAULT_FIRST, after: After = None
    ) -> Connection[Notification]:
        limit = page_size(first)
        request = pb.ListNotificationsRequest(after=after or "", limit=limit)
        with info.context.listing(limit):
            return notification_page(await info.context.clients.notifications.ListNotifications(request))

    @strawberry.field(
        description="How many of the caller's notifications are unread; 100 means 100 or more.",
        directives=[Cost(weight="5")],
    )
    async def unread_notifications(self, info: Info) -> int:
        return (await info.context.clients.notifications.CountUnread(pb.CountUnreadRequest())).count
