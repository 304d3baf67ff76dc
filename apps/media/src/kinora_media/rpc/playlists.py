"""gRPC API of playlists: platform/protos/kinora/media/v1/playlists.proto."""
# ruff: noqa: N802 - method names come from the proto

import grpc

from kinora.media.v1 import playlists_pb2 as pb
from kinora.media.v1.playlists_pb2_grpc import PlaylistsServicer, add_PlaylistsServicer_to_server
from kinora_kit.commands import command
from kinora_kit.ids import parse_id
from kinora_kit.rpc import fields, optional_caller, signed_in
from kinora_kit.structs import timestamp
from kinora_media import cursors
from kinora_media.domain import CreationKey, NewPlaylist, Playlist, PlaylistChanges, PlaylistKind
from kinora_media.playlists import Playlists
from kinora_media.rpc.media import OF_NUMBER, VISIBILITIES, message_of, page_size

KINDS = {kind: pb.PlaylistKind.Value(f"PLAYLIST_KIND_{kind.name}") for kind in PlaylistKind}


def register(server: grpc.aio.Server, playlists: Playlists) -> None:
    add_PlaylistsServicer_to_server(PlaylistsRpc(playlists), server)


class PlaylistsRpc(PlaylistsServicer):
    def __init__(self, playlists: Playlists) -> None:
        self._playlists = playlists

    async def BatchGetPlaylists(
        self, request: pb.BatchGetPlaylistsRequest, context: object
    ) -> pb.BatchGetPlaylistsResponse:
        found = await self._playlists.many(optional_caller(), [parse_id(text) for text in request.ids])
        return pb.BatchGetPlaylistsResponse(playlists=map(_message, found))

    async def ListPlaylists(self, request: pb.ListPlaylistsRequest, context: object) -> pb.PlaylistPage:
        before = cursors.in_playlists(request.after) if request.after else None
        user_id, limit = parse_id(request.user_id), page_size(request.limit)
        page = await self._playlists.of_user(optional_caller(), user_id, before=before, limit=limit)
        entries = [
            pb.PlaylistEntry(playlist=_message(playlist), cursor=cursors.of_playlist(playlist))
            for playlist in page.items
        ]
        return pb.PlaylistPage(entries=entries, has_more=page.more)

    async def ListItems(self, request: pb.ListItemsRequest, context: object) -> pb.ItemPage:
        after = cursors.in_items(request.after) if request.after else None
        playlist_id, limit = parse_id(request.playlist_id), page_size(request.limit)
        page = await self._playlists.items(optional_caller(), playlist_id, after=after, limit=limit)
        entries = [
            pb.ItemEntry(
                media=message_of(entry.media),
                added_at=timestamp(entry.item.added_at),
                cursor=cursors.of_item(entry.place),
            )
            for entry in page.items
        ]
        return pb.ItemPage(entries=entries, has_more=page.more)

    async def GetWatchLater(self, request: pb.GetWatchLaterRequest, context: object) -> pb.Playlist:
        return _message(await self._playlists.watch_later(signed_in()))

    async def CreatePlaylist(self, request: pb.CreatePlaylistRequest, context: object) -> pb.Playlist:
        visibility = {"visibility": OF_NUMBER.get(request.visibility)} if request.visibility else {}
        new = command(NewPlaylist, {"title": request.title, **visibility})
        key = command(CreationKey, {"key": request.key}).key
        return _message(await self._playlists.create(signed_in(), new, key=key))

    async def UpdatePlaylist(self, request: pb.UpdatePlaylistRequest, context: object) -> pb.Playlist:
        given = fields(request, "title")
        if request.visibility:
            given["visibility"] = OF_NUMBER.get(request.visibility)
        changes = command(PlaylistChanges, given)
        return _message(await self._playlists.edit(signed_in(), parse_id(request.id), changes))

    async def DeletePlaylist(self, request: pb.DeletePlaylistRequest, context: object) -> pb.DeletePlaylistResponse:
        await self._playlists.delete(signed_in(), parse_id(request.id))
        return pb.DeletePlaylistResponse()

    async def PlaceItem(self, request: pb.PlaceItemRequest, context: object) -> pb.Playlist:
        playlist_id, media_id = parse_id(request.playlist_id), parse_id(request.media_id)
        index = request.index if request.HasField("index") else None
        return _message(await self._playlists.place(signed_in(), playlist_id, media_id, index=index))

    async def RemoveItem(self, request: pb.RemoveItemRequest, context: object) -> pb.Playlist:
        playlist_id, media_id = parse_id(request.playlist_id), parse_id(request.media_id)
        return _message(await self._playlists.remove(signed_in(), playlist_id, media_id))


def _message(playlist: Playlist) -> pb.Playlist:
    return pb.Playlist(
        id=str(playlist.id),
        owner_id=str(playlist.owner_id),
        title=playlist.title,
        visibility=VISIBILITIES[playlist.visibility],
        kind=KINDS[playlist.kind],
        size=len(playlist.items),
        created_at=timestamp(playlist.created_at),
        updated_at=timestamp(playlist.updated_at),
    )
