import strawberry

from kinora.media.v1 import playlists_pb2 as pb
from kinora_graphql.connections import DEFAULT_FIRST, After, Connection, First, page_size
from kinora_graphql.context import Info
from kinora_graphql.ids import parse
from kinora_graphql.playlists.types import Playlist, playlist_page
from kinora_kit.errors import NotSignedIn


@strawberry.type
class PlaylistsQuery:
    @strawberry.field(description="Null if it does not exist or the caller may not see it.")
    async def playlist(self, info: Info, id: strawberry.ID) -> Playlist | None:  # noqa: A002 - the name clients see
        return await Playlist.load(info.context, parse(id, "Playlist"))

    @strawberry.field(
        description="A user's playlists, newest first: all for that user, public ones for others. Without userId, the"
        " caller's."
    )
    async def playlists(
        self,
        info: Info,
        user_id: strawberry.ID | None = None,
        first: First = DEFAULT_FIRST,
        after: After = None,
    ) -> Connection[Playlist]:
        if user_id is not None:
            of = parse(user_id, "User", "Channel", field="userId")
        elif info.context.caller is not None:
            of = info.context.caller.user_id
        else:
            raise NotSignedIn
        limit = page_size(first)
        with info.context.listing(limit):
            request = pb.ListPlaylistsRequest(user_id=str(of), after=after or "", limit=limit)
            return playlist_page(await info.context.clients.playlists.ListPlaylists(request))

    @strawberry.field(description="The caller's playlist of what to watch later; null and an error for anonymous ones.")
    async def watch_later(self, info: Info) -> Playlist | None:
        return Playlist.of(await info.context.clients.playlists.GetWatchLater(pb.GetWatchLaterRequest()))
