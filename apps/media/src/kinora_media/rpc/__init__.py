"""gRPC API: platform/protos/kinora/media/v1, in modules by proto."""

import grpc

from kinora_kit import export
from kinora_media.rpc import channels, comments, likes, media, notifications, playlists, watching
from kinora_media.use_cases import UseCases


def register(server: grpc.aio.Server, use_cases: UseCases) -> None:
    media.register(server, use_cases.catalogue, use_cases.lists)
    channels.register(server, use_cases.subscriptions, use_cases.hiding)
    comments.register(server, use_cases.comments, use_cases.likes)
    likes.register(server, use_cases.likes)
    watching.register(server, use_cases.watching)
    playlists.register(server, use_cases.playlists)
    notifications.register(server, use_cases.notifications)
    export.register(server, use_cases.exporter)
