"""Plans of queries: what to resolve, compiled once for each document, so that executing it does no work for each field
of each object but the resolver's own. graphql-core's interpreter does a lot (docs/adr/0024-plans.md).

A plan resolves one field of all objects of a list at a time, and awaits together what all fields of a level have begun.
It has no error handling: if a resolver raises an error, or a value is not what the schema promises, graphql-core
executes the query again and answers as the specification says. A query changes nothing, and its loaders remember what
they have loaded. Queries with directives, abstract types or introspection have no plan; graphql-core executes them.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import Any, TypeAlias

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    get_argument_values,
    get_variable_values,
    is_abstract_type,
    is_leaf_type,
)

MAX_FIELDS = 500
"""Of a plan. A document of nested fragments can have exponentially more."""


class Unplanned(Exception):
    """The interpreter has to execute the operation."""


@dataclass(frozen=True)
class Info:
    """What resolvers read of strawberry.Info. To read more of it raises an error, and thus leads to the interpreter."""

    context: Any


@dataclass
class Run:
    """One execution of a plan."""

    info: Info
    variables: Any
    begun: list[tuple["Field", Sequence[Coroutine[Any, Any, Any]], Sequence[dict[str, Any]]]] = field(
        default_factory=list
    )
    """What the fields of this level await, and the results that need it."""


Resolve: TypeAlias = Callable[[Any, Run], Any]
Complete: TypeAlias = Callable[[Sequence[Any], Run], Sequence[Any]]
"""Turns values that a field's resolver has returned into results. Raises Unplanned."""


@dataclass(frozen=True)
class Field:
    key: str
    resolve: Resolve
    complete: Complete
    is_async: bool

    def set(self, results: Sequence[dict[str, Any]], values: Sequence[Any], run: Run) -> None:
        for result, value in zip(results, self.complete(values, run), strict=True):
            result[self.key] = value


@dataclass(frozen=True)
class Selection:
    """Fields of an object type."""

    fields: Sequence[Field]

    def begin(self, sources: Sequence[Any], run: Run) -> list[dict[str, Any]]:
        """The results, which are complete when the levels below have been executed."""
        results: list[dict[str, Any]] = [{} for _ in sources]
        for each in self.fields:
            values = [each.resolve(source, run) for source in sources]
            if each.is_async:
                for result in results:
                    result[each.key] = None  # takes its place among the fields
                run.begun.append((each, values, results))
            else:
                each.set(results, values, run)
        return results


@dataclass(frozen=True)
class Plan:
    schema: GraphQLSchema
    operation: OperationDefinitionNode
    selection: Selection

    async def execute(self, context: Any, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of the response. Raises Unplanned."""
        coerced = get_variable_values(self.schema, self.operation.variable_definitions or (), variables)
        if isinstance(coerced, list):  # of errors
            raise Unplanned
        run = Run(Info(context), coerced)
        try:
            (data,) = self.selection.begin([None], run)
            while run.begun:
                await _next_level(run)
        except Exception as error:
            for _, coroutines, _ in run.begun:
                for each in coroutines:
                    each.close()
            raise Unplanned from error
        return data


async def _next_level(run: Run) -> None:
    begun, run.begun = run.begun, []
    awaited = [each for _, coroutines, _ in begun for each in coroutines]
    # All end before the interpreter may begin: a cancelled call would stay cancelled in the loaders.
    found = await asyncio.gather(*awaited, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    values = iter(found)
    for each, coroutines, results in begun:
        each.set(results, list(islice(values, len(coroutines))), run)


def compile_plan(schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode) -> Plan:
    """Of an operation of a valid document. Raises Unplanned."""
    if operation.operation is not OperationType.QUERY or schema.query_type is None:
        raise Unplanned
    fragments = {each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)}
    return Plan(schema, operation, _Compiler(schema, fragments).selection(schema.query_type, [operation.selection_set]))


class _Compiler:
    def __init__(self, schema: GraphQLSchema, fragments: Mapping[str, FragmentDefinitionNode]) -> None:
        self._schema = schema
        self._fragments = fragments
        self._count = 0

    def selection(self, kind: GraphQLObjectType, sets: Iterable[SelectionSetNode]) -> Selection:
        nodes: dict[str, list[FieldNode]] = {}
        spread: set[str] = set()
        for each in sets:
            for node in self._collect(kind, each, spread):
                nodes.setdefault((node.alias or node.name).value, []).append(node)
        return Selection([self._field(kind, key, same) for key, same in nodes.items()])

    def _collect(self, kind: GraphQLObjectType, selections: SelectionSetNode, spread: set[str]) -> Iterator[FieldNode]:
        """``spread``: the fragments that need not be spread again."""
        for node in selections.selections:
            if node.directives:
                raise Unplanned
            if isinstance(node, FieldNode):
                yield node
            elif isinstance(node, InlineFragmentNode):
                if node.type_condition is None or self._satisfies(kind, node.type_condition.name.value):
                    yield from self._collect(kind, node.selection_set, spread)
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in spread:
                spread.add(node.name.value)
                fragment = self._fragments[node.name.value]
                if self._satisfies(kind, fragment.type_condition.name.value):
                    yield from self._collect(kind, fragment.selection_set, spread)

    def _satisfies(self, kind: GraphQLObjectType, condition: str) -> bool:
        wanted = self._schema.type_map[condition]
        return wanted is kind or (is_abstract_type(wanted) and self._schema.is_sub_type(wanted, kind))

    def _field(self, kind: GraphQLObjectType, key: str, nodes: Sequence[FieldNode]) -> Field:
        """``nodes``: those of the same key, which select the same field."""
        self._count += 1
        if self._count > MAX_FIELDS:
            raise Unplanned
        name = nodes[0].name.value
        if name == "__typename":
            return Field(key, lambda _source, _run: kind.name, lambda names, _run: names, is_async=False)
        definition = kind.fields.get(name)
        if definition is None:  # introspection
            raise Unplanned
        complete = self._complete(definition.type, [each.selection_set for each in nodes if each.selection_set])
        is_async: bool = definition.extensions["strawberry-definition"].is_async
        return Field(key, _resolver(definition, nodes[0]), complete, is_async)

    def _complete(self, kind: GraphQLOutputType, sets: Sequence[SelectionSetNode]) -> Complete:
        if isinstance(kind, GraphQLNonNull):
            return _required(self._present(kind.of_type, sets))
        return _nullable(self._present(kind, sets))

    def _present(self, kind: GraphQLOutputType, sets: Sequence[SelectionSetNode]) -> Complete:
        """Of values that are not None."""
        if isinstance(kind, GraphQLList):
            return _lists(self._complete(kind.of_type, sets))
        if isinstance(kind, GraphQLObjectType):
            return self.selection(kind, sets).begin
        if is_leaf_type(kind):
            return _leaves(kind.coerce_output_value)
        raise Unplanned


def _required(complete: Complete) -> Complete:
    def completed(values: Sequence[Any], run: Run) -> Sequence[Any]:
        if any(value is None for value in values):
            raise Unplanned
        return complete(values, run)

    return completed


def _nullable(complete: Complete) -> Complete:
    def completed(values: Sequence[Any], run: Run) -> Sequence[Any]:
        results = iter(complete([value for value in values if value is not None], run))
        return [None if value is None else next(results) for value in values]

    return completed


def _leaves(coerce: Callable[[Any], Any]) -> Complete:
    def completed(values: Sequence[Any], _run: Run) -> Sequence[Any]:
        results = [coerce(value) for value in values]
        if None in results:
            raise Unplanned
        return results

    return completed


def _lists(complete: Complete) -> Complete:
    """Of the items of all lists at once."""

    def completed(lists: Sequence[Any], run: Run) -> Sequence[Any]:
        if not all(isinstance(each, list) for each in lists):
            raise Unplanned
        results = iter(complete([item for each in lists for item in each], run))
        return [list(islice(results, len(each))) for each in lists]

    return completed


def _resolver(definition: GraphQLField, node: FieldNode) -> Resolve:
    strawberry = definition.extensions["strawberry-definition"]
    if strawberry.is_basic_field:
        get = attrgetter(strawberry.python_name)
        return lambda source, _run: get(source)
    if definition.args or strawberry.extensions:
        resolve = definition.resolve
        assert resolve is not None  # noqa: S101 - Strawberry sets it
        return lambda source, run: resolve(source, run.info, **get_argument_values(definition, node, run.variables))
    function = strawberry.base_resolver.wrapped_func
    if strawberry.base_resolver.info_parameter is not None:
        return lambda source, run: function(source, info=run.info)
    return lambda source, _run: function(source)
