"""The bitrate ladder: the sizes and peak bit rates of a video's renditions.

Rungs are named after the short side of a 16:9 picture (240p to 2160p). Other aspect ratios, portrait included, are
fitted into the rung's 16:9 box, so the number of pixels of a rung hardly depends on the aspect ratio.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from kinora_video.domain import Source

AUDIO = "audio"  # the audio rendition's name
MAX_FRAME_RATE = 60  # faster sources (slow motion at 120 or 240) are reduced to this; all others keep every frame


@dataclass(frozen=True, slots=True)
class Rung:
    """A step of the ladder: the short side of its 16:9 box in pixels, and its peak bit rate up to 30 frames/s."""

    side: int
    peak_kbps: int


# Peaks follow Apple's HLS authoring specification (2.29 and 2.30) for H.264, rounded; above 1080p YouTube's uploads.
RUNGS = (
    Rung(240, 400),
    Rung(360, 900),
    Rung(480, 1600),
    Rung(720, 3500),
    Rung(1080, 6500),
    Rung(1440, 12000),
    Rung(2160, 24000),
)
# A source that nearly fills a rung gets it at its own size: 1276 x 718 counts as 720p, not as 480p.
_NEARLY = Fraction(8, 9)


@dataclass(frozen=True, slots=True)
class Rendition:
    """One video rendition: even sides, square pixels, capped constant quality (CRF with a VBV of two seconds)."""

    name: str
    width: int
    height: int
    peak_kbps: int
    frame_rate: Fraction
    crf: int
    preset: str

    @property
    def cost(self) -> float:
        """The pixels per second, as the weight of its progress."""
        return self.width * self.height * float(self.frame_rate)


def ladder(
    source: Source, *, crf: int = 23, preset: str = "veryfast", rungs: Sequence[Rung] = RUNGS
) -> tuple[Rendition, ...]:
    """The renditions of `source`, smallest first; at least one, and none larger than the source."""
    frame_rate = min(source.frame_rate, Fraction(MAX_FRAME_RATE))
    chosen = [(f"{rung.side}p", rung.peak_kbps, min(Fraction(1), scale)) for rung, scale in _fitting(source, rungs)]
    if not chosen:
        chosen = [(f"{min(source.width, source.height)}p", rungs[0].peak_kbps, Fraction(1))]
    return tuple(
        Rendition(
            name=name,
            width=_even(source.width * scale, source.width),
            height=_even(source.height * scale, source.height),
            peak_kbps=peak_kbps * (3 if frame_rate > 30 else 2) // 2,
            frame_rate=frame_rate,
            crf=crf,
            preset=preset,
        )
        for name, peak_kbps, scale in chosen
    )


def _fitting(source: Source, rungs: Sequence[Rung]) -> list[tuple[Rung, Fraction]]:
    """The rungs that the source (nearly) fills, each with the factor that scales the source into its box."""
    short, long = sorted((source.width, source.height))
    scales = [(rung, min(Fraction(rung.side, short), Fraction(_long_side(rung), long))) for rung in rungs]
    return [(rung, scale) for rung, scale in scales if scale * _NEARLY <= 1]


def _long_side(rung: Rung) -> int:
    return -(-rung.side * 16 // 9)  # rounded up: 854 for 480, so that 854 x 480 is not scaled


def _even(length: Fraction, limit: int) -> int:
    """The even number nearest to `length`, at most `limit` and at least 2."""
    return max(2, min(2 * round(length / 2), limit - limit % 2))
