"""The gRPC clients of the other services."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # defined only in the type stubs
    from kinora.auth.v1.auth_pb2_grpc import AccountsAsyncStub, ExportsAsyncStub, UsersAsyncStub
    from kinora.media.v1.channels_pb2_grpc import ChannelsAsyncStub, HidingAsyncStub
    from kinora.media.v1.comments_pb2_grpc import CommentsAsyncStub
    from kinora.media.v1.likes_pb2_grpc import LikesAsyncStub
    from kinora.media.v1.media_pb2_grpc import CatalogueAsyncStub, EditingAsyncStub
    from kinora.media.v1.notifications_pb2_grpc import NotificationsAsyncStub
    from kinora.media.v1.playlists_pb2_grpc import PlaylistsAsyncStub
    from kinora.media.v1.watching_pb2_grpc import WatchingAsyncStub
    from kinora.video.v1.video_pb2_grpc import UploadsAsyncStub, VideosAsyncStub


@dataclass(frozen=True)
class Clients:
    """Calls carry the caller's own token, so that the services authorise them."""

    users: "UsersAsyncStub"
    accounts: "AccountsAsyncStub"
    exports: "ExportsAsyncStub"
    catalogue: "CatalogueAsyncStub"
    editing: "EditingAsyncStub"
    channels: "ChannelsAsyncStub"
    hiding: "HidingAsyncStub"
    comments: "CommentsAsyncStub"
    likes: "LikesAsyncStub"
    notifications: "NotificationsAsyncStub"
    playlists: "PlaylistsAsyncStub"
    watching: "WatchingAsyncStub"
    videos: "VideosAsyncStub"
    uploads: "UploadsAsyncStub"
