from typing import Annotated

import strawberry

from kinora.media.v1 import playlists_pb2 as pb
from kinora.media.v1.media_pb2 import Visibility as VisibilityNumber
from kinora_graphql.context import Info
from kinora_graphql.ids import make, parse
from kinora_graphql.media.mutations import ChangedMeanwhile, MediaNotFound
from kinora_graphql.media.types import Visibility
from kinora_graphql.playlists.types import Playlist
from kinora_graphql.problems import InvalidInput, NotTheOwner, Problem, outcome
from kinora_kit import errors


@strawberry.type
class PlaylistNotFound(Problem): ...


@strawberry.type
class PlaylistFull(Problem): ...


@strawberry.type
class TooManyPlaylists(Problem): ...


@strawberry.input
class CreatePlaylistInput:
    title: str
    visibility: Visibility = Visibility.PRIVATE
    key: str = strawberry.field(
        description="Chosen by the client, such as a UUID: repeated requests with it return the same playlist."
    )


@strawberry.type
class CreatePlaylistPayload:
    playlist: Playlist


CreatePlaylistResult = Annotated[
    CreatePlaylistPayload | TooManyPlaylists | ChangedMeanwhile | InvalidInput,
    strawberry.union("CreatePlaylistResult"),
]


@strawberry.input(description="Fields to change; absent and null fields keep their values.")
class UpdatePlaylistInput:
    title: str | None = strawberry.UNSET
    visibility: Visibility | None = strawberry.UNSET


@strawberry.type
class UpdatePlaylistPayload:
    playlist: Playlist


UpdatePlaylistResult = Annotated[
    UpdatePlaylistPayload | PlaylistNotFound | NotTheOwner | ChangedMeanwhile | InvalidInput,
    strawberry.union("UpdatePlaylistResult"),
]


@strawberry.type
class DeletePlaylistPayload:
    playlist_id: strawberry.ID


DeletePlaylistResult = Annotated[
    DeletePlaylistPayload | PlaylistNotFound | NotTheOwner | InvalidInput, strawberry.union("DeletePlaylistResult")
]


@strawberry.type
class PlaylistItemPayload:
    playlist: Playlist


PlaylistItemResult = Annotated[
    PlaylistItemPayload
    | PlaylistNotFound
    | NotTheOwner
    | MediaNotFound
    | PlaylistFull
    | ChangedMeanwhile
    | InvalidInput,
    strawberry.union("PlaylistItemResult"),
]


def _number(visibility: Visibility) -> VisibilityNumber.ValueType:
    return VisibilityNumber.Value(f"VISIBILITY_{visibility.name}")


@strawberry.type
class PlaylistsMutation:
    @strawberry.mutation
    async def create_playlist(self, info: Info, input: CreatePlaylistInput) -> CreatePlaylistResult:  # noqa: A002
        async def call() -> CreatePlaylistPayload:
            request = pb.CreatePlaylistRequest(title=input.title, visibility=_number(input.visibility), key=input.key)
            made = await info.context.clients.playlists.CreatePlaylist(request)
            return CreatePlaylistPayload(playlist=Playlist.of(made))

        return await outcome(call(), TooManyPlaylists, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation
    async def update_playlist(
        self,
        info: Info,
        id: strawberry.ID,  # noqa: A002
        input: UpdatePlaylistInput,  # noqa: A002
    ) -> UpdatePlaylistResult:
        async def call() -> UpdatePlaylistPayload:
            request = pb.UpdatePlaylistRequest(
                id=str(parse(id, "Playlist")),
                title=input.title if isinstance(input.title, str) else None,
                visibility=_number(input.visibility) if input.visibility else VisibilityNumber.VISIBILITY_UNSPECIFIED,
            )
            return UpdatePlaylistPayload(
                playlist=Playlist.of(await info.context.clients.playlists.UpdatePlaylist(request))
            )

        return await outcome(call(), PlaylistNotFound, NotTheOwner, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation
    async def delete_playlist(self, info: Info, id: strawberry.ID) -> DeletePlaylistResult:  # noqa: A002
        async def call() -> DeletePlaylistPayload:
            uuid = parse(id, "Playlist")
            await info.context.clients.playlists.DeletePlaylist(pb.DeletePlaylistRequest(id=str(uuid)))
            return DeletePlaylistPayload(playlist_id=make("Playlist", uuid))

        return await outcome(call(), PlaylistNotFound, NotTheOwner, InvalidInput)

    @strawberry.mutation(description="Add a video, or move it.")
    async def place_in_playlist(
        self,
        info: Info,
        id: strawberry.ID,  # noqa: A002
        media_id: strawberry.ID,
        index: Annotated[
            int | None, strawberry.argument(description="From 0; null: at the end, or where it is.")
        ] = None,
    ) -> PlaylistItemResult:
        async def call() -> PlaylistItemPayload:
            if index is not None and index < 0:
                raise errors.InvalidInput.of([("index", "must not be negative")])
            request = pb.PlaceItemRequest(
                playlist_id=str(parse(id, "Playlist")),
                media_id=str(parse(media_id, "Media", field="mediaId")),
                index=index,
            )
            return PlaylistItemPayload(playlist=Playlist.of(await info.context.clients.playlists.PlaceItem(request)))

        return await outcome(
            call(), PlaylistNotFound, NotTheOwner, MediaNotFound, PlaylistFull, ChangedMeanwhile, InvalidInput
        )

    @strawberry.mutation(description="No error if it is not an item.")
    async def remove_from_playlist(
        self,
        info: Info,
        id: strawberry.ID,  # noqa: A002
        media_id: strawberry.ID,
    ) -> PlaylistItemResult:
        async def call() -> PlaylistItemPayload:
            request = pb.RemoveItemRequest(
                playlist_id=str(parse(id, "Playlist")), media_id=str(parse(media_id, "Media", field="mediaId"))
            )
            return PlaylistItemPayload(playlist=Playlist.of(await info.context.clients.playlists.RemoveItem(request)))

        return await outcome(
            call(), PlaylistNotFound, NotTheOwner, MediaNotFound, PlaylistFull, ChangedMeanwhile, InvalidInput
        )
