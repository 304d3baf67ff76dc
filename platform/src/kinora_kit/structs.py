"""Free-form JSON objects in gRPC messages (google.protobuf.Struct), with whole numbers converted back to integers."""

from typing import Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value


def to_struct(value: object) -> Struct:
    """Raises TypeError or ValueError unless ``value`` is a JSON object."""
    if not isinstance(value, dict):
        raise TypeError("not an object")
    struct = Struct()
    struct.update(value)
    return struct


def from_struct(struct: Struct) -> dict[str, Any]:
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
