from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from kinora.media.v1 import comments_pb2 as pb
from kinora_kit import rpc

if TYPE_CHECKING:
    from kinora.media.v1.comments_pb2_grpc import CommentsAsyncStub


def load_comments(comments: "CommentsAsyncStub") -> Callable[[list[UUID]], Awaitable[list[pb.Comment | None]]]:
    async def load(ids: list[UUID]) -> list[pb.Comment | None]:
        answer = await comments.BatchGetComments(pb.BatchGetCommentsRequest(ids=map(str, dict.fromkeys(ids))))
        found = {UUID(comment.id): comment for comment in answer.comments}
        return [found.get(comment_id) for comment_id in ids]

    return load


def load_comment_likes(comments: "CommentsAsyncStub") -> Callable[[list[UUID]], Awaitable[list[bool]]]:
    """Whether the caller likes each of the comments."""

    async def load(ids: list[UUID]) -> list[bool]:
        if rpc.access_token.get() is None:
            return [False] * len(ids)
        answer = await comments.ListCommentLikes(pb.ListCommentLikesRequest(ids=map(str, dict.fromkeys(ids))))
        liked = set(map(UUID, answer.ids))
        return [comment_id in liked for comment_id in ids]

    return load
