from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from kinora.media.v1 import playlists_pb2 as pb

if TYPE_CHECKING:
    from kinora.media.v1.playlists_pb2_grpc import PlaylistsAsyncStub


def load_playlists(playlists: "PlaylistsAsyncStub") -> Callable[[list[UUID]], Awaitable[list[pb.Playlist | None]]]:
    async def load(ids: list[UUID]) -> list[pb.Playlist | None]:
        request = pb.BatchGetPlaylistsRequest(ids=map(str, dict.fromkeys(ids)))
        found = {UUID(playlist.id): playlist for playlist in (await playlists.BatchGetPlaylists(request)).playlists}
        return [found.get(playlist_id) for playlist_id in ids]

    return load
