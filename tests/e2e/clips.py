"""The clips of the journey, made by ffmpeg: what they are, and how many frames they have."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Recipe:
    size: str
    rate: str
    seconds: int
    sound: bool


@dataclass(frozen=True)
class Clip:
    path: Path
    frames: int
    frame_seconds: float
    sound: bool
    vertical: bool


CLIPS = {
    "minute": Recipe("1920x1080", "30", 60, sound=True),
    "vertical": Recipe("1080x1920", "30000/1001", 9, sound=True),
    "silent": Recipe("1280x720", "25", 9, sound=False),
    "short": Recipe("640x360", "30", 5, sound=True),
}


def make(name: str, folder: Path) -> Clip:
    recipe = CLIPS[name]
    path = folder / f"{name}.mp4"
    sound = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-c:a", "aac"] if recipe.sound else []
    picture = ["-f", "lavfi", "-i", f"testsrc2=size={recipe.size}:rate={recipe.rate}"]
    inputs, codec = [*picture, *sound[:4]], ["-c:v", "libx264", "-preset", "ultrafast", *sound[4:]]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *inputs, "-t", str(recipe.seconds), *codec, str(path)], check=True)
    width, height = map(int, recipe.size.split("x"))
    numerator, _, denominator = recipe.rate.partition("/")
    return Clip(
        path=path,
        frames=count_frames(str(path)),
        frame_seconds=int(denominator or 1) / int(numerator),
        sound=recipe.sound,
        vertical=height > width,
    )


def count_frames(url: str) -> int:
    """Decode the whole picture; fails when the decoder has anything to complain about."""
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-nostdin", "-i", url, "-map", "0:v:0", "-f", "null", "-", "-progress", "pipe:1"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == "", f"decoding {url} said: {done.stderr[:500]}"
    return int([line for line in done.stdout.splitlines() if line.startswith("frame=")][-1].partition("=")[2])


def span(url: str, stream: str, *, frame_seconds: float) -> tuple[float, float]:
    """The first and the last moment of a stream (``v:0``, ``a:0``) whose frames last so long, in seconds."""
    command = ["ffprobe", "-v", "error", "-select_streams", stream, "-show_entries", "packet=pts_time"]
    done = subprocess.run([*command, "-of", "csv=p=0", url], check=True, capture_output=True, text=True)
    assert done.stderr == "", f"reading {url} said: {done.stderr[:500]}"
    times = [float(line.rstrip(",")) for line in done.stdout.split()]
    return min(times), max(times) + frame_seconds
