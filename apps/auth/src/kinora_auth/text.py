"""Validation of names, texts and passwords. Validators raise ValueError with a message for the user."""

import unicodedata
from itertools import pairwise

from kinora_kit.text import BLANK, MARKS_IN_A_ROW, is_visible

_JOINERS = {"\u200c", "\u200d"}  # within Persian words and emoji
_FLAG = "\U0001f3f4"  # followed by tag characters: the flag of a region
_CANCEL_TAG = "\U000e007f"


def display_name(text: str) -> str:
    """One line with something visible, in NFC, with single spaces."""
    if any(character in "\n\t" for character in text):
        raise ValueError("line breaks and tabs are not allowed")
    name = " ".join(prose(text).split())
    if not any(map(is_visible, name)):
        raise ValueError("must show at least one visible character")
    if unicodedata.category(name[0]).startswith("M"):
        raise ValueError("must not begin with a combining mark")
    return name


def prose(text: str) -> str:
    """Text of any number of lines, in NFC, without invisible, reordering or stacked characters."""
    text = unicodedata.normalize("NFC", text)
    for before, character in pairwise(f" {text}"):
        category = unicodedata.category(character)
        if category in ("Cc", "Zl", "Zp") and character not in "\n\t":
            raise ValueError("control characters are not allowed")
        if category == "Cs" or _is_noncharacter(character):
            raise ValueError("surrogates and noncharacters are not allowed")
        if character in BLANK or (category == "Cf" and not _belongs(before, character)) or _is_reserved(character):
            raise ValueError("characters that are invisible or change the direction of text are not allowed")
    if any(before in _JOINERS and (after.isspace() or after in _JOINERS) for before, after in pairwise(f"{text} ")):
        raise ValueError("a joiner must stand between two characters")
    marks: list[str] = []
    for character in text:
        marks = [*marks, character] if unicodedata.category(character) in ("Mn", "Me") else []
        if len(marks) > MARKS_IN_A_ROW or marks[-2:] == [character, character]:
            raise ValueError("too many combining marks on one character")
    return text


def one_line(text: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ValueError("control characters and line breaks are not allowed")
    return text


def new_password(text: str) -> str:
    """The form in which a password is hashed. Raises ValueError for characters that cannot be typed again."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("control characters are not allowed")
    return opaque(text)


def opaque(password: str) -> str:
    """The password as OpaqueString (RFC 8265, section 4.2): in NFC, independent of the keyboard, with plain spaces.

    Without that profile's list of allowed characters, which rejects emoji that are newer than the server's Unicode.
    """
    spaced = "".join(" " if unicodedata.category(character) == "Zs" else character for character in password)
    return unicodedata.normalize("NFC", spaced)


def password_forms(password: str) -> tuple[str, ...]:
    """The forms in which ``password`` may have been hashed: ``opaque``, or, by earlier versions, as typed."""
    return tuple(dict.fromkeys((opaque(password), password, unicodedata.normalize("NFD", password))))


def _is_noncharacter(character: str) -> bool:
    return 0xFDD0 <= ord(character) <= 0xFDEF or ord(character) & 0xFFFE == 0xFFFE


def _belongs(before: str, character: str) -> bool:
    """Whether a format character (Cf) belongs to the character before it."""
    if character in _JOINERS:
        return not before.isspace() and before not in _JOINERS
    return "\U000e0020" <= character <= _CANCEL_TAG and (before == _FLAG or "\U000e0020" <= before < _CANCEL_TAG)


def _is_reserved(character: str) -> bool:
    """Whether it is in a block that Unicode reserves for invisible characters."""
    return "\ufff0" <= character <= "\ufff8" or (
        "\U000e0000" <= character <= "\U000e0fff" and unicodedata.category(character) == "Cn"
    )
