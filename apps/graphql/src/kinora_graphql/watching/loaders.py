from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from kinora.media.v1 import watching_pb2 as pb
from kinora_kit import rpc

if TYPE_CHECKING:
    from kinora.media.v1.watching_pb2_grpc import WatchingAsyncStub


def load_positions(watching: "WatchingAsyncStub") -> Callable[[list[UUID]], Awaitable[list[float | None]]]:
    """Where the caller may resume each of the media documents, in seconds."""

    async def load(ids: list[UUID]) -> list[float | None]:
        if rpc.access_token.get() is None:
            return [None] * len(ids)
        request = pb.ListPositionsRequest(media_ids=map(str, dict.fromkeys(ids)))
        positions = dict((await watching.ListPositions(request)).positions)
        return [positions.get(str(media_id)) for media_id in ids]

    return load
