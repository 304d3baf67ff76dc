"""Extensions for every operation: validation, errors, metrics."""

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any, cast

from graphql import (
    FieldNode,
    GraphQLError,
    GraphQLSyntaxError,
    OperationDefinitionNode,
    OperationType,
    get_operation_ast,
)
from prometheus_client import Histogram
from strawberry.exceptions import MissingQueryError
from strawberry.extensions import SchemaExtension
from strawberry.schema.exceptions import CannotGetOperationTypeError
from strawberry.types import ExecutionContext
from strawberry.types.execution import StreamExecutionResult

from kinora_graphql.problems import extensions
from kinora_kit import logs
from kinora_kit.errors import Internal
from kinora_kit.metrics import SECONDS
from kinora_kit.outages import as_domain_error

log = logs.get(__name__)

_JSON_LITERALS = {"None": "null", "True": "true", "False": "false"}
_PYTHON_LITERAL = re.compile(r"(?<!['\"\w])(None|True|False)(?!['\"\w])")

OPERATIONS = Histogram(
    "kinora_graphql_operation_seconds",
    "GraphQL operations, by type and outcome (ok, error); a subscription counts when it ends",
    ["type", "outcome"],
    buckets=SECONDS,
)


class Measure(SchemaExtension):
    def on_operation(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        context = self.execution_context
        try:
            kind = context.operation_type.value.lower()
        except RuntimeError:  # no operation, or none selected
            kind = "none"
        failed = bool(context.pre_execution_errors or getattr(context.result, "errors", None))
        OPERATIONS.labels(kind, "error" if failed else "ok").observe(time.perf_counter() - started)


CREDENTIAL_MUTATIONS = {"register", "login", "refresh", "__typename"}
"""Mutations for which an invalid token does not matter, because they carry their own credentials."""


class RejectInvalidToken(SchemaExtension):
    """Rejects whole operations with an invalid access token, so that nobody mistakes an anonymous result for their own.

    Except those that obtain new tokens: client libraries send the old one along.
    """

    def on_validate(self) -> Iterator[None]:
        context = self.execution_context
        refusal = context.context.refusal
        if refusal is not None and not _has_own_credentials(context):
            context.pre_execution_errors = [GraphQLError(refusal.detail, extensions=extensions(refusal))]
        yield


def _has_own_credentials(context: ExecutionContext) -> bool:
    document = context.graphql_document
    operation = get_operation_ast(document, context.operation_name) if document else None
    if operation is None or operation.operation is not OperationType.MUTATION:
        return False
    fields = operation.selection_set.selections
    return all(isinstance(field, FieldNode) and field.name.value in CREDENTIAL_MUTATIONS for field in fields)


class Errors(SchemaExtension):
    """Adds a code to every error and hides internal details."""

    def on_operation(self) -> Iterator[None]:
        yield
        _publish(self.execution_context.result)

    def on_stream_result(self, result: StreamExecutionResult) -> Iterator[None]:
        _publish(result)
        yield


class Prepared(SchemaExtension):
    """Parses and validates each document once; see Schema.prepare. Must precede all that add errors."""

    def on_parse(self) -> Iterator[None]:
        context = self.execution_context
        self._errors: list[GraphQLError] = []
        if context.query:
            with contextlib.suppress(GraphQLSyntaxError):  # raised again by Strawberry, which expects it there only
                context.graphql_document, self._errors, _ = cast("Any", context.schema).prepare(context.query)
        yield

    def on_validate(self) -> Iterator[None]:
        self.execution_context.pre_execution_errors = [*self._errors]
        yield


class OneOperation(SchemaExtension):
    """Rejects a document of several operations if none is selected. Strawberry would execute the first."""

    def on_validate(self) -> Iterator[None]:
        context = self.execution_context
        definitions = context.graphql_document.definitions if context.graphql_document else ()
        operations = sum(isinstance(definition, OperationDefinitionNode) for definition in definitions)
        if operations > 1 and context._provided_operation_name is None:
            context.pre_execution_errors = [GraphQLError("Name one of the operations in operationName")]
        yield


def _publish(result: object) -> None:
    if errors := getattr(result, "errors", None):
        result.errors = [_public(error) for error in errors]  # type: ignore[attr-defined]


def _public(error: GraphQLError) -> GraphQLError:
    if error.extensions and "code" in error.extensions:
        return error
    original = error.original_error
    if original is None or isinstance(original, GraphQLError | CannotGetOperationTypeError | MissingQueryError):
        message, details = _in_json_terms(error.message), {"code": "invalid_query"}
    else:
        domain = as_domain_error(original)
        if domain is None:
            log.error("resolver failed", path=error.path, exc_info=original)
            domain = Internal()
        message, details = domain.detail, extensions(domain)
    return GraphQLError(
        message,
        nodes=error.nodes,
        source=error.source,
        positions=error.positions,
        path=error.path,
        extensions=details,
    )


def _in_json_terms(message: str) -> str:
    """Replaces Python terms in graphql-core's messages with JSON terms, because clients write JSON."""
    message = message.replace("to be a mapping.", "to be an object.")
    return _PYTHON_LITERAL.sub(lambda literal: _JSON_LITERALS[literal[0]], message)
