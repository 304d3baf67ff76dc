from typing import Annotated

import strawberry

from kinora.media.v1 import likes_pb2 as pb
from kinora_graphql.context import Info
from kinora_graphql.ids import parse
from kinora_graphql.media.mutations import ChangedMeanwhile, MediaNotFound
from kinora_graphql.media.types import Media
from kinora_graphql.problems import InvalidInput, outcome


@strawberry.type
class LikePayload:
    media: Media


LikeResult = Annotated[LikePayload | MediaNotFound | ChangedMeanwhile | InvalidInput, strawberry.union("LikeResult")]


@strawberry.type
class LikesMutation:
    @strawberry.mutation(description="Like a video.")
    async def like(self, info: Info, media_id: strawberry.ID) -> LikeResult:
        async def call() -> LikePayload:
            uuid = parse(media_id, "Media", field="mediaId")
            media = await info.context.clients.likes.LikeMedia(pb.LikeMediaRequest(media_id=str(uuid)))
            info.context.loaders.likes.prime(uuid, True, force=True)
            return LikePayload(media=Media.of(media))

        return await outcome(call(), MediaNotFound, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(description="Withdraw a like; no error if there is none.")
    async def unlike(self, info: Info, media_id: strawberry.ID) -> LikeResult:
        async def call() -> LikePayload:
            uuid = parse(media_id, "Media", field="mediaId")
            media = await info.context.clients.likes.UnlikeMedia(pb.UnlikeMediaRequest(media_id=str(uuid)))
            info.context.loaders.likes.prime(uuid, False, force=True)
            return LikePayload(media=Media.of(media))

        return await outcome(call(), MediaNotFound, ChangedMeanwhile, InvalidInput)
