import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kinora_kit.ids import new_id
from kinora_media import domain
from kinora_media.domain import Changes, Media, State, Visibility

AT = datetime(2026, 1, 1, tzinfo=UTC)
EMPTY = Media(id=new_id(), owner_id=new_id(), created_at=AT, updated_at=AT)

Step = Callable[[Media], Media]
BEGUN: Step = partial(domain.begun, title="Title", visibility=Visibility.PUBLIC, at=AT)
PLAYABLE: Step = partial(domain.playable, duration=9.9, width=426, height=240)
READY: Step = partial(domain.ready, duration=10.0, width=1920, height=1080)
FAILED: Step = partial(domain.failed, code="broken", detail="It is broken")
STEPS: list[Step] = [BEGUN, domain.uploaded, PLAYABLE, READY, FAILED]


def after(steps: list[Step]) -> Media:
    media = EMPTY
    for step in steps:
        media = step(media)
    return media


@given(st.lists(st.sampled_from(STEPS), min_size=1, max_size=5, unique=True), st.data())
def test_duplicate_events_in_any_order_give_the_same_document(steps: list[Step], data: st.DataObject) -> None:
    in_order = sorted(steps, key=STEPS.index)
    doubled = data.draw(st.permutations(steps + data.draw(st.lists(st.sampled_from(steps)))))
    assert after(doubled) == after(in_order)


@given(st.lists(st.sampled_from(STEPS)))
def test_state_only_moves_forward(steps: list[Step]) -> None:
    media = EMPTY
    for step in steps:
        before, media = media, step(media)
        assert media.state == before.state or media.state.outranks(before.state)


def test_ready_clears_the_failure() -> None:
    assert after([BEGUN, FAILED]).failure_code == "broken"
    media = after([BEGUN, FAILED, READY])
    assert (media.state, media.failure_code, media.failure_detail) == (State.READY, "", "")


def test_redelivered_upload_started_keeps_edits() -> None:
    media = domain.edited(after([BEGUN]), Changes(title="Better"))
    assert BEGUN(media) == media


@pytest.mark.parametrize(
    ("visibility", "seen_by_others"),
    [(Visibility.PRIVATE, False), (Visibility.UNLISTED, True), (Visibility.PUBLIC, True)],
)
def test_visibility_applies_to_others_only(visibility: Visibility, seen_by_others: bool) -> None:
    media = replace(EMPTY, begun=True, visibility=visibility)
    assert media.visible_to(media.owner_id)
    assert media.visible_to(new_id()) is seen_by_others
    assert media.visible_to(None) is seen_by_others


def test_document_without_upload_started_is_invisible() -> None:
    media = after([READY])
    assert not media.visible_to(media.owner_id)


def test_tags_are_normalised_and_deduplicated() -> None:
    assert Changes(tags=("  Big   Cats ", "big cats", "\uff23\uff21\uff34", " ")).tags == ("big cats", "cat")


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"x": value}
    return value


@pytest.mark.parametrize(
    "changes",
    [
        {"title": ""},
        {"title": "   "},
        {"title": "x" * 201},
        {"title": None},
        {"title": "\ud800"},
        {"description": "x" * 10_001},
        {"description": None},
        {"tags": None},
        {"tags": [None]},
        {"tags": ["x" * 51]},
        {"tags": [f"tag {i}" for i in range(21)]},
        {"category": "x" * 51},
        {"category": "Not an id"},
        {"publish_at": None},
        {"publish_at": "2026-01-01T00:00:00Z"},
        {"publish_at": (datetime.now(UTC) + timedelta(days=366)).isoformat()},
        {"publish_at": (datetime.now() + timedelta(days=1)).isoformat()},
        {"visibility": None},
        {"visibility": "secret"},
        {"attributes": None},
        {"attributes": []},
        {"attributes": {"$where": 1}},
        {"attributes": {"a.b": 1}},
        {"attributes": {"": 1}},
        {"attributes": {"a\0b": 1}},
        {"attributes": {"a": [{"$set": 1}]}},
        {"attributes": {"a": 1 << 53}},
        {"attributes": {"a": float("nan")}},
        {"attributes": {"a": "\ud800"}},
        {"attributes": nested(10)},
        {"attributes": {"a": "x" * 16384}},
        {"owner_id": str(new_id())},
        {"state": "ready"},
    ],
    ids=lambda changes: ascii(changes)[:40],
)
def test_invalid_changes_are_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Changes.model_validate(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"title": " x "},
        {"description": "x" * 10_000},
        {"tags": ["x" * 50]},
        {"tags": [f"tag {i}" for i in range(20)] * 2},
        {"attributes": nested(9)},
        {"attributes": {"a": "é" * 8000, "b": [1, 1.5, True, None, {"c": -(1 << 53) + 1}]}},
    ],
    ids=lambda changes: ascii(changes)[:40],
)
def test_valid_changes_are_accepted(changes: dict[str, Any]) -> None:
    Changes.model_validate_json(json.dumps(changes))


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("a\u202eb\u2066c", "abc"),
        ("\x1b[31mred", "[31mred"),
        ("a\x00\x07\u2028b", "a   b"),
        ("a" + "\u0301" * 100, "a" + "\u0301" * 6),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
        ("abc\u200f א", "abc\u200f א"),
        ("👩\u200d👩", "👩\u200d👩"),
        ("\u200b\u2060 \u3164", ""),
    ],
)
def test_edited_text_is_displayable(typed: str, kept: str) -> None:
    changes = Changes(description=typed, tags=(typed[:50], "a"))
    assert changes.description == kept
    assert not set("\u202e\u2066\x1b\u200b") & set("".join(changes.tags))
    if kept:
        assert Changes(title=typed).title == kept
    else:
        assert changes.tags == ("a",)
        with pytest.raises(ValidationError, match="at least one visible character"):
            Changes(title=typed)


def test_description_keeps_lines_and_tabs() -> None:
    assert Changes(description=" a\r\n\tb\n\nc ").description == "a\n\tb\n\nc"
