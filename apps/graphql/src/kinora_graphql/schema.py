"""Composes the schema from the domains. ``python -m kinora_graphql.schema`` prints it, for schema.graphql."""

import time
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import strawberry
from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLFieldResolver,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    get_operation_ast,
    parse,
    specified_rules,
)
from graphql.validation import ASTValidationRule
from prometheus_client import Counter
from strawberry.extensions import MaxTokensLimiter, SchemaExtension
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.schema import validate_document
from strawberry.types import ExecutionContext, ExecutionResult

from kinora_graphql import scalars
from kinora_graphql.auth.mutations import AuthMutation
from kinora_graphql.auth.queries import AuthQuery
from kinora_graphql.channels.mutations import ChannelsMutation
from kinora_graphql.channels.queries import ChannelsQuery
from kinora_graphql.channels.subscriptions import ChannelsSubscription
from kinora_graphql.comments.mutations import CommentsMutation
from kinora_graphql.comments.subscriptions import CommentsSubscription
from kinora_graphql.context import Context
from kinora_graphql.costs import Limits, Measured, Measuring, declare, prices
from kinora_graphql.extensions import OPERATIONS, Errors, Measure, OneOperation, Prepared, RejectInvalidToken
from kinora_graphql.likes.mutations import LikesMutation
from kinora_graphql.likes.queries import LikesQuery
from kinora_graphql.media.mutations import MediaMutation
from kinora_graphql.media.queries import MediaQuery
from kinora_graphql.node.queries import NodeQuery
from kinora_graphql.node.types import Node
from kinora_graphql.notifications.mutations import NotificationsMutation
from kinora_graphql.notifications.queries import NotificationsQuery
from kinora_graphql.plans import Plan, Unplanned, compile_plan
from kinora_graphql.playlists.mutations import PlaylistsMutation
from kinora_graphql.playlists.queries import PlaylistsQuery
from kinora_graphql.settings import GraphqlSettings
from kinora_graphql.video.mutations import VideoMutation
from kinora_graphql.video.subscriptions import VideoSubscription
from kinora_graphql.watching.mutations import WatchingMutation
from kinora_graphql.watching.queries import WatchingQuery


@strawberry.type
class Query(
    NodeQuery,
    AuthQuery,
    MediaQuery,
    ChannelsQuery,
    LikesQuery,
    WatchingQuery,
    PlaylistsQuery,
    NotificationsQuery,
): ...


@strawberry.type
class Mutation(
    AuthMutation,
    MediaMutation,
    VideoMutation,
    ChannelsMutation,
    CommentsMutation,
    LikesMutation,
    WatchingMutation,
    PlaylistsMutation,
    NotificationsMutation,
): ...


@strawberry.type
class Subscription(VideoSubscription, CommentsSubscription, ChannelsSubscription): ...


declare(Mutation, Query, Subscription, *Node.__subclasses__())


def _resolve_attributes_directly(schema: GraphQLSchema) -> None:
    """Without the two calls by which Strawberry reads an attribute: a page of the feed has 300."""
    for kind in schema.type_map.values():
        if isinstance(kind, GraphQLObjectType):
            for field in kind.fields.values():
                definition = field.extensions.get("strawberry-definition")
                if definition is not None and definition.is_basic_field:
                    field.resolve = _attribute(definition.python_name)


def _attribute(name: str) -> GraphQLFieldResolver:
    get = attrgetter(name)
    return lambda source, _: get(source)


PLANNED = Counter(
    "kinora_graphql_planned_queries",
    "Queries that were executed by a plan (ok), and those that the interpreter repeated because of an error (repeated)",
    ["outcome"],
)


class Document(NamedTuple):
    """A parsed document, its validation errors, and the plans of its operations, None for those without."""

    document: DocumentNode
    errors: list[GraphQLError]
    plans: dict[str | None, Plan | None]


class Schema(strawberry.Schema):
    def __init__(self, settings: GraphqlSettings, *rules: type[ASTValidationRule], **more: Any) -> None:
        super().__init__(Query, Mutation, Subscription, **more)
        self.limits = Limits(depth=settings.max_depth, aliases=settings.max_aliases, cost=settings.max_cost)
        self._prices = prices(self._schema)
        _resolve_attributes_directly(self._schema)

        # Not Strawberry's ParserCache and ValidationCache: the latter hashes whole documents.
        @lru_cache(maxsize=settings.cached_documents)
        def prepare(query: str) -> Document:
            document = parse(query, max_tokens=settings.max_tokens)
            return Document(document, validate_document(self._schema, document, (*specified_rules, *rules)), {})

        self.prepare: Callable[[str], Document] = prepare
        """Parse and validate, or take the result from the cache. Raises GraphQLSyntaxError."""

    def is_valid(self, query: str) -> bool:
        try:
            return not self.prepare(query).errors
        except GraphQLSyntaxError:
            return False

    def operation(self, query: str, name: str | None) -> OperationDefinitionNode | None:
        """The operation to execute, unless the document is malformed or has none of this name."""
        try:
            return get_operation_ast(self.prepare(query).document, name)
        except GraphQLSyntaxError:
            return None

    def plan(self, query: str, name: str | None) -> Plan | None:
        """Of the operation to execute; None if the document is invalid, or the operation cannot be planned."""
        operation = self.operation(query, name)
        if operation is None or not self.is_valid(query):
            return None
        document, _, plans = self.prepare(query)
        if name not in plans:
            try:
                plans[name] = compile_plan(self._schema, document, operation)
            except Unplanned:
                plans[name] = None
        return plans[name]

    async def execute(self, query: str | None, *args: Any, **more: Any) -> ExecutionResult:
        """By its plan, if it has one and is answered without errors; otherwise by graphql-core's interpreter."""
        plan = self.plan(query or "", more.get("operation_name"))
        context: Context = more["context_value"]
        if plan is not None and context.refusal is None:
            started = time.perf_counter()
            try:
                data = await plan.execute(context, more.get("variable_values") or {})
            except Unplanned:
                PLANNED.labels("repeated").inc()
            else:
                PLANNED.labels("ok").inc()
                OPERATIONS.labels("query", "ok").observe(time.perf_counter() - started)
                return ExecutionResult(data=data, errors=None)
        return await super().execute(query, *args, **more)

    def measure(self, query: str, name: str | None, variables: dict[str, Any] | None) -> Measured | None:
        """None if the document is invalid or has no operation of this name."""
        operation = self.operation(query, name)
        if operation is None or not self.is_valid(query):
            return None
        root = self._schema.get_root_type(operation.operation)
        document = self.prepare(query).document
        measuring = Measuring(self._prices, document, operation, variables)
        return measuring.measure(operation.selection_set, root.name) if root else None

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """The Errors extension logs, because it distinguishes bugs from expected errors."""


def build(settings: GraphqlSettings) -> Schema:
    def limit_document() -> SchemaExtension:
        return MaxTokensLimiter(settings.max_tokens)

    return Schema(
        settings,
        *([] if settings.introspection else [NoSchemaIntrospectionCustomRule]),
        extensions=[Measure, Errors, limit_document, Prepared, RejectInvalidToken, OneOperation],
        config=StrawberryConfig(disable_field_suggestions=not settings.introspection, scalar_map=scalars.DEFINITIONS),
    )


if __name__ == "__main__":
    print(strawberry.Schema(Query, Mutation, Subscription, config=StrawberryConfig(scalar_map=scalars.DEFINITIONS)))  # noqa: T201
