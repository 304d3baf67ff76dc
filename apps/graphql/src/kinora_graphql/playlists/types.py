from datetime import datetime
from enum import StrEnum
from typing import Self
from uuid import UUID

import strawberry

from kinora.media.v1 import playlists_pb2 as pb
from kinora.media.v1.media_pb2 import Visibility as VisibilityNumber
from kinora_graphql.auth.types import User
from kinora_graphql.connections import DEFAULT_FIRST, After, Connection, Edge, First, connection, page_size
from kinora_graphql.context import Context, Info
from kinora_graphql.media.types import Media, Visibility
from kinora_graphql.node.types import Node
from kinora_kit.structs import moment


@strawberry.enum(description="WATCH_LATER: one for each user, always private.")
class PlaylistKind(StrEnum):
    CUSTOM = "custom"
    WATCH_LATER = "watch_later"


@strawberry.type
class PlaylistItem:
    media: Media
    added_at: datetime


@strawberry.type
class Playlist(Node):
    title: str
    visibility: Visibility
    kind: PlaylistKind
    item_count: int = strawberry.field(description="Including items that the caller may not see.")
    created_at: datetime
    updated_at: datetime
    owner_id: strawberry.Private[UUID]

    @strawberry.field(description="Null while the account is being deleted.")
    async def owner(self, info: Info) -> User | None:
        return await User.load(info.context, self.owner_id)

    @strawberry.field(description="In the playlist's order, without what the caller may not see.")
    async def items(self, info: Info, first: First = DEFAULT_FIRST, after: After = None) -> Connection[PlaylistItem]:
        limit = page_size(first)
        request = pb.ListItemsRequest(playlist_id=str(self.uuid), after=after or "", limit=limit)
        with info.context.listing(limit):
            page = await info.context.clients.playlists.ListItems(request)
        edges = [
            Edge(
                cursor=entry.cursor,
                node=PlaylistItem(media=Media.of(entry.media), added_at=moment(entry.added_at)),
            )
            for entry in page.entries
        ]
        return connection(edges, has_more=page.has_more)

    @classmethod
    def of(cls, playlist: pb.Playlist) -> Self:
        return cls(
            uuid=UUID(playlist.id),
            title=playlist.title,
            visibility=Visibility[VisibilityNumber.Name(playlist.visibility).removeprefix("VISIBILITY_")],
            kind=PlaylistKind[pb.PlaylistKind.Name(playlist.kind).removeprefix("PLAYLIST_KIND_")],
            item_count=playlist.size,
            created_at=moment(playlist.created_at),
            updated_at=moment(playlist.updated_at),
            owner_id=UUID(playlist.owner_id),
        )

    @classmethod
    async def load(cls, context: Context, uuid: UUID) -> Self | None:
        playlist = await context.loaders.playlists.load(uuid)
        return cls.of(playlist) if playlist else None


def playlist_page(page: pb.PlaylistPage) -> Connection[Playlist]:
    edges = [Edge(cursor=entry.cursor, node=Playlist.of(entry.playlist)) for entry in page.entries]
    return connection(edges, has_more=page.has_more)
