"""Global ids: https://graphql.org/learn/global-object-identification/

They are unique across types and opaque to clients: base64 of ``Type:uuid``.
"""

import base64
import contextlib
from uuid import UUID

import strawberry

from kinora_kit.errors import InvalidInput
from kinora_kit.ids import parse_id

MALFORMED = "must be an id that this API returned"


def make(kind: str, uuid: UUID | str) -> strawberry.ID:
    """``kind``: the name of the type."""
    return strawberry.ID(base64.b64encode(f"{kind}:{uuid}".encode()).decode())


def parse(text: str, *kinds: str, field: str = "id") -> UUID:
    """The UUID of an id of one of the types ``kinds``. Raises InvalidInput, which names the argument ``field``."""
    kind, uuid = split(text, field=field)
    if kind not in kinds:
        raise InvalidInput.of([(field, f"must be the id of a {' or a '.join(kinds)}")])
    return uuid


def split(text: str, *, field: str = "id") -> tuple[str, UUID]:
    """The type and the UUID of an id. Raises InvalidInput, which names the argument ``field``."""
    with contextlib.suppress(ValueError, InvalidInput):
        kind, _, rest = base64.b64decode(text, validate=True).decode("ascii").partition(":")
        uuid = parse_id(rest)
        if make(kind, uuid) == text:  # each object has only one id, because client libraries compare them
            return kind, uuid
    raise InvalidInput.of([(field, MALFORMED)])
