"""The context of every resolver: clients of the other services and this operation's loaders."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import strawberry
from starlette.requests import HTTPConnection
from strawberry.dataloader import DataLoader
from strawberry.fastapi import BaseContext

from kinora.auth.v1 import auth_pb2 as auth
from kinora.media.v1 import channels_pb2 as channels
from kinora.media.v1 import comments_pb2 as comments
from kinora.media.v1 import media_pb2 as media
from kinora.media.v1 import notifications_pb2 as notifications
from kinora.media.v1 import playlists_pb2 as playlists
from kinora.video.v1 import video_pb2 as video
from kinora_graphql.auth.loaders import load_profiles, load_sessions, load_users, load_users_named
from kinora_graphql.channels.loaders import load_channels, load_subscriptions
from kinora_graphql.clients import Clients
from kinora_graphql.comments.loaders import load_comment_likes, load_comments
from kinora_graphql.documents import Documents
from kinora_graphql.hub import Hubs
from kinora_graphql.likes.loaders import load_likes
from kinora_graphql.media.loaders import BATCH as MEDIA_BATCH
from kinora_graphql.media.loaders import load_category_names, load_media
from kinora_graphql.notifications.loaders import load_notifications
from kinora_graphql.playlists.loaders import load_playlists
from kinora_graphql.rates import Rate, Rates
from kinora_graphql.video.loaders import load_videos
from kinora_graphql.watching.loaders import load_positions
from kinora_graphql.wiring import Wired
from kinora_kit import rpc
from kinora_kit.edge import client_network
from kinora_kit.errors import InvalidInput, InvalidToken
from kinora_kit.identity import Caller, TokenVerifier, bearer
from kinora_kit.streams import Seat

MAX_BATCH = 100
MAX_LISTED = 100


@dataclass(frozen=True)
class Loaders:
    """Each batches the ids of one event loop iteration into one call; ``None`` for missing or invisible objects."""

    users: DataLoader[UUID, auth.User | None]
    users_named: DataLoader[str, auth.User | None]
    profiles: DataLoader[UUID, auth.Profile | None]
    sessions: DataLoader[UUID, auth.Session | None]
    media: DataLoader[UUID, media.Media | None]
    category_names: DataLoader[str, str]
    videos: DataLoader[UUID, video.Video | None]
    likes: DataLoader[UUID, bool]
    notifications: DataLoader[UUID, notifications.Notification | None]
    playlists: DataLoader[UUID, playlists.Playlist | None]
    positions: DataLoader[UUID, float | None]
    channels: DataLoader[UUID, channels.Channel | None]
    subscriptions: DataLoader[UUID, bool]
    comments: DataLoader[UUID, comments.Comment | None]
    comment_likes: DataLoader[UUID, bool]


class Context(BaseContext):
    seat: Seat
    """For WebSockets only."""

    def __init__(
        self,
        *,
        clients: Clients,
        hubs: Hubs,
        documents: Documents,
        rates: Rates,
        network: str,
        verifier: TokenVerifier,
        client: auth.Client,
        caller: Caller | None,
        refusal: InvalidToken | None,
        remember: bool,
    ) -> None:
        super().__init__()
        self.clients = clients
        self.hubs = hubs
        self.documents = documents
        self.rate: Rate | None = None
        """What the client has left."""
        self._rates = rates
        self._network = network
        self.verifier = verifier
        self.client = client
        self.caller = caller
        self.refusal = refusal
        """Why the request's access token was rejected."""
        self.loaders = Loaders(
            users=DataLoader(load_users(clients.users), max_batch_size=MAX_BATCH, cache=remember),
            users_named=DataLoader(load_users_named(clients.users), max_batch_size=MAX_BATCH, cache=remember),
            profiles=DataLoader(load_profiles(clients.users), cache=remember),
            sessions=DataLoader(load_sessions(clients.users), cache=remember),
            media=DataLoader(load_media(clients.catalogue), max_batch_size=MEDIA_BATCH, cache=remember),
            category_names=DataLoader(load_category_names(clients.catalogue), cache=remember),
            videos=DataLoader(load_videos(clients.videos), max_batch_size=MAX_BATCH, cache=remember),
            likes=DataLoader(load_likes(clients.likes), max_batch_size=MAX_BATCH, cache=remember),
            notifications=DataLoader(
                load_notifications(clients.notifications), max_batch_size=MAX_BATCH, cache=remember
            ),
            playlists=DataLoader(load_playlists(clients.playlists), max_batch_size=MAX_BATCH, cache=remember),
            positions=DataLoader(load_positions(clients.watching), max_batch_size=MAX_BATCH, cache=remember),
            channels=DataLoader(load_channels(clients.channels), max_batch_size=MAX_BATCH, cache=remember),
            subscriptions=DataLoader(load_subscriptions(clients.channels), max_batch_size=MAX_BATCH, cache=remember),
            comments=DataLoader(load_comments(clients.comments), max_batch_size=MAX_BATCH, cache=remember),
            comment_likes=DataLoader(load_comment_likes(clients.comments), max_batch_size=MAX_BATCH, cache=remember),
        )
        self._listed = 0

    def charge(self, cost: int) -> None:
        """Raises TooManyRequests if the client has not enough left."""
        client = f"user:{self.caller.user_id}" if self.caller else f"address:{self._network}"
        self.rate = self._rates.charge(client, cost)

    @contextlib.contextmanager
    def listing(self, count: int) -> Iterator[None]:
        """While a list of ``count`` ids is loaded. Limits all lists of an operation, or of a socket's concurrent
        operations, to MAX_LISTED ids: documents are large. Raises InvalidInput."""
        if self._listed + count > MAX_LISTED:
            raise InvalidInput(f"At most {MAX_LISTED} ids per operation")
        self._listed += count
        try:
            yield
        finally:
            self._listed -= count


Info = strawberry.Info[Context, None]


async def get_context(connection: HTTPConnection, wired: Wired) -> Context:
    """The context of one request, or of all operations of one WebSocket.

    An invalid token is not an error yet: client libraries send the expired one along with the mutation that refreshes
    it; see extensions.py. A WebSocket authenticates later, with connection_init; see sockets.py.
    """
    is_request = connection.scope["type"] == "http"
    caller = refusal = None
    try:
        if is_request and (token := bearer(connection.headers)):
            caller = await wired.verifier.verify(token)
    except InvalidToken as error:
        refusal = error
        rpc.access_token.set(None)  # the services would reject every call that carries it
    return Context(
        clients=wired.clients,
        hubs=wired.hubs,
        documents=wired.documents,
        rates=wired.rates,
        network=client_network(connection.scope),
        verifier=wired.verifier,
        client=auth.Client(
            address=connection.client.host if connection.client else "",
            user_agent=connection.headers.get("user-agent", ""),
        ),
        caller=caller,
        refusal=refusal,
        # A WebSocket is long-lived, so cached results would become stale.
        remember=is_request,
    )
