"""Identifiers: UUIDv7 everywhere, which sort by creation time and reveal nothing else."""

import re
from uuid import UUID

from uuid_utils.compat import uuid7

from kinora_kit.errors import InvalidInput

_TEXT = re.compile("[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def new_id() -> UUID:
    return UUID(int=uuid7().int)


def parse_id(text: str) -> UUID:
    """An id that a client sent. Raises InvalidInput.

    Compare ids only after parsing: upper case is valid, too. The other forms that ``UUID()`` accepts (braces, ``urn:``,
    underscores, no hyphens) are not.
    """
    if not _TEXT.fullmatch(text):
        raise InvalidInput("An id must be a UUID")
    return UUID(text)
