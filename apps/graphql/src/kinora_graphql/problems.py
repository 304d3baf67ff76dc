"""Expected errors, part of a mutation's result type. All others become entries of ``errors``; see extensions.py.

The type's name is the error code of the service that raises it: ``username_taken`` is ``UsernameTaken``.
"""

from collections.abc import Awaitable
from typing import Any, Self, TypeVar, overload

import strawberry
from strawberry.utils.str_converters import to_camel_case, to_snake_case

from kinora_graphql.costs import ListSize
from kinora_kit.errors import DomainError

T = TypeVar("T")
A = TypeVar("A", bound="Problem")
B = TypeVar("B", bound="Problem")
C = TypeVar("C", bound="Problem")
D = TypeVar("D", bound="Problem")
E = TypeVar("E", bound="Problem")
F = TypeVar("F", bound="Problem")


@strawberry.interface(description="Why a mutation failed.")
class Problem:
    code: str = strawberry.field(description="Stable, for machines.")
    message: str = strawberry.field(description="A human-readable sentence.")

    @classmethod
    def of(cls, error: DomainError) -> Self:
        return cls(code=error.code, message=error.detail)


@overload
async def outcome(call: Awaitable[T], a: type[A], /) -> T | A: ...
@overload
async def outcome(call: Awaitable[T], a: type[A], b: type[B], /) -> T | A | B: ...
@overload
async def outcome(call: Awaitable[T], a: type[A], b: type[B], c: type[C], /) -> T | A | B | C: ...
@overload
async def outcome(call: Awaitable[T], a: type[A], b: type[B], c: type[C], d: type[D], /) -> T | A | B | C | D: ...
@overload
async def outcome(
    call: Awaitable[T], a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], /
) -> T | A | B | C | D | E: ...
@overload
async def outcome(
    call: Awaitable[T], a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], f: type[F], /
) -> T | A | B | C | D | E | F: ...
async def outcome(call: Awaitable[T], *named: "type[Problem]") -> "T | Problem":
    """The result of ``call``, or the type in ``named`` that matches its error. Raises all other errors."""
    try:
        return await call
    except DomainError as error:
        for problem in named:
            if to_snake_case(problem.__name__) == error.code:
                return problem.of(error)
        raise


@strawberry.type(description="What is wrong with one field of an input.")
class FieldError:
    field: str
    message: str


@strawberry.type
class InvalidInput(Problem):
    errors: list[FieldError] = strawberry.field(
        description="By field; empty if it concerns no single field.", directives=[ListSize(assumed_size=10)]
    )

    @classmethod
    def of(cls, error: DomainError) -> Self:
        fields = [FieldError(**each) for each in field_errors(error)]
        return cls(code=error.code, message=error.detail, errors=fields)


@strawberry.type
class TooManyRequests(Problem):
    retry_after: int | None = strawberry.field(description="Seconds; null if unknown.")

    @classmethod
    def of(cls, error: DomainError) -> Self:
        return cls(code=error.code, message=error.detail, retry_after=error.retry_after_seconds)


@strawberry.type
class NotTheOwner(Problem): ...


def extensions(error: DomainError) -> dict[str, Any]:
    """The ``extensions`` of an entry of ``errors``: its code; if known, errors by field and retryAfter in seconds."""
    return {
        "code": error.code,
        **({"errors": field_errors(error)} if error.errors else {}),
        **({} if error.retry_after_seconds is None else {"retryAfter": error.retry_after_seconds}),
    }


def field_errors(error: DomainError) -> list[dict[str, str]]:
    """Each with ``field``, by its name in GraphQL, and ``message``."""
    return [{"field": to_camel_case(each["field"]), "message": each["message"]} for each in error.errors]
