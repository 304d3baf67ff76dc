"""Validated input for callers without a framework that parses bodies, such as gRPC."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError

from kinora_kit import strict_json
from kinora_kit.errors import InvalidInput, MalformedRequest, message_of

C = TypeVar("C", bound=BaseModel)


def _integral(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


INTEGRAL = BeforeValidator(_integral)
"""For strict integers, which then are those of JSON Schema: 5.0 is one, true and "5" are not."""


def command(kind: type[C], fields: Mapping[str, Any]) -> C:
    """Raises InvalidInput."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidInput.of((".".join(map(str, item["loc"])), message_of(item)) for item in found) from None


def command_from_json(kind: type[C], body: bytes) -> C:
    """Raises MalformedRequest, InvalidInput."""
    try:
        return command(kind, strict_json.loads(body))
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"The body is not valid JSON: {error.msg}") from None
