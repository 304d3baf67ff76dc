"""Well-known types of gRPC messages: free-form JSON objects (google.protobuf.Struct), and times."""

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from kinora_kit.errors import InvalidInput

_EPOCH = datetime.fromtimestamp(0, UTC)

MAX_DEPTH = 16
"""Of objects and lists in each other. Each is two or three messages, and parsers accept 100 messages in each other."""


def to_struct(value: object) -> Struct:
    """Raises ValueError, with a message for the user, unless ``value`` is a JSON object that a message can hold."""
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    if _depth(value) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    struct = Struct()
    try:
        struct.update(value)
    except (ValueError, OverflowError):
        raise ValueError("must be JSON, with numbers that fit into a double") from None
    return struct


def _depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def from_struct(struct: Struct) -> dict[str, Any]:
    """The object, with whole numbers converted back to integers."""
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    inner = getattr(value, kind) if kind else None
    match inner:
        case Struct():
            return from_struct(inner)
        case ListValue():
            return [_plain(item) for item in inner.values]
        case float() if inner.is_integer():
            return int(inner)
        case _:
            return None if kind == "null_value" else inner


def timestamp(at: datetime) -> Timestamp:
    """``at`` must be aware of its time zone, or is UTC."""
    message = Timestamp()
    message.FromDatetime(at)
    return message


def moment(message: Timestamp) -> datetime:
    """Raises InvalidInput for a time that Python cannot represent."""
    # Not ToDatetime, which takes several times as long: a page of the feed has about 100 of these.
    try:
        return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    except OverflowError:
        raise InvalidInput("A time must be between the years 1 and 9999") from None
