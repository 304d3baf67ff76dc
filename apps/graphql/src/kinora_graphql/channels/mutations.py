from typing import Annotated
from uuid import UUID

import strawberry

from kinora.media.v1 import channels_pb2 as pb
from kinora_graphql.channels.types import Channel
from kinora_graphql.context import Info
from kinora_graphql.ids import make, parse
from kinora_graphql.media.mutations import ChangedMeanwhile, MediaNotFound
from kinora_graphql.problems import InvalidInput, Problem, outcome

CHANNEL = "The id of a channel or of its user."

ChannelId = Annotated[strawberry.ID, strawberry.argument(description=CHANNEL)]


@strawberry.type
class ChannelNotFound(Problem): ...


@strawberry.type
class TooManySubscriptions(Problem): ...


@strawberry.type
class SubscribePayload:
    channel: Channel | None = strawberry.field(description="Null while the account is being deleted.")


SubscribeResult = Annotated[
    SubscribePayload | ChannelNotFound | TooManySubscriptions | ChangedMeanwhile | InvalidInput,
    strawberry.union("SubscribeResult"),
]


@strawberry.type
class HideChannelPayload:
    channel_id: strawberry.ID


HideChannelResult = Annotated[
    HideChannelPayload | ChannelNotFound | ChangedMeanwhile | InvalidInput, strawberry.union("HideChannelResult")
]


@strawberry.type
class NotInterestedPayload:
    media_id: strawberry.ID


NotInterestedResult = Annotated[
    NotInterestedPayload | MediaNotFound | ChangedMeanwhile | InvalidInput, strawberry.union("NotInterestedResult")
]


def _channel(channel_id: str) -> UUID:
    return parse(channel_id, "Channel", "User", field="channelId")


def _media(media_id: str) -> UUID:
    return parse(media_id, "Media", field="mediaId")


async def _payload(info: Info, channel: pb.Channel, *, subscribed: bool) -> SubscribePayload:
    user_id = UUID(channel.user_id)
    info.context.loaders.channels.prime(user_id, channel, force=True)
    info.context.loaders.subscriptions.prime(user_id, subscribed, force=True)
    return SubscribePayload(channel=await Channel.load(info.context, user_id))


@strawberry.type
class ChannelsMutation:
    @strawberry.mutation(description="Subscribe to a channel.")
    async def subscribe(self, info: Info, channel_id: ChannelId) -> SubscribeResult:
        async def call() -> SubscribePayload:
            user_id = _channel(channel_id)
            channel = await info.context.clients.channels.Subscribe(pb.SubscribeRequest(user_id=str(user_id)))
            return await _payload(info, channel, subscribed=True)

        return await outcome(call(), ChannelNotFound, TooManySubscriptions, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(description="No error if there is no subscription.")
    async def unsubscribe(self, info: Info, channel_id: ChannelId) -> SubscribeResult:
        async def call() -> SubscribePayload:
            user_id = _channel(channel_id)
            channel = await info.context.clients.channels.Unsubscribe(pb.UnsubscribeRequest(user_id=str(user_id)))
            return await _payload(info, channel, subscribed=False)

        return await outcome(call(), ChannelNotFound, TooManySubscriptions, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(description="Recommend nothing of a channel to the caller.")
    async def hide_channel(self, info: Info, channel_id: ChannelId) -> HideChannelResult:
        async def call() -> HideChannelPayload:
            user_id = _channel(channel_id)
            await info.context.clients.hiding.HideChannel(pb.HideChannelRequest(user_id=str(user_id)))
            return HideChannelPayload(channel_id=make("Channel", user_id))

        return await outcome(call(), ChannelNotFound, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(description="Undo hideChannel.")
    async def unhide_channel(self, info: Info, channel_id: ChannelId) -> HideChannelResult:
        async def call() -> HideChannelPayload:
            user_id = _channel(channel_id)
            await info.context.clients.hiding.UnhideChannel(pb.UnhideChannelRequest(user_id=str(user_id)))
            return HideChannelPayload(channel_id=make("Channel", user_id))

        return await outcome(call(), ChannelNotFound, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(description="Do not recommend a video to the caller.")
    async def not_interested(self, info: Info, media_id: strawberry.ID) -> NotInterestedResult:
        async def call() -> NotInterestedPayload:
            uuid = _media(media_id)
            await info.context.clients.hiding.HideMedia(pb.HideMediaRequest(media_id=str(uuid)))
            return NotInterestedPayload(media_id=make("Media", uuid))

        return await outcome(call(), MediaNotFound, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(description="Undo notInterested.")
    async def interested(self, info: Info, media_id: strawberry.ID) -> NotInterestedResult:
        async def call() -> NotInterestedPayload:
            uuid = _media(media_id)
            await info.context.clients.hiding.UnhideMedia(pb.UnhideMediaRequest(media_id=str(uuid)))
            return NotInterestedPayload(media_id=make("Media", uuid))

        return await outcome(call(), MediaNotFound, ChangedMeanwhile, InvalidInput)
