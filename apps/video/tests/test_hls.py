"""Playlists conform to the protocol; m3u8 parses them like a player."""

import itertools
from fractions import Fraction

import m3u8
from hypothesis import given
from hypothesis import strategies as st

from kinora_video.hls import Segment, Track, VideoTrack, master_playlist, media_playlist

SEGMENTS = [Segment("v/0.m4s", 4.0, 100_000), Segment("v/1.m4s", 4.25, 318_750), Segment("v/2.m4s", 1.5, 30_000)]
AUDIO = Track("a/list.m3u8", "mp4a.40.2", [Segment("a/0.m4s", 4.0, 64_000), Segment("a/1.m4s", 2.0, 16_000)])
VIDEO = VideoTrack("v/list.m3u8", "avc1.640015", SEGMENTS, width=426, height=240, frame_rate=Fraction(30000, 1001))


def signed(key: str) -> str:
    return f"/streams/{key}?expires=1&signature=abc"


def test_growing_playlist_lists_stored_segments_and_has_no_endlist() -> None:
    text = media_playlist("v/init.mp4", SEGMENTS[:2], target_seconds=4, complete=False, uri=signed)

    parsed = m3u8.loads(text)
    assert parsed.version == 7
    assert parsed.playlist_type == "event"
    assert parsed.is_independent_segments
    assert not parsed.is_endlist
    assert parsed.media_sequence == 0
    assert parsed.segment_map[0].uri == signed("v/init.mp4")
    assert [(s.uri, s.duration) for s in parsed.segments] == [(signed("v/0.m4s"), 4.0), (signed("v/1.m4s"), 4.25)]


def test_complete_playlist_has_an_endlist() -> None:
    parsed = m3u8.loads(media_playlist("v/init.mp4", SEGMENTS, target_seconds=4, complete=True, uri=signed))

    assert parsed.playlist_type == "vod"
    assert parsed.is_endlist


def test_playlist_only_grows_at_its_end() -> None:
    lists = [
        media_playlist("v/init.mp4", SEGMENTS[:length], target_seconds=4, complete=False, uri=signed)
        for length in range(len(SEGMENTS) + 1)
    ]

    assert all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(lists))


@given(st.lists(st.floats(0.01, 30.0), max_size=20))
def test_target_duration_is_at_least_that_of_each_segment(durations: list[float]) -> None:
    segments = [Segment(str(number), duration, 1) for number, duration in enumerate(durations)]

    parsed = m3u8.loads(media_playlist("init", segments, target_seconds=4, complete=True, uri=str))

    # RFC 8216bis 4.4.3.1: each duration, rounded to the nearest integer.
    assert all(int(duration + 0.5) <= parsed.target_duration for duration in durations)


def test_master_playlist_measures_bit_rates_with_audio() -> None:
    parsed = m3u8.loads(master_playlist([VIDEO], AUDIO, uri=signed))

    (playlist,) = parsed.playlists
    assert playlist.uri == signed("v/list.m3u8")
    info = playlist.stream_info
    assert info.bandwidth == 600_000 + 128_000
    assert info.average_bandwidth == -(-8 * 448_750 * 100 // 975) + -(-8 * 80_000 // 6)
    assert info.resolution == (426, 240)
    assert info.frame_rate == 29.97
    assert info.codecs == "avc1.640015,mp4a.40.2"
    (media,) = parsed.media
    assert (media.type, media.group_id, media.uri) == ("AUDIO", info.audio, signed("a/list.m3u8"))
    assert (media.default, media.autoselect, media.channels) == ("YES", "YES", "2")


def test_video_without_audio_has_no_audio_group() -> None:
    parsed = m3u8.loads(master_playlist([VIDEO], None, uri=signed))

    assert parsed.media == []
    assert parsed.playlists[0].stream_info.audio is None
    assert parsed.playlists[0].stream_info.codecs == "avc1.640015"
