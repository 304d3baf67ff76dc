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
            request = pb.LikeMediaRequest(media_id=str(parse(media_id, "Media", field="mediaId")))
            return LikePayload(media=Media.of(await info.context.clients.likes.LikeMedia(request)))

        return await outcome(call(), MediaNotFound, ChangedMeanwhile, InvalidInput)

    @strawberry.mutation(description="Withdraw a like; no error if there is none.")
    async def unlike(self, info: Info, media_id: strawberry.ID) -> LikeResult:
        async def call() -> LikePayload:
            request = pb.UnlikeMediaRequest(media_id=str(parse(media_id, "Media", field="mediaId")))
            return LikePayload(media=Media.of(await info.context.clients.likes.UnlikeMedia(request)))

        return await outcome(call(), MediaNotFound, ChangedMeanwhile, InvalidInput)
