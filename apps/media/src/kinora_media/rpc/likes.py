"""gRPC API of likes: platform/protos/kinora/media/v1/likes.proto."""
# ruff: noqa: N802 - method names come from the proto

import grpc

from kinora.media.v1 import likes_pb2 as pb
from kinora.media.v1.likes_pb2_grpc import LikesServicer, add_LikesServicer_to_server
from kinora.media.v1.media_pb2 import Media, MediaEntry, MediaPage
from kinora_kit.ids import parse_id
from kinora_kit.rpc import signed_in
from kinora_media import cursors
from kinora_media.likes import Likes
from kinora_media.rpc.media import message_of, page_size


def register(server: grpc.aio.Server, likes: Likes) -> None:
    add_LikesServicer_to_server(LikesRpc(likes), server)


class LikesRpc(LikesServicer):
    def __init__(self, likes: Likes) -> None:
        self._likes = likes

    async def LikeMedia(self, request: pb.LikeMediaRequest, context: object) -> Media:
        return message_of(await self._likes.switch(signed_in(), parse_id(request.media_id), on=True))

    async def UnlikeMedia(self, request: pb.UnlikeMediaRequest, context: object) -> Media:
        return message_of(await self._likes.switch(signed_in(), parse_id(request.media_id), on=False))

    async def ListLikes(self, request: pb.ListLikesRequest, context: object) -> pb.ListLikesResponse:
        liked = await self._likes.among(signed_in(), [parse_id(text) for text in request.media_ids])
        return pb.ListLikesResponse(media_ids=map(str, liked))

    async def ListLikedMedia(self, request: pb.ListLikedMediaRequest, context: object) -> MediaPage:
        after = cursors.in_marks(request.after) if request.after else None
        page = await self._likes.mine(signed_in(), after=after, limit=page_size(request.limit))
        entries = [MediaEntry(media=message_of(each.thing), cursor=cursors.of_mark(each.mark)) for each in page.items]
        return MediaPage(entries=entries, has_more=page.more)
