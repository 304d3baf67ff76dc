"""gRPC API of channels: platform/protos/kinora/media/v1/channels.proto."""
# ruff: noqa: N802 - method names come from the proto

import grpc

from kinora.media.v1 import channels_pb2 as pb
from kinora.media.v1.channels_pb2_grpc import (
    ChannelsServicer,
    HidingServicer,
    add_ChannelsServicer_to_server,
    add_HidingServicer_to_server,
)
from kinora.media.v1.media_pb2 import MediaPage
from kinora_kit.errors import InvalidInput
from kinora_kit.ids import parse_id
from kinora_kit.rpc import signed_in
from kinora_media import cursors
from kinora_media.domain import Channel, Day
from kinora_media.hiding import Hiding
from kinora_media.rpc.media import media_page, page_size
from kinora_media.store.tallies import DAYS
from kinora_media.subscriptions import Subscriptions


def register(server: grpc.aio.Server, subscriptions: Subscriptions, hiding: Hiding) -> None:
    add_ChannelsServicer_to_server(ChannelsRpc(subscriptions), server)
    add_HidingServicer_to_server(HidingRpc(hiding), server)


class ChannelsRpc(ChannelsServicer):
    def __init__(self, subscriptions: Subscriptions) -> None:
        self._subscriptions = subscriptions

    async def BatchGetChannels(
        self, request: pb.BatchGetChannelsRequest, context: object
    ) -> pb.BatchGetChannelsResponse:
        found = await self._subscriptions.channels([parse_id(text) for text in request.user_ids])
        return pb.BatchGetChannelsResponse(channels=map(_message, found.values()))

    async def GetDashboard(self, request: pb.GetDashboardRequest, context: object) -> pb.Dashboard:
        if not 1 <= request.days <= DAYS:
            raise InvalidInput(f"The dashboard has 1 to {DAYS} days")
        found = await self._subscriptions.dashboard(signed_in(), days=request.days)
        days = [pb.Day(date=day.date.isoformat(), changes=_totals(day)) for day in found.days]
        return pb.Dashboard(totals=_totals(found.channel), days=days)

    async def Subscribe(self, request: pb.SubscribeRequest, context: object) -> pb.Channel:
        return _message(await self._subscriptions.switch(signed_in(), parse_id(request.user_id), on=True))

    async def Unsubscribe(self, request: pb.UnsubscribeRequest, context: object) -> pb.Channel:
        return _message(await self._subscriptions.switch(signed_in(), parse_id(request.user_id), on=False))

    async def ListSubscriptions(
        self, request: pb.ListSubscriptionsRequest, context: object
    ) -> pb.ListSubscriptionsResponse:
        found = await self._subscriptions.among(signed_in(), [parse_id(text) for text in request.user_ids])
        return pb.ListSubscriptionsResponse(user_ids=map(str, found))

    async def ListAllSubscriptions(
        self, request: pb.ListAllSubscriptionsRequest, context: object
    ) -> pb.ListSubscriptionsResponse:
        return pb.ListSubscriptionsResponse(user_ids=map(str, await self._subscriptions.all(signed_in())))

    async def ListSubscribedChannels(
        self, request: pb.ListSubscribedChannelsRequest, context: object
    ) -> pb.ChannelPage:
        after = cursors.in_marks(request.after) if request.after else None
        page = await self._subscriptions.mine(signed_in(), after=after, limit=page_size(request.limit))
        entries = [
            pb.ChannelEntry(channel=_message(each.thing), cursor=cursors.of_mark(each.mark)) for each in page.items
        ]
        return pb.ChannelPage(entries=entries, has_more=page.more)

    async def ListSubscribedMedia(self, request: pb.ListSubscribedMediaRequest, context: object) -> MediaPage:
        limit = page_size(request.limit)
        return media_page(await self._subscriptions.media(signed_in(), cursor=request.after or None, limit=limit))


class HidingRpc(HidingServicer):
    def __init__(self, hiding: Hiding) -> None:
        self._hiding = hiding

    async def HideMedia(self, request: pb.HideMediaRequest, context: object) -> pb.HideMediaResponse:
        await self._hiding.switch_media(signed_in(), parse_id(request.media_id), on=True)
        return pb.HideMediaResponse()

    async def UnhideMedia(self, request: pb.UnhideMediaRequest, context: object) -> pb.UnhideMediaResponse:
        await self._hiding.switch_media(signed_in(), parse_id(request.media_id), on=False)
        return pb.UnhideMediaResponse()

    async def HideChannel(self, request: pb.HideChannelRequest, context: object) -> pb.HideChannelResponse:
        await self._hiding.switch_channel(signed_in(), parse_id(request.user_id), on=True)
        return pb.HideChannelResponse()

    async def UnhideChannel(self, request: pb.UnhideChannelRequest, context: object) -> pb.UnhideChannelResponse:
        await self._hiding.switch_channel(signed_in(), parse_id(request.user_id), on=False)
        return pb.UnhideChannelResponse()


def _message(channel: Channel) -> pb.Channel:
    return pb.Channel(user_id=str(channel.user_id), subscribers=channel.subscribers, views=channel.views)


def _totals(of: Channel | Day) -> pb.Totals:
    return pb.Totals(subscribers=of.subscribers, views=of.views, likes=of.likes, comments=of.comments)
