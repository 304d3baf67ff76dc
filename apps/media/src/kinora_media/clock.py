from datetime import UTC, datetime


def now() -> datetime:
    return in_milliseconds(datetime.now(UTC))


def in_milliseconds(at: datetime) -> datetime:
    """Truncated to the precision of MongoDB."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
