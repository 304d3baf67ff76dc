"""The errors that use cases raise, and their wire format.

A subclass is named for what happened and has a ``status`` (HTTP) and a ``code`` (stable, machine-readable). REST
returns it as an RFC 9457 problem document, gRPC as a status with the code in its trailing metadata, GraphQL as
``extensions.code``.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, ClassVar, Self

_ERRORS = 10
_NAME_LENGTH = 100
_MESSAGES = {
    "dict_type": "Input should be an object",
    "model_attributes_type": "Input should be an object",
    "tuple_type": "Input should be a list",
}
"""In place of Pydantic's messages that name types of Python, by the type of the error."""


class DomainError(Exception):
    """An error that a caller can act on. ``detail`` is a sentence for people."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "bad_request"
    title: ClassVar[str] = "The request failed"

    def __init__(self, detail: str | None = None, *, headers: dict[str, str] | None = None, **extra: Any) -> None:
        self.detail = detail or self.title
        self.headers = headers or {}
        self.extra = extra
        super().__init__(self.detail)


class NotSignedIn(DomainError):
    status = 401
    code = "not_signed_in"
    title = "Sign in to do this"

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class InvalidToken(NotSignedIn):
    code = "invalid_token"
    title = "The access token is invalid"


class Forbidden(DomainError):
    status = 403
    code = "forbidden"
    title = "You may not do this"


class NotFound(DomainError):
    status = 404
    code = "not_found"
    title = "Not found"


class Conflict(DomainError):
    status = 409
    code = "conflict"
    title = "Conflict with the current state"


class MalformedRequest(DomainError):
    """The request cannot be parsed. A parsable request of the wrong shape is InvalidInput."""

    code = "malformed_request"
    title = "The request cannot be parsed"


class RequestTimeout(DomainError):
    status = 408
    code = "request_timeout"
    title = "The request arrived too slowly"


class ClientClosedRequest(DomainError):
    """The client disconnected before its request was complete. For logs and metrics: 499 as gateways record it."""

    status = 499
    code = "client_closed_request"
    title = "The client closed the connection"


class TooLarge(DomainError):
    status = 413
    code = "too_large"
    title = "The request is larger than allowed"


class InvalidInput(DomainError):
    """The shape of a payload is wrong. ``errors`` lists ``{"field": ..., "message": ...}``."""

    status = 422
    code = "invalid_input"
    title = "Invalid input"

    @classmethod
    def of(cls, fields: Iterable[tuple[str, str]]) -> Self:
        """From fields and messages. Only the first ones, with names cut short: a client can make up any number."""
        errors = [{"field": name[:_NAME_LENGTH], "message": message} for name, message in islice(fields, _ERRORS)]
        return cls("; ".join(": ".join(filter(None, each.values())) for each in errors), errors=errors)


def message_of(invalid: Mapping[str, Any]) -> str:
    """What one of Pydantic's errors says to clients."""
    text: str = invalid["msg"]
    return _MESSAGES.get(invalid["type"], text.removeprefix("Value error, "))


class TooManyRequests(DomainError):
    status = 429
    code = "too_many_requests"
    title = "Too many attempts; try again later"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(
            f"Too many attempts, try again in {retry_after_seconds} s",
            headers={"Retry-After": str(retry_after_seconds)},
        )


class TooManyAtOnce(DomainError):
    status = 429
    code = "too_many_at_once"
    title = "Too many at the same time"

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


class Unavailable(DomainError):
    status = 503
    code = "unavailable"
    title = "A part of the platform is unavailable; try again"


def problem(error: DomainError, *, instance: str | None = None, request_id: str | None = None) -> dict[str, Any]:
    """The RFC 9457 problem document of an error."""
    document: dict[str, Any] = {
        "type": f"urn:kinora:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        **error.extra,
    }
    if instance is not None:
        document["instance"] = instance
    if request_id is not None:
        document["request_id"] = request_id
    return document
