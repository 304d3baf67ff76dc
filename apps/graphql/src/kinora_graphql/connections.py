"""Pages of lists, as Relay's connections: https://relay.dev/graphql/connections.htm. Forward only."""

from typing import Annotated, Generic, TypeVar

import strawberry

from kinora_kit.errors import InvalidInput

T = TypeVar("T")

MAX_FIRST = 50
DEFAULT_FIRST = 20
First = Annotated[int | None, strawberry.argument(description=f"1 to {MAX_FIRST}; null is {DEFAULT_FIRST}.")]
After = Annotated[str | None, strawberry.argument(description="The cursor of an edge, to continue after it.")]


@strawberry.type
class PageInfo:
    has_next_page: bool
    end_cursor: str | None = strawberry.field(description="Null if the page is empty.")
    has_previous_page: bool = strawberry.field(description="Always false: these lists are read forward.", default=False)
    start_cursor: str | None = strawberry.field(description="Null if the page is empty.")


@strawberry.type
class Edge(Generic[T]):
    cursor: str = strawberry.field(description="Opaque, and valid only for the list that it comes from.")
    node: T


@strawberry.type(description="One page of a list.")
class Connection(Generic[T]):
    edges: list[Edge[T]]
    page_info: PageInfo

    @strawberry.field(description="The nodes of the edges.")
    def nodes(self) -> list[T]:
        return [edge.node for edge in self.edges]


def connection(edges: list[Edge[T]], *, has_more: bool) -> Connection[T]:
    return Connection(
        edges=edges,
        page_info=PageInfo(
            has_next_page=has_more,
            end_cursor=edges[-1].cursor if edges else None,
            start_cursor=edges[0].cursor if edges else None,
        ),
    )


def page_size(first: int | None) -> int:
    """Raises InvalidInput unless ``first`` is a legal size of a page."""
    if first is None:
        return DEFAULT_FIRST
    if not 1 <= first <= MAX_FIRST:
        raise InvalidInput.of([("first", f"must be 1 to {MAX_FIRST}")])
    return first
