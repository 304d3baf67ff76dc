"""What is stored counts from the beginning without a gap, and progress never falls."""

from hypothesis import given
from hypothesis import strategies as st

from kinora_video.domain import PlannedPart, StoredSegment, progress_of, time_left, unbroken
from kinora_video.encode import Part


def planned(index: int, *, done: bool, progress: float = 0.0, cost: float = 1.0) -> PlannedPart:
    part = Part(index, "video", index * 12.0, (index + 1) * 12.0, ("240p",), "bulk", 4.0)
    return PlannedPart(part=part, cost=cost, progress=1.0 if done else progress, attempts=1, done=done)


def segment(part_index: int, sequence: int) -> StoredSegment:
    return StoredSegment("240p", part_index, sequence, 4.0, 1000)


def test_segments_after_a_part_that_is_not_done_do_not_count() -> None:
    parts = [planned(0, done=True), planned(1, done=False), planned(2, done=True)]
    stored = [segment(2, 0), segment(1, 0), segment(0, 0), segment(0, 1)]
    assert unbroken(parts, stored) == [segment(0, 0), segment(0, 1), segment(1, 0)]


def test_a_segment_missing_within_a_part_ends_the_run() -> None:
    assert unbroken([planned(0, done=False)], [segment(0, 0), segment(0, 2)]) == [segment(0, 0)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=8), st.randoms())
def test_the_run_is_in_order_and_grows_when_more_is_stored(states: list[tuple[bool, int]], random: object) -> None:
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
def test_progress_never_falls_when_no_part_does(parts: list[tuple[float, float, float]]) -> None:
    before = [planned(i, done=False, progress=min(a, b), cost=c) for i, (a, b, c) in enumerate(parts)]
    after = [planned(i, done=False, progress=max(a, b), cost=c) for i, (a, b, c) in enumerate(parts)]
    earlier, later = progress_of(before, 120.0), progress_of(after, 120.0)
    assert 0 <= earlier.whole <= later.whole + 1e-12 <= 1 + 1e-12
    assert earlier.renditions["240p"] <= later.renditions["240p"] + 1e-12


def test_all_done_is_one() -> None:
    progress = progress_of([planned(0, done=True), planned(1, done=True)], 24.0)
    assert progress.whole == 1
    assert progress.renditions == {"240p": 1}


def test_the_time_left_is_told_once_there_is_something_to_go_by() -> None:
    assert time_left(0.0, 10) is None
    assert time_left(0.25, 10) == 30
    assert time_left(1.0, 10) == 0
