from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from kinora.media.v1 import likes_pb2 as pb
from kinora_kit import rpc

if TYPE_CHECKING:
    from kinora.media.v1.likes_pb2_grpc import LikesAsyncStub


def load_likes(likes: "LikesAsyncStub") -> Callable[[list[UUID]], Awaitable[list[bool]]]:
    """Whether the caller likes each of the media documents."""

    async def load(ids: list[UUID]) -> list[bool]:
        if rpc.access_token.get() is None:
            return [False] * len(ids)
        answer = await likes.ListLikes(pb.ListLikesRequest(media_ids=map(str, dict.fromkeys(ids))))
        liked = set(map(UUID, answer.media_ids))
        return [media_id in liked for media_id in ids]

    return load
