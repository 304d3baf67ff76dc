import strawberry

from kinora.media.v1 import likes_pb2 as pb
from kinora_graphql.connections import DEFAULT_FIRST, After, Connection, First, page_size
from kinora_graphql.context import Info
from kinora_graphql.media.types import Media, media_page


@strawberry.type
class LikesQuery:
    @strawberry.field(description="The videos that the caller likes, last liked first.")
    async def liked_media(self, info: Info, first: First = DEFAULT_FIRST, after: After = None) -> Connection[Media]:
        limit = page_size(first)
        with info.context.listing(limit):
            request = pb.ListLikedMediaRequest(after=after or "", limit=limit)
            return media_page(await info.context.clients.likes.ListLikedMedia(request))
