from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from kinora.media.v1 import channels_pb2 as pb
from kinora_kit import rpc

if TYPE_CHECKING:
    from kinora.media.v1.channels_pb2_grpc import ChannelsAsyncStub


def load_channels(channels: "ChannelsAsyncStub") -> Callable[[list[UUID]], Awaitable[list[pb.Channel | None]]]:
    async def load(ids: list[UUID]) -> list[pb.Channel | None]:
        request = pb.BatchGetChannelsRequest(user_ids=map(str, dict.fromkeys(ids)))
        found = {UUID(channel.user_id): channel for channel in (await channels.BatchGetChannels(request)).channels}
        return [found.get(user_id) for user_id in ids]

    return load


def load_subscriptions(channels: "ChannelsAsyncStub") -> Callable[[list[UUID]], Awaitable[list[bool]]]:
    """Whether the caller subscribes to each of the channels."""

    async def load(ids: list[UUID]) -> list[bool]:
        if rpc.access_token.get() is None:
            return [False] * len(ids)
        request = pb.ListSubscriptionsRequest(user_ids=map(str, dict.fromkeys(ids)))
        subscribed = set(map(UUID, (await channels.ListSubscriptions(request)).user_ids))
        return [user_id in subscribed for user_id in ids]

    return load
