"""The tree of errors that a use case may raise, and the one place that gives them a wire form.

A subclass is named for what happened and carries ``status`` (HTTP) and ``code`` (stable, for machines). REST answers
it as an RFC 9457 problem document, gRPC as a status with the code in its trailing metadata, GraphQL as
``extensions.code``.
"""

from typing import Any, ClassVar


class DomainError(Exception):
    """Something a caller can understand and act on. ``detail`` is a sentence for a person."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "bad_request"
    title: ClassVar[str] = "The request could not be carried out"

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
    title = "The access token is not valid"


class Forbidden(DomainError):
    status = 403
    code = "forbidden"
    title = "You may not do this"


class NotFound(DomainError):
    status = 404
    code = "not_found"
    title = "There is nothing here"


class Conflict(DomainError):
    status = 409
    code = "conflict"
    title = "This conflicts with what is already there"


class MalformedRequest(DomainError):
    """It cannot be read at all. What can be read and has the wrong shape is InvalidInput."""

    code = "malformed_request"
    title = "The request cannot be read"


class RequestTimeout(DomainError):
    status = 408
    code = "request_timeout"
    title = "The request came too slowly"


class ClientClosedRequest(DomainError):
    """For logs and metrics, where 499 is what gateways write: the client left before its request was complete."""

    status = 499
    code = "client_closed_request"
    title = "The client has closed the connection"


class TooLarge(DomainError):
    status = 413
    code = "too_large"
    title = "The request is larger than allowed"


class InvalidInput(DomainError):
    """The shape of a payload is wrong. ``errors`` lists ``{"field": ..., "message": ...}``."""

    status = 422
    code = "invalid_input"
    title = "The input is not valid"


class TooManyRequests(DomainError):
    status = 429
    code = "too_many_requests"
    title = "Too many attempts, try again later"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(
            f"Too many attempts, try again in {retry_after_seconds} s",
            headers={"Retry-After": str(retry_after_seconds)},
        )


class TooManyAtOnce(DomainError):
    status = 429
    code = "too_many_at_once"
    title = "Too much of this is under way at a time"

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


class Unavailable(DomainError):
    status = 503
    code = "unavailable"
    title = "A part of the platform is not reachable, try again"


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
