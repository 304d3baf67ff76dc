"""Text of users, made safe to show to others beside other text."""

import unicodedata

BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0\U0001d159")
"""Blank letters and symbols, which their Unicode category does not reveal."""
MARKS_IN_A_ROW = 6
"""Combining marks on one character; Burmese and Tibetan need this many."""
# Embeddings, overrides and isolates. Not the marks that Arabic, Hebrew and Persian need.
_DIRECTIONS = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def displayable(text: str, *, lines: bool = False) -> str:
    """``text`` without control characters, direction overrides and stacks of combining marks, in one line unless
    ``lines``; empty if it shows nothing."""
    kept = []
    marks = 0
    for character in text.replace("\r\n", "\n"):
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if category in ("Cc", "Zl", "Zp") and not (lines and character in "\n\t"):
            kept.append(" ")
        elif character not in _DIRECTIONS and marks <= MARKS_IN_A_ROW:
            kept.append(character)
    shown = "".join(kept).strip()
    return shown if any(map(is_visible, shown)) else ""


def is_visible(character: str) -> bool:
    # Cn: an emoji newer than this Python's Unicode.
    category = unicodedata.category(character)
    return character not in BLANK and (category[0] in "LNPS" or category == "Cn")
