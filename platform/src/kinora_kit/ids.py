"""Identifiers: UUIDv7 everywhere, which sort by creation time and reveal nothing else."""

from uuid import UUID

from uuid_utils.compat import uuid7


def new_id() -> UUID:
    return UUID(int=uuid7().int)
