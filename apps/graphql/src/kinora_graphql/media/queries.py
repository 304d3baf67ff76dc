import strawberry

from kinora.media.v1 import media_pb2 as pb
from kinora_graphql.context import Info
from kinora_graphql.media.types import Media
from kinora_kit.ids import parse_id
from kinora_kit.rpc import RemoteError


@strawberry.type
class MediaQuery:
    @strawberry.field(description="Null if it does not exist or the caller may not see it.")
    async def media(self, info: Info, id: strawberry.ID) -> Media | None:  # noqa: A002 - the name clients see
        try:
            return Media.of(await info.context.clients.catalogue.GetMedia(pb.GetMediaRequest(id=id)))
        except RemoteError as error:
            if error.status == 404:
                return None
            raise

    @strawberry.field(
        description="In the order of the ids; null where missing or not visible to the caller. All lists of an"
        " operation may have 100 ids."
    )
    async def media_list(self, info: Info, ids: list[strawberry.ID]) -> list[Media | None]:
        wanted = [str(parse_id(each)) for each in ids]
        with info.context.listing(len(wanted)):
            found = await info.context.loaders.media.load_many(wanted)
        return [Media.of(media) if media else None for media in found]
