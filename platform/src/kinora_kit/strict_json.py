"""JSON from clients, restricted to what all stores and encoders can represent.

That is I-JSON (RFC 7493): UTF-8, finite numbers, text without lone surrogates. In addition, no NUL (PostgreSQL cannot
store it), a bounded depth (parsers recurse), and a bounded number of values (validators make an error of each wrong
one).
"""

import json
import math
import re
from typing import Any, NoReturn

MAX_DEPTH = 64
MAX_VALUES = 20_000
"""Including names. The largest legitimate text, a media document's attributes, has about 8,000."""
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


def loads(data: bytes | str) -> Any:
    """The value. Raises json.JSONDecodeError, whose message never contains input."""
    try:
        # With or without a byte order mark, as json.loads accepts bytes; but only UTF-8.
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise _refused(f"JSON nests at most {MAX_DEPTH} levels deep") from None
    except UnicodeDecodeError:
        raise _refused("JSON must be encoded as UTF-8") from None
    except ValueError:  # an integer of thousands of digits
        raise _refused("Numbers in JSON must fit into a double") from None
    _check(value)
    return value


def _check(value: Any) -> None:
    level, depth, count = [value], 0, 0
    while level:
        count += len(level)
        if count > MAX_VALUES:
            raise _refused(f"JSON has at most {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise _refused(f"JSON nests at most {MAX_DEPTH} levels deep")
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if _NOT_TEXT.search(item):
                    raise _refused("Text in JSON must not contain NUL or lone surrogates")
            elif isinstance(item, list):
                below += item
            elif isinstance(item, dict):
                below += item
                below += item.values()
            elif isinstance(item, float) and not math.isfinite(item):  # 1e400
                raise _refused("Numbers in JSON must fit into a double")
        level, depth = below, depth + 1


def _no_constant(_: str) -> NoReturn:
    raise ValueError


def _refused(reason: str) -> json.JSONDecodeError:
    return json.JSONDecodeError(reason, "", 0)
