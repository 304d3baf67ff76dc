from uuid import UUID

import strawberry
from strawberry.types.base import StrawberryObjectDefinition

from kinora_graphql import ids
from kinora_graphql.context import Info
from kinora_graphql.node.types import LISTED, Node, load_list
from kinora_kit.errors import InvalidInput


def _parse(info: Info, text: str, field: str) -> tuple[type[Node], UUID]:
    name, uuid = ids.split(text, field=field)
    definition = info.schema.get_type_by_name(name)
    if isinstance(definition, StrawberryObjectDefinition) and issubclass(definition.origin, Node):
        return definition.origin, uuid
    raise InvalidInput.of([(field, ids.MALFORMED)])


@strawberry.type
class NodeQuery:
    @strawberry.field(
        description="Null if it does not exist or the caller may not see it; for anonymous ones also an error if only"
        " its owner may."
    )
    async def node(self, info: Info, id: strawberry.ID) -> Node | None:  # noqa: A002 - the name clients see
        kind, uuid = _parse(info, id, "id")
        return await kind.load(info.context, uuid)

    @strawberry.field(description=LISTED)
    async def nodes(self, info: Info, ids: list[strawberry.ID]) -> list[Node | None]:
        return await load_list(info.context, (_parse(info, each, "ids") for each in ids))
