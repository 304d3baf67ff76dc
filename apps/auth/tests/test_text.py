"""Visible names, and passwords that match whatever keyboard they were typed on."""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from kinora_auth import text
from kinora_kit.ids import new_id

if TYPE_CHECKING:
    from conftest import Api

ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("  Ada   Lovelace ", "Ada Lovelace"),
        ("Ada\u00a0Lovelace\u202f", "Ada Lovelace"),
        ("Zoe\u0308", "Zo\u00eb"),
        ("\u06a9\u062a\u0627\u0628\u200c\u0647\u0627", None),  # Persian, with ZWNJ
        ("\U0001f469\u200d\U0001f4bb", None),  # a woman at a computer
        ("\u2764\ufe0f", None),
        ("1\ufe0f\u20e3", None),
        (ENGLAND, None),
        ("\u845b\U000e0100\u57ce", None),  # an ideographic variation sequence
        ("\u0e01\u0e47", None),
        ("\u1000\u103c\u103d\u103e\u102f\u1036\u1037", None),  # Burmese
        ("\U0001fae9", None),  # newer than the Unicode of some Pythons
        ("\uff76\uff9e", None),
    ],
)
def test_display_name_keeps_visible_characters(written: str, shown: str | None) -> None:
    assert text.display_name(written) == unicodedata.normalize("NFC", shown or written)


@pytest.mark.parametrize(
    "written",
    [
        "\u202eevil",  # right-to-left override
        "a\u2066b\u2069",
        "\u200fname",
        "zero\u200bwidth",
        "soft\u00adhyphen",
        "\ufeffname",
        "\u2060",
        "\u3164",  # Hangul filler
        "\u115f\u1160",
        "\uffa0",
        "\u2800\u2800",  # blank Braille
        "\u200d",
        "a\u200d",
        "\u200da",
        "a\u200d\u200db",
        "a \u200cb",
        "\u0301",
        "\u0301name",
        "\ufe0f",
        "e" + "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308",
        "\u0e01\u0e47\u0e47\u0e47",
        "\U000e0041hidden",  # tags without a flag
        "a\U000e0001b",
        "a\u2065b",
        "\ufdd0",
        "\uffff",
        "\ud800",
        "nul\x00",
        "esc\x1b",
        "a\x85b",
        "a\u2028b",
        "a\nb",
        "a\tb",
        " \u00a0\u3000 ",
    ],
)
def test_display_name_rejects_blank_and_invisible_characters(written: str) -> None:
    with pytest.raises(ValueError, match=r"allowed|must|too many"):
        text.display_name(written)


@given(st.text(max_size=40))
def test_display_name_is_idempotent(written: str) -> None:
    try:
        name = text.display_name(written)
    except ValueError:
        return
    assert text.display_name(name) == name
    assert name.strip()
    name.encode()


def test_bio_allows_line_breaks_and_empty_text() -> None:
    assert text.prose("") == ""
    assert text.prose("one\n\ttwo  \n") == "one\n\ttwo  \n"
    with pytest.raises(ValueError, match="direction"):
        text.prose("one\n\u202etwo")


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40))
def test_opaque_normalizes_every_composition(password: str) -> None:
    for form in ("NFC", "NFD"):
        assert text.opaque(unicodedata.normalize(form, password)) == text.opaque(password)
    assert text.opaque(text.opaque(password)) == text.opaque(password)
    assert text.opaque(password) in text.password_forms(password)


async def test_login_accepts_password_in_every_composition(api: Api) -> None:
    password = "pässwörter mit Umlaut"
    person = await api.person()
    device = await person.sign_in()
    change = {"current_password": person.password, "new_password": unicodedata.normalize("NFD", password)}
    assert (await device.call("PUT", "/auth/password", change)).status_code == 204
    for typed in ("NFC", "NFD"):
        assert (await api.login(person, unicodedata.normalize(typed, password))).status_code == 200
    assert (await api.login(person, password.replace(" ", "\u00a0"))).status_code == 200
    assert (await api.login(person, password.replace("ä", "a"))).status_code == 401


@pytest.mark.parametrize("hashed", ["NFC", "NFD"])
async def test_login_rehashes_passwords_of_earlier_versions(api: Api, hashed: Any) -> None:
    """Earlier versions hashed passwords as typed."""
    password = "pässwörter\u2003mit Umlaut"
    person = await api.person()
    accounts = api.state.accounts
    as_typed = await accounts.passwords.hash(unicodedata.normalize(hashed, password))
    await accounts.pool.execute("UPDATE users SET password_hash = $2 WHERE id = $1", person.id, as_typed)
    typed = unicodedata.normalize("NFC", password)
    assert (await api.login(person, typed)).status_code == 200
    stored = await accounts.pool.fetchval("SELECT password_hash FROM users WHERE id = $1", person.id)
    assert stored != as_typed
    assert await accounts.passwords.verify(stored, password) == text.opaque(password)


TEXTS = {
    "POST /auth/register": ("username", "email", "password", "display_name"),
    "POST /auth/login": ("login", "password"),
    "POST /auth/refresh": ("refresh_token",),
    "POST /user/list": ("ids",),
    "PATCH /user/profile": ("username", "email", "display_name", "bio", "current_password"),
    "PUT /auth/password": ("current_password", "new_password"),
    "DELETE /user/profile": ("current_password",),
}


async def test_text_fields_reject_nul_and_lone_surrogates(api: Api) -> None:
    person = await api.person()
    verified = await (await person.sign_in()).verify()
    headers = {name: verified.headers[name] for name in ("x-user-id", "x-session-id")}
    good = {"username": f"user_{new_id().hex[:20]}", "email": "a@example.com", "login": person.username}
    for request, fields in TEXTS.items():
        method, path = request.split()
        for field in fields:
            for bad in ("\\u0000", "\\ud800", "\\udfff\\ud800"):
                value = ["BAD"] if field == "ids" else "long enough BAD"
                content = {name: good.get(name, "long enough") for name in fields if name != "display_name"}
                body = json.dumps({**content, field: value}).replace("BAD", bad)
                json_headers = {**headers, "Content-Type": "application/json"}
                answer = await api.http.request(method, path, content=body, headers=json_headers)
                assert 400 <= answer.status_code < 500, (request, field, bad, answer.text)
                assert answer.headers["content-type"] == "application/problem+json"
    assert (await api.login(person)).status_code == 200
