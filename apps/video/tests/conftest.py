"""Clips for the tests, made by ffmpeg; nothing of them is kept in the repository."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

MakeClip = Callable[..., Path]


def opened(folder: Path) -> Path:
    """`folder`, reachable by the unprivileged user that the tools run as; pytest closes its folders to others."""
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    return folder


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """An empty folder in which tools can be given folders of their own."""
    return opened(tmp_path)


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> MakeClip:
    """Runs ffmpeg once for a name: make_clip("name.mp4", *arguments) is the clip's path."""
    folder = opened(tmp_path_factory.mktemp("clips"))

    def make(name: str, *arguments: str) -> Path:
        clip = folder / name
        if not clip.exists():
            subprocess.run(["ffmpeg", "-v", "error", "-nostdin", *arguments, clip], check=True)
        return clip

    return make
