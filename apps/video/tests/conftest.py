"""Clips for the tests, made by ffmpeg; nothing of them is kept in the repository."""

import contextlib
import hashlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MakeClip = Callable[..., Path]


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that the unprivileged user of the tools can reach; pytest keeps its own closed to others."""
    with tempfile.TemporaryDirectory(prefix="kinora-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def workdir() -> Iterator[Path]:
    """An empty folder in which tools can be given folders of their own."""
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def make_clip() -> Iterator[MakeClip]:
    """Runs ffmpeg once for a name and arguments: make_clip("name.mp4", *arguments) is the clip's path."""
    with open_folder() as folder:

        def make(name: str, *arguments: str) -> Path:
            clip = folder / hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:16] / name
            if not clip.exists():
                clip.parent.mkdir(mode=0o755, exist_ok=True)
                subprocess.run(["ffmpeg", "-v", "error", "-nostdin", *arguments, clip], check=True)
            return clip

        yield make
