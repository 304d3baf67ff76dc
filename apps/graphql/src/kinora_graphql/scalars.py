import json
import re
from typing import NewType

import strawberry
from strawberry.exceptions import StrawberryInputCoercionError
from strawberry.types.scalar import ScalarDefinition

BigInt = NewType("BigInt", int)

LIMIT = 1 << 63
_TEXT = re.compile("-?[0-9]{1,19}")


def _parse(value: object) -> int:
    # Clients whose numbers are too small send a string.
    number = int(value) if isinstance(value, str) and _TEXT.fullmatch(value) else value
    if not isinstance(number, int) or isinstance(number, bool) or not -LIMIT <= number < LIMIT:
        raise StrawberryInputCoercionError(f"BigInt cannot represent {json.dumps(value, default=str):.40}")
    return number


DEFINITIONS: dict[object, ScalarDefinition] = {
    BigInt: strawberry.scalar(
        name="BigInt",
        description="A 64-bit integer, as a JSON number. Byte counts exceed the range of Int.",
        serialize=int,
        parse_value=_parse,
    )
}
