"""GraphQL over HTTP: request parsing, and the status and media type of responses.

https://graphql.github.io/graphql-over-http/draft/ (tests/test_over_http.py has the audits of npm's graphql-http). Every
rejection is a GraphQL response: JSON with ``errors``, each with ``extensions.code``.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from graphql import OperationType
from starlette.requests import Request
from starlette.responses import Response
from strawberry.schema.exceptions import CannotGetOperationTypeError
from strawberry.types import ExecutionResult

from kinora_graphql.context import Context
from kinora_graphql.costs import OperationTooLarge
from kinora_graphql.documents import PersistedQueryNotFound, UntrustedDocument
from kinora_graphql.operations import Operation, admit
from kinora_graphql.problems import extensions
from kinora_graphql.schema import Schema
from kinora_kit import strict_json
from kinora_kit.errors import DomainError, MalformedRequest
from kinora_kit.outages import as_domain_error

JSON = "application/json"
GRAPHQL_RESPONSE = "application/graphql-response+json"
EVENT_STREAM = "text/event-stream"
HTML = "text/html"

_WEIGHT = re.compile(r";\s*q=([^;]*)", re.IGNORECASE)


class UnsupportedMediaType(DomainError):
    status = 415
    code = "unsupported_media_type"
    title = "Send the operation as application/json"

    def __init__(self) -> None:
        super().__init__(headers={"Accept-Post": JSON})


class BatchingNotSupported(DomainError):
    code = "batching_not_supported"
    title = "Send one operation per request: batches are not supported"


class MutationByGet(DomainError):
    status = 405
    code = "method_not_allowed"
    title = "Send mutations by POST"

    def __init__(self) -> None:
        super().__init__(headers={"Allow": "POST"})


class SubscriptionNeedsAStream(DomainError):
    code = "subscription_not_supported"
    title = "Subscribe over a WebSocket (graphql-transport-ws), or accept text/event-stream"


class UnknownOperation(DomainError):
    code = "invalid_query"
    title = "The document has no operation"


REQUEST_ERRORS = (PersistedQueryNotFound, UntrustedDocument, UnknownOperation, OperationTooLarge)
"""Errors of well-formed requests, like an invalid document: clients that only accept application/json get 200."""


Stream = Callable[[Request, Operation, Context], Response]
"""Answers with server-sent events; see streams.py."""


async def answer(request: Request, schema: Schema, context: Context, stream: Stream) -> Response:
    """Execute the operation of a GET or POST request."""
    weights = _weights(request.headers.get("accept", ""))
    preferred = weights[GRAPHQL_RESPONSE] > 0 and weights[GRAPHQL_RESPONSE] >= weights[JSON]
    media_type = GRAPHQL_RESPONSE if preferred else JSON
    streams_only = weights[EVENT_STREAM] > 0 and not weights[JSON] + weights[GRAPHQL_RESPONSE]
    refused_status = 400 if preferred or streams_only else 200
    try:
        operation = await admit(await _parse(request), schema, context)
        definition = schema.operation(operation.query, operation.name)
        kind = definition.operation if definition else None
        if kind is OperationType.MUTATION and request.method == "GET":
            raise MutationByGet
        # Some clients accept JSON as well as streams, for all operations.
        if streams_only or (weights[EVENT_STREAM] > 0 and kind is OperationType.SUBSCRIPTION):
            return stream(request, operation, context)
        if kind is OperationType.SUBSCRIPTION:
            raise SubscriptionNeedsAStream
        result = await _execute(operation, schema, context)
    except REQUEST_ERRORS as error:
        return _response(_refusal(error), media_type, status=refused_status, headers=rate(context))
    except Exception as error:
        known = as_domain_error(error)
        if known is None:
            raise
        return _response(_refusal(known), media_type, status=known.status, headers={**rate(context), **known.headers})
    body = response(result)
    if operation.measured and "data" in body:
        body["extensions"] = {
            **body.get("extensions", {}),
            "cost": {"estimated": operation.measured.cost, "limit": schema.limits.cost},
        }
    return _response(body, media_type, status=200 if "data" in body else refused_status, headers=rate(context))


def rate(context: Context) -> dict[str, str]:
    return context.rate.headers if context.rate else {}


def _response(
    body: Mapping[str, Any], media_type: str, *, status: int, headers: Mapping[str, str] | None = None
) -> Response:
    text = json.dumps(body, separators=(",", ":"))
    return Response(
        text, status, media_type=f"{media_type}; charset=utf-8", headers={"Vary": "Accept", **(headers or {})}
    )


def _refusal(error: DomainError) -> dict[str, Any]:
    return {"errors": [{"message": error.detail, "extensions": extensions(error)}]}


def accepts_html(request: Request) -> bool:
    """By name: only browsers do."""
    return _weights(request.headers.get("accept", ""))[HTML] > 0


def _weights(accept: str) -> dict[str, float]:
    """How much the client prefers each of our media types; 0 for those that it does not name."""
    weights = {JSON: 0.0, GRAPHQL_RESPONSE: 0.0, EVENT_STREAM: 0.0, HTML: 0.0}
    for item in accept.split(","):
        name = item.partition(";")[0].strip().lower()
        if name not in weights:
            continue
        weight = _WEIGHT.search(item)
        try:
            weights[name] = float(weight[1]) if weight else 1.0
        except ValueError:
            weights[name] = 0.0
    return weights


async def _parse(request: Request) -> dict[str, Any]:
    if request.method == "GET":
        given: Any = dict(request.query_params)
        for name in ("variables", "extensions"):
            given[name] = _json(given[name]) if given.get(name) else None
    else:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise UnsupportedMediaType
        given = _json(await request.body())
    if isinstance(given, list):
        raise BatchingNotSupported
    if not isinstance(given, dict):
        raise MalformedRequest("The body must be a JSON object")
    return given


def _json(text: bytes | str) -> Any:
    try:
        return strict_json.loads(text)
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"This is not valid JSON: {error.msg}") from None


async def _execute(operation: Operation, schema: Schema, context: Context) -> ExecutionResult:
    try:
        return await schema.execute(
            operation.query,
            variable_values=operation.variables,
            context_value=context,
            operation_name=operation.name,
        )
    except CannotGetOperationTypeError:
        named = f' named "{operation.name}"' if operation.name else ""
        raise UnknownOperation(f"The document has no operation{named}") from None


def response(result: ExecutionResult) -> dict[str, Any]:
    """The GraphQL response; without ``data`` if the operation was rejected before execution."""
    errors = [error.formatted for error in result.errors or ()]
    # Execution errors have the path of their field.
    rejected = result.data is None and bool(errors) and not any("path" in error for error in errors)
    body: dict[str, Any] = {} if rejected else {"data": result.data}
    if errors:
        body["errors"] = errors
    if result.extensions:
        body["extensions"] = result.extensions
    return body
