"""Expected errors, part of a mutation's result type. All others become entries of ``errors``; see extensions.py.

The type's name is the error code of the service that raises it: ``username_taken`` is ``UsernameTaken``.
"""

from collections.abc import Awaitable
from typing import TypeVar, overload

import strawberry
from strawberry.utils.str_converters import to_snake_case

from kinora_kit.errors import DomainError

T = TypeVar("T")
A = TypeVar("A", bound="Problem")
B = TypeVar("B", bound="Problem")
C = TypeVar("C", bound="Problem")
D = TypeVar("D", bound="Problem")
E = TypeVar("E", bound="Problem")


@strawberry.interface(description="Why a mutation failed.")
class Problem:
    code: str = strawberry.field(description="Stable, for machines.")
    message: str = strawberry.field(description="A human-readable sentence.")


@overload
async def outcome(call: Awaitable[T], a: type[A], b: type[B], c: type[C], /) -> T | A | B | C: ...
@overload
async def outcome(call: Awaitable[T], a: type[A], b: type[B], c: type[C], d: type[D], /) -> T | A | B | C | D: ...
@overload
async def outcome(
    call: Awaitable[T], a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], /
) -> T | A | B | C | D | E: ...
async def outcome(call: Awaitable[T], *named: "type[Problem]") -> "T | Problem":
    """The result of ``call``, or the type in ``named`` that matches its error. Raises all other errors."""
    try:
        return await call
    except DomainError as error:
        for problem in named:
            if to_snake_case(problem.__name__) == error.code:
                return problem(code=error.code, message=error.detail)
        raise


@strawberry.type
class InvalidInput(Problem): ...


@strawberry.type
class TooManyRequests(Problem): ...


@strawberry.type
class NotTheOwner(Problem): ...
