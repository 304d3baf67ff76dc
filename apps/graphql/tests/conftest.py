"""The graphql process as deployed, with in-memory services behind it.

The services are small fake implementations of the protos, served over real gRPC; Redis and RabbitMQ are those of the
local environment.
"""
# ruff: noqa: N802 - method names come from the protos

import asyncio
import contextlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import grpc
import httpx
import jwt
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from redis.asyncio import Redis
from starlette.types import ASGIApp, Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect

from kinora.auth.v1 import auth_pb2, auth_pb2_grpc
from kinora.events.media import CHANNELS_EXCHANGE, COMMENTS_EXCHANGE
from kinora.events.video import PROGRESS_EXCHANGE, UPLOADS_EXCHANGE
from kinora.media.v1 import (
    channels_pb2,
    channels_pb2_grpc,
    comments_pb2,
    comments_pb2_grpc,
    likes_pb2,
    likes_pb2_grpc,
    media_pb2,
    media_pb2_grpc,
    notifications_pb2,
    notifications_pb2_grpc,
    playlists_pb2,
    playlists_pb2_grpc,
    watching_pb2,
    watching_pb2_grpc,
)
from kinora.video.v1 import video_pb2, video_pb2_grpc
from kinora_graphql.settings import GraphqlSettings
from kinora_graphql.sockets import Router
from kinora_graphql.wiring import wire
from kinora_kit import broker, redis, rpc
from kinora_kit.app import create_app
from kinora_kit.broker import Broker
from kinora_kit.errors import Conflict, DomainError, Forbidden, InvalidInput, NotFound, TooManyRequests
from kinora_kit.identity import AUDIENCE, RemoteKeys, TokenVerifier
from kinora_kit.ids import new_id
from kinora_kit.rpc import optional_caller, signed_in
from kinora_kit.server import BoundedWebSocket
from kinora_kit.structs import from_struct
from kinora_kit.testing import Proxy, free_port, no_session_has_ended, proxy

ISSUER = "http://issuer.test"
EXCHANGES = [PROGRESS_EXCHANGE, UPLOADS_EXCHANGE, COMMENTS_EXCHANGE, CHANNELS_EXCHANGE]


def error(base: type[DomainError], code: str) -> DomainError:
    return base("Refused", code=code)


class Keys:
    """The signing key of the tests' fake auth."""

    def __init__(self) -> None:
        self.private = Ed25519PrivateKey.generate()

    def token(self, user_id: UUID, *, session_id: UUID | None = None, seconds: float = 600) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": str(user_id), "sid": str(session_id or new_id())}
        headers = {"typ": "at+jwt", "kid": "1"}
        return jwt.encode({**claims, "iat": now, "exp": time.time() + seconds}, self.private, "EdDSA", headers=headers)

    async def jwks(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        key = json.loads(OKPAlgorithm.to_jwk(self.private.public_key()))
        body = json.dumps({"keys": [{**key, "kid": "1", "use": "sig", "alg": "EdDSA"}]}).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@dataclass
class World(
    auth_pb2_grpc.UsersServicer,
    auth_pb2_grpc.AccountsServicer,
    media_pb2_grpc.CatalogueServicer,
    media_pb2_grpc.EditingServicer,
    channels_pb2_grpc.ChannelsServicer,
    comments_pb2_grpc.CommentsServicer,
    likes_pb2_grpc.LikesServicer,
    notifications_pb2_grpc.NotificationsServicer,
    playlists_pb2_grpc.PlaylistsServicer,
    watching_pb2_grpc.WatchingServicer,
    video_pb2_grpc.VideosServicer,
    video_pb2_grpc.UploadsServicer,
):
    """The three services. ``calls`` counts their requests."""

    keys: Keys
    users: dict[str, auth_pb2.Profile] = field(default_factory=dict)
    media: dict[str, media_pb2.Media] = field(default_factory=dict)
    videos: dict[str, video_pb2.Video] = field(default_factory=dict)
    progress: dict[str, video_pb2.Progress] = field(default_factory=dict)
    sessions: dict[str, list[auth_pb2.Session]] = field(default_factory=dict)
    """By user."""
    clients: list[auth_pb2.Client] = field(default_factory=list)
    comments: dict[str, comments_pb2.Comment] = field(default_factory=dict)
    likes: defaultdict[UUID, set[str]] = field(default_factory=lambda: defaultdict(set))
    followed: dict[UUID, set[str]] = field(default_factory=dict)
    """The channels of users that are not to follow every second one."""
    searches: list[media_pb2.SearchMediaRequest] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    wrong_passwords: int = 0

    def register(self, server: grpc.aio.Server) -> None:
        auth_pb2_grpc.add_UsersServicer_to_server(self, server)
        auth_pb2_grpc.add_AccountsServicer_to_server(self, server)
        media_pb2_grpc.add_CatalogueServicer_to_server(self, server)
        media_pb2_grpc.add_EditingServicer_to_server(self, server)
        channels_pb2_grpc.add_ChannelsServicer_to_server(self, server)
        comments_pb2_grpc.add_CommentsServicer_to_server(self, server)
        likes_pb2_grpc.add_LikesServicer_to_server(self, server)
        notifications_pb2_grpc.add_NotificationsServicer_to_server(self, server)
        playlists_pb2_grpc.add_PlaylistsServicer_to_server(self, server)
        watching_pb2_grpc.add_WatchingServicer_to_server(self, server)
        video_pb2_grpc.add_VideosServicer_to_server(self, server)
        video_pb2_grpc.add_UploadsServicer_to_server(self, server)

    # Test data

    def add_user(self, username: str = "") -> UUID:
        user_id = new_id()
        name = username or f"user-{user_id.hex[-8:]}"
        user = auth_pb2.User(id=str(user_id), username=name, display_name=name.title())
        self.users[user.id] = auth_pb2.Profile(user=user, email=f"{name}@example.org")
        return user_id

    def add_session(self, user_id: UUID) -> UUID:
        session_id = new_id()
        self.sessions.setdefault(str(user_id), []).append(auth_pb2.Session(id=str(session_id)))
        return session_id

    def add_video(self, owner_id: UUID, *, state: str = "processing", version: int = 1) -> str:
        video_id = str(new_id())
        self.media[video_id] = media_pb2.Media(
            id=video_id,
            owner_id=str(owner_id),
            title="Title",
            visibility=media_pb2.VISIBILITY_PUBLIC,
            state=media_pb2.STATE_PROCESSING,
        )
        self.videos[video_id] = video_pb2.Video(id=video_id, owner_id=str(owner_id), state=state, visibility="public")
        self.progress[video_id] = video_pb2.Progress(
            video_id=video_id, state=state, version=version, bytes_total=5 << 30
        )
        return video_id

    def add_comment(self, media_id: str, author_id: UUID, parent_id: str | None = None) -> str:
        comment_id = str(new_id())
        self.comments[comment_id] = comments_pb2.Comment(
            id=comment_id, media_id=media_id, author_id=str(author_id), parent_id=parent_id, body="Comment"
        )
        return comment_id

    # auth

    async def ListUsers(self, request: auth_pb2.ListUsersRequest, context: Any) -> auth_pb2.ListUsersResponse:
        self.calls["ListUsers"] += 1
        found = [self.users[user_id].user for user_id in request.ids if user_id in self.users]
        names = {name.lower() for name in request.usernames}
        found += [profile.user for profile in self.users.values() if profile.user.username.lower() in names]
        return auth_pb2.ListUsersResponse(users=reversed(found))

    async def GetProfile(self, request: auth_pb2.GetProfileRequest, context: Any) -> auth_pb2.Profile:
        self.calls["GetProfile"] += 1
        return self.users[str(signed_in().user_id)]

    async def Register(self, request: auth_pb2.RegisterRequest, context: Any) -> auth_pb2.Profile:
        self.clients.append(request.client)
        if "@" not in request.email:
            raise InvalidInput.of([("email", "is none"), ("display_name", "is missing")])
        if any(profile.user.username == request.username for profile in self.users.values()):
            raise error(Conflict, "username_taken")
        profile = self.users[str(self.add_user(request.username))]
        profile.email = request.email
        if request.HasField("display_name"):
            profile.user.display_name = request.display_name
        return profile

    async def Login(self, request: auth_pb2.LoginRequest, context: Any) -> auth_pb2.Tokens:
        self.clients.append(request.client)
        for profile in self.users.values():
            if profile.user.username == request.login and request.password == "right":
                token = self.keys.token(UUID(profile.user.id))
                return auth_pb2.Tokens(
                    access_token=token, refresh_token="refresh", expires_in=600, user_id=profile.user.id
                )
        self.wrong_passwords += 1
        if self.wrong_passwords > 3:
            raise TooManyRequests(7)
        raise error(DomainError, "invalid_credentials")

    async def Refresh(self, request: auth_pb2.RefreshRequest, context: Any) -> auth_pb2.Tokens:
        raise error(DomainError, "refresh_token_reused")

    async def Logout(self, request: auth_pb2.LogoutRequest, context: Any) -> auth_pb2.LogoutResponse:
        signed_in()
        return auth_pb2.LogoutResponse()

    async def UpdateProfile(self, request: auth_pb2.UpdateProfileRequest, context: Any) -> auth_pb2.Profile:
        profile = self.users[str(signed_in().user_id)]
        if request.HasField("email"):
            raise error(Forbidden, "wrong_password")
        if request.HasField("bio"):
            profile.user.bio = request.bio
        return profile

    async def ListSessions(self, request: Any, context: Any) -> auth_pb2.ListSessionsResponse:
        self.calls["ListSessions"] += 1
        return auth_pb2.ListSessionsResponse(sessions=self.sessions.get(str(signed_in().user_id), ()))

    async def LogoutAll(self, request: Any, context: Any) -> Any: ...
    async def RevokeSession(self, request: Any, context: Any) -> Any: ...
    async def ChangePassword(self, request: Any, context: Any) -> Any: ...
    async def DeleteAccount(self, request: Any, context: Any) -> Any: ...

    # media

    def _visible(self, media_id: str) -> media_pb2.Media | None:
        media, caller = self.media.get(media_id), optional_caller()
        if media is None or (media.visibility == media_pb2.VISIBILITY_PRIVATE and not self._owned(media, caller)):
            return None
        return media

    @staticmethod
    def _owned(owned: media_pb2.Media | video_pb2.Video, caller: Any) -> bool:
        return caller is not None and owned.owner_id == str(caller.user_id)

    async def ListMedia(self, request: media_pb2.ListMediaRequest, context: Any) -> media_pb2.ListMediaResponse:
        self.calls["ListMedia"] += 1
        assert len(set(request.ids)) == len(request.ids)
        found = [media for media_id in request.ids if (media := self._visible(media_id))]
        return media_pb2.ListMediaResponse(media=reversed(found))

    def _page(self, found: list[media_pb2.Media], after: str, limit: int) -> media_pb2.MediaPage:
        """Newest first; the cursors are ids."""
        newest = sorted(found, key=lambda media: media.id, reverse=True)
        rest = [media for media in newest if not after or media.id < after]
        entries = [media_pb2.MediaEntry(media=media, cursor=media.id) for media in rest[:limit]]
        return media_pb2.MediaPage(entries=entries, has_more=len(rest) > limit)

    async def SearchMedia(self, request: media_pb2.SearchMediaRequest, context: Any) -> media_pb2.MediaPage:
        self.calls["SearchMedia"] += 1
        self.searches.append(request)
        if request.after == "expired":
            raise DomainError("Begin again", status=410, code="cursor_expired")
        return self._page(list(self.media.values()), request.after, request.limit)

    async def ListUserMedia(self, request: media_pb2.ListUserMediaRequest, context: Any) -> media_pb2.MediaPage:
        owned = [media for media in self.media.values() if media.owner_id == request.user_id]
        return self._page([media for media in owned if self._visible(media.id)], request.after, request.limit)

    async def ListCategories(
        self, request: media_pb2.ListCategoriesRequest, context: Any
    ) -> media_pb2.ListCategoriesResponse:
        self.calls["ListCategories"] += 1
        return media_pb2.ListCategoriesResponse(categories=[media_pb2.Category(id="music", name="Music")])

    async def CreateMedia(self, request: media_pb2.CreateMediaRequest, context: Any) -> media_pb2.CreateMediaResponse:
        caller = signed_in()
        if request.size > 10 << 30:
            raise error(Conflict, "file_too_large")
        media_id = self.add_video(caller.user_id, state="uploading")
        media = self.media[media_id]
        media.title, media.tags[:] = request.title, request.tags.tags
        media.category = request.category
        media.visibility = request.visibility or media_pb2.VISIBILITY_PRIVATE
        if request.HasField("publish_at"):
            media.publish_at.CopyFrom(request.publish_at)
        return media_pb2.CreateMediaResponse(id=media_id, upload_url=f"http://upload.test/{media_id}")

    async def UpdateMedia(self, request: media_pb2.UpdateMediaRequest, context: Any) -> media_pb2.Media:
        media = self._writable(request.id)
        if request.HasField("title"):
            if not request.title:
                raise InvalidInput.of([("title", "is empty")])
            media.title = request.title
        if request.HasField("tags"):
            media.tags[:] = request.tags.tags
        if request.visibility:
            media.visibility = request.visibility
        if request.HasField("attributes"):
            media.attributes.Clear()
            media.attributes.update(from_struct(request.attributes))
        return media

    async def DeleteMedia(self, request: media_pb2.DeleteMediaRequest, context: Any) -> media_pb2.DeleteMediaResponse:
        del self.media[self._writable(request.id).id]
        return media_pb2.DeleteMediaResponse()

    async def BatchGetChannels(
        self, request: channels_pb2.BatchGetChannelsRequest, context: Any
    ) -> channels_pb2.BatchGetChannelsResponse:
        self.calls["BatchGetChannels"] += 1
        channels = [channels_pb2.Channel(user_id=user_id, subscribers=7) for user_id in request.user_ids]
        return channels_pb2.BatchGetChannelsResponse(channels=channels)

    async def ListSubscriptions(
        self, request: channels_pb2.ListSubscriptionsRequest, context: Any
    ) -> channels_pb2.ListSubscriptionsResponse:
        self.calls["ListSubscriptions"] += 1
        followed = self.followed.get(signed_in().user_id)
        found = request.user_ids[::2] if followed is None else followed.intersection(request.user_ids)
        return channels_pb2.ListSubscriptionsResponse(user_ids=found)

    async def ListAllSubscriptions(self, request: Any, context: Any) -> channels_pb2.ListSubscriptionsResponse:
        self.calls["ListAllSubscriptions"] += 1
        return channels_pb2.ListSubscriptionsResponse(user_ids=self.followed[signed_in().user_id])

    async def ListSubscribedChannels(
        self, request: channels_pb2.ListSubscribedChannelsRequest, context: Any
    ) -> channels_pb2.ChannelPage:
        self.calls["ListSubscribedChannels"] += 1
        users = list(self.users)[: request.limit]
        entries = [channels_pb2.ChannelEntry(channel=channels_pb2.Channel(user_id=each), cursor=each) for each in users]
        return channels_pb2.ChannelPage(entries=entries)

    async def GetDashboard(self, request: Any, context: Any) -> channels_pb2.Dashboard:
        return channels_pb2.Dashboard()

    async def Subscribe(self, request: Any, context: Any) -> Any: ...
    async def Unsubscribe(self, request: Any, context: Any) -> Any: ...
    async def ListSubscribedMedia(self, request: Any, context: Any) -> media_pb2.MediaPage:
        return media_pb2.MediaPage()

    async def ListComments(self, request: comments_pb2.ListCommentsRequest, context: Any) -> comments_pb2.CommentPage:
        self.calls["ListComments"] += 1
        found = [comment for comment in self.comments.values() if comment.media_id == request.media_id]
        entries = [comments_pb2.CommentEntry(comment=each, cursor=each.id) for each in found[: request.limit]]
        return comments_pb2.CommentPage(entries=entries, has_more=len(found) > request.limit)

    async def BatchGetComments(
        self, request: comments_pb2.BatchGetCommentsRequest, context: Any
    ) -> comments_pb2.BatchGetCommentsResponse:
        self.calls["BatchGetComments"] += 1
        known = [self.comments[comment_id] for comment_id in request.ids if comment_id in self.comments]
        found = [comment for comment in known if self._visible(comment.media_id)]
        return comments_pb2.BatchGetCommentsResponse(comments=reversed(found))

    async def ListCommentLikes(
        self, request: comments_pb2.ListCommentLikesRequest, context: Any
    ) -> comments_pb2.ListCommentLikesResponse:
        self.calls["ListCommentLikes"] += 1
        liked = self.likes[signed_in().user_id]
        return comments_pb2.ListCommentLikesResponse(ids=[each for each in request.ids if each in liked])

    async def ListReplies(self, request: Any, context: Any) -> comments_pb2.CommentPage:
        return comments_pb2.CommentPage()

    async def PostComment(self, request: Any, context: Any) -> Any: ...
    async def EditComment(self, request: Any, context: Any) -> Any: ...
    async def DeleteComment(self, request: Any, context: Any) -> Any: ...
    async def PinComment(self, request: Any, context: Any) -> Any: ...
    async def UnpinComment(self, request: Any, context: Any) -> Any: ...
    async def LikeComment(self, request: Any, context: Any) -> Any: ...
    async def UnlikeComment(self, request: Any, context: Any) -> Any: ...

    async def ListPositions(
        self, request: watching_pb2.ListPositionsRequest, context: Any
    ) -> watching_pb2.ListPositionsResponse:
        self.calls["ListPositions"] += 1
        signed_in()
        return watching_pb2.ListPositionsResponse(positions=dict.fromkeys(request.media_ids[::2], 1.5))

    async def ListNotifications(
        self, request: notifications_pb2.ListNotificationsRequest, context: Any
    ) -> notifications_pb2.NotificationPage:
        """One of each comment, newest first."""
        self.calls["ListNotifications"] += 1
        made = [
            notifications_pb2.Notification(
                id=each.id, kind=notifications_pb2.NOTIFICATION_KIND_REPLY, media_id=each.media_id, comment_id=each.id
            )
            for each in reversed(self.comments.values())
        ]
        entries = [notifications_pb2.NotificationEntry(notification=each, cursor=each.id) for each in made]
        return notifications_pb2.NotificationPage(entries=entries[: request.limit])

    async def BatchGetNotifications(
        self, request: Any, context: Any
    ) -> notifications_pb2.BatchGetNotificationsResponse:
        return notifications_pb2.BatchGetNotificationsResponse()

    async def CountUnread(self, request: Any, context: Any) -> notifications_pb2.Unread:
        return notifications_pb2.Unread()

    async def MarkRead(self, request: Any, context: Any) -> Any: ...
    async def DismissNotification(self, request: Any, context: Any) -> Any: ...

    async def BatchGetPlaylists(self, request: Any, context: Any) -> playlists_pb2.BatchGetPlaylistsResponse:
        return playlists_pb2.BatchGetPlaylistsResponse()

    async def ListPlaylists(self, request: Any, context: Any) -> playlists_pb2.PlaylistPage:
        return playlists_pb2.PlaylistPage()

    async def ListItems(self, request: Any, context: Any) -> playlists_pb2.ItemPage:
        return playlists_pb2.ItemPage()

    async def GetWatchLater(self, request: Any, context: Any) -> Any: ...
    async def CreatePlaylist(self, request: Any, context: Any) -> Any: ...
    async def UpdatePlaylist(self, request: Any, context: Any) -> Any: ...
    async def DeletePlaylist(self, request: Any, context: Any) -> Any: ...
    async def PlaceItem(self, request: Any, context: Any) -> Any: ...
    async def RemoveItem(self, request: Any, context: Any) -> Any: ...

    async def RecordImpressions(self, request: Any, context: Any) -> Any: ...
    async def RecordView(self, request: Any, context: Any) -> Any: ...
    async def ListHistory(self, request: Any, context: Any) -> watching_pb2.HistoryPage:
        return watching_pb2.HistoryPage()

    async def RemoveFromHistory(self, request: Any, context: Any) -> Any: ...
    async def ClearHistory(self, request: Any, context: Any) -> Any: ...
    async def GetPersonalisation(self, request: Any, context: Any) -> watching_pb2.Personalisation:
        return watching_pb2.Personalisation()

    async def SetPersonalisation(self, request: Any, context: Any) -> Any: ...
    async def GetRetention(self, request: Any, context: Any) -> watching_pb2.GetRetentionResponse:
        return watching_pb2.GetRetentionResponse()

    async def ListLikes(self, request: likes_pb2.ListLikesRequest, context: Any) -> likes_pb2.ListLikesResponse:
        self.calls["ListLikes"] += 1
        liked = self.likes[signed_in().user_id]
        return likes_pb2.ListLikesResponse(media_ids=[each for each in request.media_ids if each in liked])

    async def LikeMedia(self, request: likes_pb2.LikeMediaRequest, context: Any) -> media_pb2.Media:
        caller, media = signed_in(), self._visible(request.media_id)
        if media is None:
            raise error(NotFound, "media_not_found")
        self.likes[caller.user_id].add(media.id)
        media.counters.likes = sum(media.id in liked for liked in self.likes.values())
        return media

    async def UnlikeMedia(self, request: Any, context: Any) -> Any: ...
    async def ListLikedMedia(self, request: Any, context: Any) -> media_pb2.MediaPage:
        return media_pb2.MediaPage()

    def _writable(self, media_id: str) -> media_pb2.Media:
        caller = signed_in()
        media = self._visible(media_id)
        if media is None:
            raise error(NotFound, "media_not_found")
        if not self._owned(media, caller):
            raise error(Forbidden, "not_the_owner")
        return media

    # video

    async def ListVideos(self, request: video_pb2.ListVideosRequest, context: Any) -> video_pb2.ListVideosResponse:
        self.calls["ListVideos"] += 1
        found = [self.videos[video_id] for video_id in request.ids if video_id in self.videos]
        return video_pb2.ListVideosResponse(videos=reversed(found))

    async def GetProgress(self, request: video_pb2.GetProgressRequest, context: Any) -> video_pb2.Progress:
        self.calls["GetProgress"] += 1
        caller = signed_in()
        video = self.videos.get(request.video_id)
        if video is None or not self._owned(video, caller):
            raise error(NotFound, "video_not_found")
        return self.progress[request.video_id]

    async def ListProgress(
        self, request: video_pb2.ListProgressRequest, context: Any
    ) -> video_pb2.ListProgressResponse:
        self.calls["ListProgress"] += 1
        mine = [video.id for video in self.videos.values() if self._owned(video, signed_in())]
        found = [self.progress[each] for each in mine if each in request.ids or self.progress[each].state != "ready"]
        return video_pb2.ListProgressResponse(progress=found)

    async def CreateUpload(
        self, request: video_pb2.CreateUploadRequest, context: Any
    ) -> video_pb2.CreateUploadResponse:
        raise NotImplementedError("only media calls it")

    async def ChoosePoster(
        self, request: video_pb2.ChoosePosterRequest, context: Any
    ) -> video_pb2.ChoosePosterResponse:
        signed_in()
        if request.id not in self.videos:
            raise error(NotFound, "video_not_found")
        raise error(Conflict, "not_playable")

    async def DeleteVideo(self, request: video_pb2.DeleteVideoRequest, context: Any) -> video_pb2.DeleteVideoResponse:
        signed_in()
        if self.videos.pop(request.id, None) is None:
            raise error(NotFound, "video_not_found")
        return video_pb2.DeleteVideoResponse()


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, **options: Any) -> AsyncGenerator[str, None]:
    """Serve ``app``; yields its address."""
    port = free_port()
    config = uvicorn.Config(
        app,
        port=port,
        log_config=None,
        proxy_headers=True,
        ws=BoundedWebSocket,
        timeout_graceful_shutdown=1,
        **options,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done()
        await asyncio.sleep(0.01)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running


@pytest.fixture(scope="session")
def kit(environment: Callable[[str], dict[str, str]]) -> dict[str, str]:
    return environment("kit-test")


@pytest.fixture(scope="session")
def keys() -> Keys:
    return Keys()


@pytest.fixture(scope="session")
async def revocations(kit: dict[str, str]) -> AsyncIterator[Redis]:
    async with redis.connect(kit["KINORA_REDIS_URL"], name="graphql-tests") as client:
        await no_session_has_ended(client)
        yield client


@pytest.fixture(scope="session")
async def jwks_url(keys: Keys) -> AsyncIterator[str]:
    async with serving(keys.jwks, interface="asgi3", lifespan="off") as address:
        yield f"http://{address}/jwks.json"


@pytest.fixture(scope="session")
async def services(keys: Keys, jwks_url: str, revocations: Redis) -> AsyncIterator[tuple[World, str]]:
    world, address = World(keys), f"127.0.0.1:{free_port()}"
    verifier = TokenVerifier(keys=RemoteKeys(jwks_url), issuer=ISSUER, revocations=revocations)
    async with rpc.serve(address, world.register, verifier=verifier, drain_seconds=0):
        yield world, address


@pytest.fixture
def world(services: tuple[World, str]) -> World:
    services[0].calls.clear()
    services[0].clients.clear()
    services[0].wrong_passwords = 0
    return services[0]


@pytest.fixture(scope="session")
async def bus(kit: dict[str, str]) -> AsyncIterator[Broker]:
    """A broker connection in the role of media and video."""
    url = kit["KINORA_RABBITMQ_URL"]
    async with broker.connect(url, name="graphql-tests", exchanges=EXCHANGES) as bus:
        await (await bus.channel()).close()
        yield bus


@pytest.fixture(scope="session")
async def broker_proxy(bus: Broker, kit: dict[str, str]) -> AsyncIterator[Proxy]:
    """A proxy between graphql and the broker, to interrupt the connection."""
    async with proxy(kit["KINORA_RABBITMQ_URL"]) as broker_proxy:
        yield broker_proxy


Start = Callable[..., contextlib.AbstractAsyncContextManager[str]]


@pytest.fixture(scope="session")
def start(services: tuple[World, str], jwks_url: str, broker_proxy: Proxy, kit: dict[str, str]) -> Start:
    """``start(**settings)``: run another graphql process; yields its address."""

    @contextlib.asynccontextmanager
    async def starting(**different: Any) -> AsyncIterator[str]:
        values: dict[str, Any] = {
            "http_port": 1,
            "public_url": ISSUER,
            "redis_url": kit["KINORA_REDIS_URL"],
            "rabbitmq_url": broker_proxy.url,
            "jwks_url": jwks_url,
            "auth_grpc": services[1],
            "media_grpc": services[1],
            "video_grpc": services[1],
        }
        settings = GraphqlSettings(**{**values, **different})
        async with serving(create_app(settings, wire, [Router(settings)])) as address:
            yield address

    return starting


@pytest.fixture(scope="session")
async def address(start: Start) -> AsyncIterator[str]:
    """The address of the process that most tests share."""
    async with start() as address:
        yield address


@pytest.fixture(scope="session")
async def http(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as client:
        yield client


Ask = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture(scope="session")
def asking(keys: Keys) -> Callable[[httpx.AsyncClient], Ask]:
    """``asking(http)(document, variables, user_id=None)``: the response to a POST."""

    def asking(http: httpx.AsyncClient) -> Ask:
        async def post(
            document: str, variables: dict[str, Any] | None = None, user_id: UUID | None = None
        ) -> dict[str, Any]:
            headers = {"authorization": f"Bearer {keys.token(user_id)}"} if user_id else {}
            answer = await http.post("/graphql", json={"query": document, "variables": variables}, headers=headers)
            assert answer.status_code == 200, answer.text
            result: dict[str, Any] = answer.json()
            result.pop("extensions", None)  # the cost
            return result

        return post

    return asking


@pytest.fixture(scope="session")
def ask(http: httpx.AsyncClient, asking: Callable[[httpx.AsyncClient], Ask]) -> Ask:
    """Of the process that most tests share."""
    return asking(http)


@pytest.fixture
def open_socket() -> Callable[..., Any]:
    """``open_socket(address, **options of websockets)``: a connection before connection_init."""

    def opening(address: str, **options: Any) -> Any:
        return connect(f"ws://{address}/graphql", subprotocols=["graphql-transport-ws"], **options)  # type: ignore[list-item]

    return opening


@pytest.fixture
async def signed_in_socket(
    address: str, keys: Keys, open_socket: Callable[..., Any]
) -> AsyncIterator[Callable[[UUID], Awaitable[ClientConnection]]]:
    async with contextlib.AsyncExitStack() as stack:

        async def opening(user_id: UUID) -> ClientConnection:
            socket: ClientConnection = await stack.enter_async_context(open_socket(address))
            payload = {"authorization": f"Bearer {keys.token(user_id)}"}
            await socket.send(json.dumps({"type": "connection_init", "payload": payload}))
            assert json.loads(await socket.recv()) == {"type": "connection_ack"}
            return socket

        yield opening
