from collections.abc import AsyncGenerator
from functools import partial
from uuid import UUID

import strawberry

from kinora.events.media import ChannelSubscribed, MediaPublished
from kinora.media.v1 import channels_pb2 as pb
from kinora.media.v1 import media_pb2 as media_pb
from kinora_graphql.context import Info
from kinora_graphql.hub import Inbox, patiently
from kinora_graphql.media.types import Media
from kinora_kit.errors import NotSignedIn


@strawberry.type
class ChannelsSubscription:
    @strawberry.subscription(
        description="Videos of the channels that the caller subscribes to when they become ready and public, from now"
        " on. May miss some while servers restart: then query subscribedMedia."
    )
    async def media_published(self, info: Info) -> AsyncGenerator[Media, None]:
        clients, inbox = info.context.clients, Inbox()
        if info.context.caller is None:
            raise NotSignedIn

        async def followed() -> list[UUID]:
            answer = await clients.channels.ListAllSubscriptions(pb.ListAllSubscriptionsRequest())
            return [UUID(each) for each in answer.user_ids]

        async def shown(published: MediaPublished) -> media_pb.Media | None:
            """Asks as the caller, who may have unsubscribed, and the video may have turned private."""
            owner = pb.ListSubscriptionsRequest(user_ids=[str(published.owner_id)])
            if not (await clients.channels.ListSubscriptions(owner)).user_ids:
                return None
            found = await clients.catalogue.ListMedia(media_pb.ListMediaRequest(ids=[str(published.media_id)]))
            public = [each for each in found.media if each.visibility == media_pb.VISIBILITY_PUBLIC]
            return public[0] if public else None

        # By the caller's own id come new subscriptions.
        async with info.context.hubs.channels.listening(inbox, info.context.caller.user_id) as listening:
            async for event in inbox:
                if event is None:
                    await listening.add(await patiently(followed))
                elif event.type == ChannelSubscribed.type:
                    await listening.add([event.read(ChannelSubscribed).channel_id])
                elif event.type == MediaPublished.type:
                    media = await patiently(partial(shown, event.read(MediaPublished)))
                    if media is not None:
                        yield Media.of(media)
