"""gRPC API: platform/protos/kinora/media/v1, in modules by proto."""

import grpc

from kinora_media.catalogue import Catalogue
from kinora_media.likes import Likes
from kinora_media.rpc import likes as likes_rpc
from kinora_media.rpc import media as media_rpc


def register(server: grpc.aio.Server, catalogue: Catalogue, likes: Likes) -> None:
    media_rpc.register(server, catalogue)
    likes_rpc.register(server, likes)
