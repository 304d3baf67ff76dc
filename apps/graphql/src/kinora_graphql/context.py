"""The context of every resolver: clients of the other services and this operation's loaders."""

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator
from functools import cached_property
from typing import TypeVar
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


K = TypeVar("K")
T = TypeVar("T")


class Loader(DataLoader[K, T]):
    """A field that is cancelled, because another one failed, does not cancel what others load by the same id."""

    def load(self, key: K) -> Awaitable[T]:
        return asyncio.shield(super().load(key))


class Loaders:
    """Each batches the ids of one event loop iteration into one call; ``None`` for missing or invisible objects."""

    def __init__(self, clients: Clients, *, remember: bool) -> None:
        """``remember``: do not load the same id again."""
        self._clients = clients
        self._remember = remember

    @cached_property
    def users(self) -> Loader[UUID, auth.User | None]:
        return Loader(load_users(self._clients.users), max_batch_size=MAX_BATCH, cache=self._remember)

    @cached_property
    def users_named(self) -> Loader[str, auth.User | None]:
        return Loader(load_users_named(self._clients.users), max_batch_size=MAX_BATCH, cache=self._remember)

    @cached_property
    def profiles(self) -> Loader[UUID, auth.Profile | None]:
        return Loader(load_profiles(self._clients.users), cache=self._remember)

    @cached_property
    def sessions(self) -> Loader[UUID, auth.Session | None]:
        return Loader(load_sessions(self._clients.users), cache=self._remember)

    @cached_property
    def media(self) -> Loader[UUID, media.Media | None]:
        return Loader(load_media(self._clients.catalogue), max_batch_size=MEDIA_BATCH, cache=self._remember)

    @cached_property
    def category_names(self) -> Loader[str, str]:
        return Loader(load_category_names(self._clients.catalogue), cache=self._remember)

    @cached_property
    def videos(self) -> Loader[UUID, video.Video | None]:
        return Loader(load_videos(self._clients.videos), max_batch_size=MAX_BATCH, cache=self._remember)

    @cached_property
    def likes(self) -> Loader[UUID, bool]:
        return Loader(load_likes(self._clients.likes), max_batch_size=MAX_BATCH, cache=self._remember)

    @cached_property
    def notifications(self) -> Loader[UUID, notifications.Notification | None]:
        return Loader(load_notifications(self._clients.notifications), max_batch_size=MAX_BATCH, cache=self._remember)

    @cached_property
    def playlists(self) -> Loader[UUID, playlists.Playlist | None]:
        return Loader(load_playlists(self._clients.playlists), max_batch_size=MAX_BATCH, cache=self._remember)

    @cached_property
    def positions(self) -> Loader[UUID, float | None]:
        return Loader(load_positions(self._clients.watching), max_batch_size=MAX_BATCH, cache=self._remember)

    @cached_property
    def channels(self) -> Loader[UUID, channels.Channel | None]:
        return Loader(load_channels(self._clients.channels), max_batch_size=MAX_BATCH, cache=self._remember)

    @cached_property
    def subscriptions(self) -> Loader[UUID, bool]:
        return Loader(load_subscriptions(self._clients.channels), max_batch_size=MAX_BATCH, cache=self._remember)

    @cached_property
    def comments(self) -> Loader[UUID, comments.Comment | None]:
        return Loader(load_comments(self._clients.comments), max_batch_size=MAX_BATCH, cache=self._remember)

    @cached_property
    def comment_likes(self) -> Loader[UUID, bool]:
        return Loader(load_comment_likes(self._clients.comments), max_batch_size=MAX_BATCH, cache=self._remember)


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
        self.loaders = Loaders(clients, remember=remember)
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
