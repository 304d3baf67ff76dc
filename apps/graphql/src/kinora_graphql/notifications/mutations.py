from datetime import datetime
from typing import Annotated

import strawberry

from kinora.media.v1 import notifications_pb2 as pb
from kinora_graphql.context import Info
from kinora_graphql.ids import make, parse
from kinora_graphql.problems import InvalidInput, Problem, outcome
from kinora_kit import errors
from kinora_kit.structs import timestamp


@strawberry.type
class NotificationNotFound(Problem): ...


@strawberry.input(description="Either ids or until.")
class MarkNotificationsReadInput:
    ids: list[strawberry.ID] | None = strawberry.field(default=None, description="At most 100.")
    until: datetime | None = strawberry.field(default=None, description="All that were created up to this time.")


@strawberry.type
class MarkNotificationsReadPayload:
    unread_notifications: int = strawberry.field(description="As the query of this name.")


MarkNotificationsReadResult = Annotated[
    MarkNotificationsReadPayload | InvalidInput, strawberry.union("MarkNotificationsReadResult")
]


@strawberry.type
class DeleteNotificationPayload:
    notification_id: strawberry.ID


DeleteNotificationResult = Annotated[
    DeleteNotificationPayload | NotificationNotFound | InvalidInput, strawberry.union("DeleteNotificationResult")
]


@strawberry.type
class NotificationsMutation:
    @strawberry.mutation(description="Mark the caller's notifications as read; those of others are ignored.")
    async def mark_notifications_read(
        self,
        info: Info,
        input: MarkNotificationsReadInput,  # noqa: A002
    ) -> MarkNotificationsReadResult:
        async def call() -> MarkNotificationsReadPayload:
            if (input.ids is None) == (input.until is None):
                raise errors.InvalidInput.of([("ids", "give either ids or until")])
            request = pb.MarkReadRequest(
                ids=[str(parse(each, "Notification", field="ids")) for each in input.ids or ()],
                until=timestamp(input.until) if input.until else None,
            )
            answer = await info.context.clients.notifications.MarkRead(request)
            return MarkNotificationsReadPayload(unread_notifications=answer.count)

        return await outcome(call(), InvalidInput)

    @strawberry.mutation
    async def delete_notification(self, info: Info, id: strawberry.ID) -> DeleteNotificationResult:  # noqa: A002
        async def call() -> DeleteNotificationPayload:
            uuid = parse(id, "Notification")
            request = pb.DismissNotificationRequest(id=str(uuid))
            await info.context.clients.notifications.DismissNotification(request)
            return DeleteNotificationPayload(notification_id=make("Notification", uuid))

        return await outcome(call(), NotificationNotFound, InvalidInput)
