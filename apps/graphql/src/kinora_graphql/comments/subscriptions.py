from collections.abc import AsyncGenerator
from functools import partial

import strawberry

from kinora.events.media import CommentPosted
from kinora.media.v1 import comments_pb2 as pb
from kinora.media.v1 import media_pb2 as media_pb
from kinora_graphql.comments.types import Comment
from kinora_graphql.context import Info
from kinora_graphql.hub import Inbox, patiently
from kinora_graphql.ids import parse
from kinora_kit.errors import NotFound


@strawberry.type
class CommentsSubscription:
    @strawberry.subscription(
        description="Comments on a video, and replies, from now on. Completes when the caller may no longer see the"
        " video. May miss some while servers restart: then query them."
    )
    async def comment_posted(self, info: Info, media_id: strawberry.ID) -> AsyncGenerator[Comment, None]:
        clients, uuid, inbox = info.context.clients, parse(media_id, "Media", field="mediaId"), Inbox()

        # Not by loaders: an event stream's would return what they loaded before.
        async def is_visible() -> bool:
            return bool((await clients.catalogue.ListMedia(media_pb.ListMediaRequest(ids=[str(uuid)]))).media)

        async def shown(posted: CommentPosted) -> pb.Comment | None:
            """Asks as the caller, who may no longer see the video."""
            found = await clients.comments.BatchGetComments(pb.BatchGetCommentsRequest(ids=[str(posted.comment_id)]))
            return found.comments[0] if found.comments else None

        if not await is_visible():
            raise NotFound("This media does not exist", code="media_not_found")
        async with info.context.hubs.comments.listening(inbox, uuid):
            async for event in inbox:
                if event is None:
                    continue
                comment = await patiently(partial(shown, event.read(CommentPosted)))
                if comment is not None:
                    yield Comment.of(comment)
                elif not await patiently(is_visible):
                    return
