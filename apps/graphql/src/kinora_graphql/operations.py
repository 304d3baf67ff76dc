"""An operation that a client asks for, and what it must satisfy before it is executed, over every transport."""

from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter

from kinora_graphql.context import Context
from kinora_graphql.costs import Measured
from kinora_graphql.schema import Schema
from kinora_kit.errors import DomainError, MalformedRequest

INVALID = 10
"""The cost of parsing and validating a document that cannot be executed."""

REFUSED = Counter("kinora_graphql_refused_operations", "Operations refused before execution, by error code", ["code"])


@dataclass(frozen=True)
class Operation:
    query: str
    name: str | None
    variables: dict[str, Any] | None
    measured: Measured | None
    """None if the document is invalid or has no such operation, which its execution reports."""


async def admit(given: dict[str, Any], schema: Schema, context: Context) -> Operation:
    """Of the parameters of a request: query or documentId, operationName, variables, extensions.

    Raises MalformedRequest, OperationTooLarge, TooManyRequests, and the errors of Documents.find.
    """
    try:
        return await _admit(given, schema, context)
    except DomainError as error:
        REFUSED.labels(error.code).inc()
        raise


async def _admit(given: dict[str, Any], schema: Schema, context: Context) -> Operation:
    # Some clients send "" for absent values.
    query = _member(given, "query", str)
    variables = _member(given, "variables", dict)
    name = _member(given, "operationName", str)
    document = _member(given, "documentId", str)
    persisted = _member(_member(given, "extensions", dict) or {}, "persistedQuery", dict)
    if document is not None:
        document = document.removeprefix("sha256:")
    elif persisted is not None:
        document = _member(persisted, "sha256Hash", str)
    if query is None and document is None:
        raise MalformedRequest("query is missing")
    context.charge(1)  # before the document is looked up and parsed
    query = await context.documents.find(query, document, is_valid=schema.is_valid)
    measured = schema.measure(query, name, variables)
    if measured is None:
        context.charge(INVALID)
    else:
        schema.limits.check(measured)
        context.charge(measured.cost)
    return Operation(query, name, variables, measured)


def _member(given: dict[str, Any], name: str, kind: type) -> Any:
    value = given.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, kind):
        raise MalformedRequest(f"{name} must be {'a string' if kind is str else 'an object'}")
    return value
