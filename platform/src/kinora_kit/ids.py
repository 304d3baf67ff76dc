"""Identifiers: UUIDv7 everywhere, so that they sort by time and reveal nothing but it."""

from uuid import UUID

from uuid_utils.compat import uuid7


def new_id() -> UUID:
    return UUID(int=uuid7().int)
