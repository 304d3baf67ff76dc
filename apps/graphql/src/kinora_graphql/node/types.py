"""Objects with a global id, as Relay requires: https://relay.dev/graphql/objectidentification.htm"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import UUID

import strawberry

from kinora_graphql import ids

if TYPE_CHECKING:  # Context has loaders of all types
    from kinora_graphql.context import Context

LISTED = (
    "In the order of the ids; null where missing or not visible to the caller. All lists of an operation may have 100"
    " ids."
)


@strawberry.interface(description="An object with a global id, by which the query node loads it.")
class Node:
    id: strawberry.ID = strawberry.field(
        default=strawberry.ID(""), description="Opaque, and unique among objects of all types."
    )
    uuid: UUID = strawberry.field(description="The id in REST, and in the addresses of uploads and streams.")

    def __post_init__(self) -> None:
        self.id = ids.make(type(self).__name__, self.uuid)

    @classmethod
    async def load(cls, context: "Context", uuid: UUID) -> Self | None:
        """None if it does not exist or the caller may not see it. Uses one of the operation's loaders."""
        raise NotImplementedError


T = TypeVar("T", bound=Node)


async def load_list(context: "Context", wanted: Iterable[tuple[type[T], UUID]]) -> list[T | None]:
    """In the same order. Raises InvalidInput if the operation lists too many."""
    wanted = list(wanted)
    with context.listing(len(wanted)):
        return await asyncio.gather(*(kind.load(context, uuid) for kind, uuid in wanted))
