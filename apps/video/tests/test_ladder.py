"""The ladder never upscales, keeps the aspect ratio, and is never empty."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinora_video.domain import Source
from kinora_video.ladder import MAX_FRAME_RATE, ladder


def source(width: int, height: int, frame_rate: Fraction = Fraction(30)) -> Source:
    return Source(
        container="mov",
        size=1,
        duration=60.0,
        start_time=0.0,
        video_start=0.0,
        seekable=True,
        video_codec="h264",
        width=width,
        height=height,
        pixel_format="yuv420p",
        frame_rate=frame_rate,
        variable_frame_rate=False,
        audio_codec=None,
        audio_channels=0,
        audio_rate=0,
    )


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ((1920, 1080), {"240p": (426, 240), "360p": (640, 360), "480p": (854, 480), "720p": (1280, 720)}),
        ((1080, 1920), {"240p": (240, 426), "360p": (360, 640), "480p": (480, 854), "720p": (720, 1280)}),
        ((1920, 804), {"240p": (428, 178), "1080p": (1920, 804)}),
        ((1440, 1080), {"240p": (320, 240), "1080p": (1440, 1080)}),
        ((1276, 718), {"480p": (854, 480), "720p": (1276, 718)}),
        ((641, 361), {"240p": (426, 240), "360p": (640, 360)}),
        ((3840, 2160), {"1440p": (2560, 1440), "2160p": (3840, 2160)}),
        ((161, 121), {"121p": (160, 120)}),
    ],
)
def test_ladder_of_common_sizes(size: tuple[int, int], sizes: dict[str, tuple[int, int]]) -> None:
    made = {rendition.name: (rendition.width, rendition.height) for rendition in ladder(source(*size))}

    assert {name: made[name] for name in sizes} == sizes


sides = st.integers(1, 8192)


@given(sides, sides)
def test_renditions_have_even_sides_and_are_not_larger_than_the_source(width: int, height: int) -> None:
    renditions = ladder(source(width, height))

    assert renditions
    for rendition in renditions:
        assert rendition.width % 2 == rendition.height % 2 == 0
        assert rendition.width <= max(width, 2)
        assert rendition.height <= max(height, 2)


@given(st.integers(32, 8192), st.integers(32, 8192))
def test_renditions_keep_the_aspect_ratio_to_a_pixel(width: int, height: int) -> None:
    for rendition in ladder(source(width, height)):
        scale = max(rendition.width / width, rendition.height / height)
        assert abs(rendition.width - width * scale) <= 2 * max(1, width / height)
        assert abs(rendition.height - height * scale) <= 2 * max(1, height / width)


@given(sides, sides)
def test_renditions_grow_and_have_unique_names(width: int, height: int) -> None:
    renditions = ladder(source(width, height))

    assert len({rendition.name for rendition in renditions}) == len(renditions)
    for smaller, larger in pairwise(renditions):
        assert smaller.cost < larger.cost
        assert smaller.peak_kbps < larger.peak_kbps


@given(sides, sides)
def test_rotating_the_source_rotates_its_renditions(width: int, height: int) -> None:
    upright = [(rendition.name, rendition.height, rendition.width) for rendition in ladder(source(height, width))]

    assert [
        (rendition.name, rendition.width, rendition.height) for rendition in ladder(source(width, height))
    ] == upright


@given(st.fractions(1, 300))
def test_frame_rate_is_that_of_the_source_up_to_the_maximum(frame_rate: Fraction) -> None:
    for rendition in ladder(source(1920, 1080, frame_rate)):
        assert rendition.frame_rate == min(frame_rate, MAX_FRAME_RATE)
