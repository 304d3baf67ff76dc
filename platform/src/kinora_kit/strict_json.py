"""JSON from clients, held to what every part behind it can store and repeat.

That is I-JSON (RFC 7493): UTF-8, finite numbers, text without lone surrogates. Beyond it, no NUL (PostgreSQL stores
none) and a bounded depth (parsers recurse).
"""

import json
import math
import re
from typing import Any, NoReturn

MAX_DEPTH = 64
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


def loads(data: bytes | str) -> Any:
    """The value. Raises json.JSONDecodeError, whose message never repeats what was sent."""
    try:
        # With a byte order mark or without, as json.loads takes bytes; but no encoding other than UTF-8.
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise _refused(f"JSON nests at most {MAX_DEPTH} levels deep") from None
    except UnicodeDecodeError:
        raise _refused("JSON must be encoded as UTF-8") from None
    except ValueError:  # an integer of thousands of digits
        raise _refused("A number in JSON must be one that a double can hold") from None
    _check(value)
    return value


def _check(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise _refused(f"JSON nests at most {MAX_DEPTH} levels deep")
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if _NOT_TEXT.search(item):
                    raise _refused("Text in JSON holds neither NUL nor lone surrogates")
            elif isinstance(item, list):
                below += item
            elif isinstance(item, dict):
                below += item
                below += item.values()
            elif isinstance(item, float) and not math.isfinite(item):  # 1e400
                raise _refused("A number in JSON must be one that a double can hold")
        level, depth = below, depth + 1


def _no_constant(_: str) -> NoReturn:
    raise ValueError


def _refused(reason: str) -> json.JSONDecodeError:
    return json.JSONDecodeError(reason, "", 0)
