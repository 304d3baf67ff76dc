"""Composes the schema from the domains. ``python -m kinora_graphql.schema`` prints it, for schema.graphql."""

from collections.abc import Iterable
from typing import Any

import strawberry
from graphql import GraphQLError
from strawberry.extensions import AddValidationRules, DisableIntrospection, MaxTokensLimiter, SchemaExtension
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext, ExecutionResult
from strawberry.types.graphql import OperationType

from kinora_graphql import scalars
from kinora_graphql.auth.mutations import AuthMutation
from kinora_graphql.auth.queries import AuthQuery
from kinora_graphql.extensions import Errors, Measure, OneOperation, RejectInvalidToken, limits
from kinora_graphql.likes.mutations import LikesMutation
from kinora_graphql.likes.queries import LikesQuery
from kinora_graphql.media.mutations import MediaMutation
from kinora_graphql.media.queries import MediaQuery
from kinora_graphql.node.queries import NodeQuery
from kinora_graphql.settings import GraphqlSettings
from kinora_graphql.video.mutations import VideoMutation
from kinora_graphql.video.subscriptions import VideoSubscription


@strawberry.type
class Query(NodeQuery, AuthQuery, MediaQuery, LikesQuery): ...


@strawberry.type
class Mutation(AuthMutation, MediaMutation, VideoMutation, LikesMutation): ...


@strawberry.type
class Subscription(VideoSubscription): ...


class Schema(strawberry.Schema):
    async def execute(  # type: ignore[override] # its only caller passes all arguments but the first by name
        self, query: str | None, *, allowed_operation_types: Iterable[OperationType], **more: Any
    ) -> ExecutionResult:
        """For operations with a single result. Subscriptions need a streaming transport, which calls ``stream``."""
        allowed = set(allowed_operation_types) - {OperationType.SUBSCRIPTION}
        return await super().execute(query, allowed_operation_types=allowed, **more)

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """The Errors extension logs, because it distinguishes bugs from expected errors."""


def build(settings: GraphqlSettings) -> Schema:
    rule = limits(max_depth=settings.max_depth, max_aliases=settings.max_aliases)

    def limit_operation() -> SchemaExtension:
        return AddValidationRules([rule])

    def limit_document() -> SchemaExtension:
        return MaxTokensLimiter(settings.max_tokens)

    return Schema(
        Query,
        Mutation,
        Subscription,
        extensions=[
            Measure,
            Errors,
            RejectInvalidToken,
            limit_document,
            limit_operation,
            OneOperation,
            *([] if settings.introspection else [DisableIntrospection]),
        ],
        config=StrawberryConfig(disable_field_suggestions=not settings.introspection, scalar_map=scalars.DEFINITIONS),
    )


if __name__ == "__main__":
    print(strawberry.Schema(Query, Mutation, Subscription, config=StrawberryConfig(scalar_map=scalars.DEFINITIONS)))  # noqa: T201
