from datetime import UTC, datetime


def now() -> datetime:
    """In milliseconds, the precision of MongoDB."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
