"""Stored segments count up to the first gap, and progress never decreases. The domain imports nothing above it."""

import ast
import inspect
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinora_video import domain, ladder, store
from kinora_video.domain import Part, PlannedPart, StoredSegment, progress_of, time_left, unbroken


@pytest.mark.parametrize(
    ("module", "below"), [(domain, {"errors"}), (ladder, {"domain"}), (store, {"domain", "ladder"})]
)
def test_modules_import_only_those_below_them(module: ModuleType, below: set[str]) -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert {name.split(".")[1] for name in names if name.startswith("kinora_video.")} <= below


def planned(index: int, *, done: bool, progress: float = 0.0, cost: float = 1.0) -> PlannedPart:
    part = Part(index, "video", index * 12.0, (index + 1) * 12.0, ("240p",), "bulk", 4.0)
    return PlannedPart(part=part, cost=cost, progress=1.0 if done else progress, attempts=1, done=done)


def segment(part_index: int, sequence: int) -> StoredSegment:
    return StoredSegment("240p", part_index, sequence, 4.0, 1000)


def test_unbroken_excludes_segments_after_an_unfinished_part() -> None:
    parts = [planned(0, done=True), planned(1, done=False), planned(2, done=True)]
    stored = [segment(2, 0), segment(1, 0), segment(0, 0), segment(0, 1)]
    assert unbroken(parts, stored) == [segment(0, 0), segment(0, 1), segment(1, 0)]


def test_unbroken_ends_at_a_missing_segment() -> None:
    assert unbroken([planned(0, done=False)], [segment(0, 0), segment(0, 2)]) == [segment(0, 0)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=8), st.randoms())
def test_unbroken_is_ordered_and_grows_with_what_is_stored(states: list[tuple[bool, int]], random: object) -> None:
    parts = [planned(index, done=done) for index, (done, _) in enumerate(states)]
    stored = [segment(index, number) for index, (_, count) in enumerate(states) for number in range(count)]
    shuffled = list(stored)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    run = unbroken(parts, shuffled)
    assert run == sorted(run, key=lambda item: (item.part_index, item.sequence))
    more = unbroken(parts, [*stored, segment(len(parts) - 1, states[-1][1])])
    assert more[: len(run)] == run


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 100)), min_size=1, max_size=10),
)
def test_progress_never_decreases_if_no_part_does(parts: list[tuple[float, float, float]]) -> None:
    before = [planned(i, done=False, progress=min(a, b), cost=c) for i, (a, b, c) in enumerate(parts)]
    after = [planned(i, done=False, progress=max(a, b), cost=c) for i, (a, b, c) in enumerate(parts)]
    earlier, later = progress_of(before, 120.0), progress_of(after, 120.0)
    assert 0 <= earlier.whole <= later.whole + 1e-12 <= 1 + 1e-12
    assert earlier.renditions["240p"] <= later.renditions["240p"] + 1e-12


def test_progress_of_finished_parts_is_one() -> None:
    progress = progress_of([planned(0, done=True), planned(1, done=True)], 24.0)
    assert progress.whole == 1
    assert progress.renditions == {"240p": 1}


def test_time_left_is_estimated_once_there_is_enough_progress() -> None:
    assert time_left(0.0, 10) is None
    assert time_left(0.25, 10) == 30
    assert time_left(1.0, 10) == 0
