"""The estimated cost of an operation, before it is executed, and its limits.

After IBM's specification (https://ibm.github.io/graphql-specs/cost-spec.html): a field weighs what its ``@cost`` says,
otherwise 1 if it returns objects and 0 if not; a list multiplies what is selected of its items by its size, which
``@listSize`` describes. Roughly, 1 is one object to be loaded. In one point it is more general: a slicing argument may
also be a list, whose length then counts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import strawberry
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    get_nullable_type,
    is_leaf_type,
)
from strawberry.schema_directive import Location

from kinora_kit.errors import DomainError

MUTATION = "10"
"""The weight of a mutation that does not say otherwise: it writes."""


@strawberry.schema_directive(
    locations=[Location.FIELD_DEFINITION], name="cost", description="What a field adds to the cost of an operation."
)
class Cost:
    weight: str


@strawberry.schema_directive(
    locations=[Location.FIELD_DEFINITION],
    name="listSize",
    description="The size of a list, or of the lists in sizedFields: what one of slicingArguments says (a number, or"
    " the length of a list), otherwise assumedSize.",
)
class ListSize:
    assumed_size: int | None = strawberry.UNSET
    slicing_arguments: list[str] | None = strawberry.UNSET
    sized_fields: list[str] | None = strawberry.UNSET


def declare(mutation: type, *types: type) -> None:
    """Add the directives that follow from conventions: mutations are costly, ``first`` is the size of a connection, and
    ``ids`` that of a list."""
    for kind in (mutation, *types):
        for field in kind.__strawberry_definition__.fields:  # type: ignore[attr-defined]
            arguments = {argument.python_name for argument in field.arguments}
            said = {type(directive) for directive in field.directives}
            added: list[object] = []
            if kind is mutation and Cost not in said:
                added.append(Cost(weight=MUTATION))
            if "first" in arguments and ListSize not in said:
                added.append(ListSize(slicing_arguments=["first"], sized_fields=["edges", "nodes"]))
            if "ids" in arguments and ListSize not in said:
                added.append(ListSize(slicing_arguments=["ids"]))
            field.directives = [*field.directives, *added]


@dataclass(frozen=True)
class Price:
    """The cost of a field."""

    weight: int
    is_list: bool
    size: ListSize | None
    defaults: Mapping[str, Any]
    """Of its arguments, by their names."""
    returns: str


Prices = Mapping[str, Mapping[str, Price]]
"""By type and field."""


def prices(schema: GraphQLSchema) -> Prices:
    return {
        name: {field: _price(definition) for field, definition in kind.fields.items()}
        for name, kind in schema.type_map.items()
        if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType) and not name.startswith("__")
    }


def _price(field: GraphQLField) -> Price:
    declared = field.extensions["strawberry-definition"].directives
    cost = next((each for each in declared if isinstance(each, Cost)), None)
    kind = get_named_type(field.type)
    return Price(
        weight=int(cost.weight) if cost else int(not is_leaf_type(kind)),
        is_list=isinstance(get_nullable_type(field.type), GraphQLList),
        size=next((each for each in declared if isinstance(each, ListSize)), None),
        defaults={name: argument.default_value for name, argument in field.args.items()},
        returns=kind.name,
    )


class OperationTooLarge(DomainError):
    code = "invalid_query"
    title = "The operation is larger than allowed"


@dataclass(frozen=True)
class Measured:
    depth: int = 0
    aliases: int = 0
    cost: int = 0


@dataclass(frozen=True)
class Limits:
    """Of one operation, including its fragments."""

    depth: int
    aliases: int
    cost: int

    def check(self, measured: Measured) -> None:
        """Raises OperationTooLarge."""
        if measured.depth > self.depth:
            raise OperationTooLarge(f"The operation nests deeper than {self.depth} levels")
        if measured.aliases > self.aliases:
            raise OperationTooLarge(f"The operation has more than {self.aliases} aliases")
        if measured.cost > self.cost:
            raise OperationTooLarge(f"The operation costs {measured.cost}, and at most {self.cost} are allowed")


class Measuring:
    """Of one operation. Takes linear time, because it measures each fragment once (for each size of its lists)."""

    def __init__(
        self,
        prices: Prices,
        document: DocumentNode,
        operation: OperationDefinitionNode,
        variables: dict[str, Any] | None,
    ) -> None:
        self._prices = prices
        self._fragments = {
            each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)
        }
        defaults = {each.variable.name.value: each.default_value for each in operation.variable_definitions or ()}
        self._variables = {name: _literal(value) for name, value in defaults.items()} | (variables or {})
        self._measured: dict[tuple[str, object], Measured] = {}

    def measure(
        self, selections: SelectionSetNode | None, kind: str, sized: tuple[list[str], int] | None = None
    ) -> Measured:
        """``sized``: the fields whose size the field around them determines, and that size."""
        depth = aliases = cost = 0
        for each in self._each(selections, kind, sized):
            depth = max(depth, each.depth)
            aliases += each.aliases
            cost += each.cost
        return Measured(depth, aliases, cost)

    def _each(
        self, selections: SelectionSetNode | None, kind: str, sized: tuple[list[str], int] | None
    ) -> Iterator[Measured]:
        for selection in selections.selections if selections else ():
            if isinstance(selection, FieldNode):
                yield self._field(selection, kind, sized)
            elif isinstance(selection, InlineFragmentNode):
                condition = selection.type_condition
                yield self.measure(selection.selection_set, condition.name.value if condition else kind, sized)
            elif isinstance(selection, FragmentSpreadNode):
                yield self._fragment(self._fragments[selection.name.value], sized)

    def _fragment(self, fragment: FragmentDefinitionNode, sized: tuple[list[str], int] | None) -> Measured:
        key = fragment.name.value, sized and (*sized[0], sized[1])
        if key not in self._measured:
            self._measured[key] = self.measure(fragment.selection_set, fragment.type_condition.name.value, sized)
        return self._measured[key]

    def _field(self, node: FieldNode, kind: str, sized: tuple[list[str], int] | None) -> Measured:
        name = node.name.value
        price = self._prices.get(kind, {}).get(name)
        if price is None:  # introspection, whose depth graphql-core limits
            inner = self.measure(node.selection_set, "")
            return Measured(0, inner.aliases + (node.alias is not None), 0)
        size = self._size(node, price) if price.size else 1
        within = (price.size.sized_fields, size) if price.size and price.size.sized_fields else None
        inner = self.measure(node.selection_set, price.returns, within)
        times = 1
        if price.is_list:
            times = sized[1] if sized and name in sized[0] else size
        return Measured(inner.depth + 1, inner.aliases + (node.alias is not None), times * (price.weight + inner.cost))

    def _size(self, node: FieldNode, price: Price) -> int:
        assert price.size is not None  # noqa: S101
        given = {argument.name.value: argument.value for argument in node.arguments or ()}
        for name in price.size.slicing_arguments or ():
            value = self._value(given.get(name))
            if value is None:
                value = price.defaults.get(name)
            if isinstance(value, list):
                return len(value)
            if isinstance(value, int):
                return max(value, 0)
        return price.size.assumed_size or 1

    def _value(self, node: ValueNode | None) -> Any:
        return self._variables.get(node.name.value) if isinstance(node, VariableNode) else _literal(node)


def _literal(node: ValueNode | None) -> int | list[Any] | None:
    """Of the kinds of values that say a size."""
    if isinstance(node, IntValueNode):
        return int(node.value)
    if isinstance(node, ListValueNode):
        return list(node.values)
    return None
