import strawberry

from kinora_graphql.context import Info
from kinora_graphql.media.types import Media
from kinora_kit.ids import parse_id


@strawberry.type
class MediaQuery:
    @strawberry.field(description="Null if it does not exist or the caller may not see it.")
    async def media(self, info: Info, id: strawberry.ID) -> Media | None:  # noqa: A002 - the name clients see
        media = await info.context.loaders.media.load(parse_id(id))
        return Media.of(media) if media else None

    @strawberry.field(
        description="In the order of the ids; null where missing or not visible to the caller. All lists of an"
        " operation may have 100 ids."
    )
    async def media_list(self, info: Info, ids: list[strawberry.ID]) -> list[Media | None]:
        wanted = [parse_id(each) for each in ids]
        with info.context.listing(len(wanted)):
            found = await info.context.loaders.media.load_many(wanted)
        return [Media.of(media) if media else None for media in found]
