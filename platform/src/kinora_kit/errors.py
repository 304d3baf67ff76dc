"""The errors that use cases raise, and their wire format.

A subclass is named for what happened and declares its ``status`` (HTTP) and ``code`` (stable, machine-readable). REST
returns it as an RFC 9457 problem document, gRPC as a status with details (rpc.py), GraphQL as ``extensions``. A caller
of gRPC gets a plain DomainError with the values of the service's error.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Self, TypedDict

_ERRORS = 10
_NAME_LENGTH = 100
_MESSAGES = {
    "dict_type": "Input should be an object",
    "model_attributes_type": "Input should be an object",
    "tuple_type": "Input should be a list",
}
"""In place of Pydantic's messages that name types of Python, by the type of the error."""


class FieldError(TypedDict):
    """What is wrong with one field of a payload."""

    field: str
    message: str


class DomainError(Exception):
    """An error that a caller can act on. ``detail`` is a sentence for people.

    Subclasses declare the defaults of ``status``, ``code``, ``title`` and ``retry_after_seconds`` in their bodies.
    """

    status: int = 400
    code: str = "bad_request"
    title: str = "The request failed"
    retry_after_seconds: int | None = None

    def __init__(
        self,
        detail: str | None = None,
        *,
        status: int | None = None,
        code: str | None = None,
        title: str | None = None,
        retry_after_seconds: int | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = self.status if status is None else status
        self.code = self.code if code is None else code
        self.title = self.title if title is None else title
        self.retry_after_seconds = self.retry_after_seconds if retry_after_seconds is None else retry_after_seconds
        self.errors = errors
        self.detail = detail or self.title
        delay = {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}
        self.headers = {**delay, **(headers or {})}
        """Of an HTTP response; only ``retry_after_seconds`` is also returned by gRPC."""
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
    """The shape of a payload is wrong. ``errors`` lists the fields, where that is known."""

    status = 422
    code = "invalid_input"
    title = "Invalid input"

    @classmethod
    def of(cls, fields: Iterable[tuple[str, str]]) -> Self:
        """From fields and messages. Only the first ones, with names cut short: a client can make up any number."""
        errors = [FieldError(field=name[:_NAME_LENGTH], message=message) for name, message in islice(fields, _ERRORS)]
        detail = "; ".join(": ".join(filter(None, (each["field"], each["message"]))) for each in errors)
        return cls(detail, errors=errors)


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
            f"Too many attempts, try again in {retry_after_seconds} s", retry_after_seconds=retry_after_seconds
        )


class TooManyAtOnce(DomainError):
    status = 429
    code = "too_many_at_once"
    title = "Too many at the same time"
    retry_after_seconds = 1


class Internal(DomainError):
    """A bug of ours. Whoever turns an exception into this logs it."""

    status = 500
    code = "internal"
    title = "Something went wrong on our side"


class Unavailable(DomainError):
    status = 503
    code = "unavailable"
    title = "A part of the platform is unavailable; try again"
    retry_after_seconds = 5  # most outages last seconds to minutes


def problem(error: DomainError, *, instance: str | None = None, request_id: str | None = None) -> dict[str, Any]:
    """The RFC 9457 problem document of an error."""
    document: dict[str, Any] = {
        "type": f"urn:kinora:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
    }
    if error.errors:
        document["errors"] = error.errors
    if instance is not None:
        document["instance"] = instance
    if request_id is not None:
        document["request_id"] = request_id
    return document
