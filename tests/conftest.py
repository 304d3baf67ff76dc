"""Shared fixtures: clips, and docker-compose.yml as resolved by Docker Compose (local/go/compose-config)."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clips import Clip, make

ROOT = Path(__file__).resolve().parents[1]

Services = dict[str, dict[str, Any]]
Read = Callable[[Path], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def compose_config() -> Read:
    """Resolves the docker-compose.yml of a folder, with an empty environment."""
    program = ROOT / ".kinora" / "bin" / "compose-config"

    def read(folder: Path) -> subprocess.CompletedProcess[str]:
        if not program.exists():
            pytest.fail("compose-config is not built: make tools", pytrace=False)
        return subprocess.run([program], cwd=folder, env={}, capture_output=True, text=True, check=False)

    return read


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with only docker-compose.yml and its secrets."""
    made = tmp_path_factory.mktemp("compose")
    shutil.copy(ROOT / "docker-compose.yml", made)
    subprocess.run([ROOT / "local" / "dotenv"], cwd=made, check=True)
    return made


@pytest.fixture(scope="session")
def secrets(folder: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())


@pytest.fixture(scope="session")
def services(folder: Path, compose_config: Read) -> Services:
    """The services of docker-compose.yml, including those in profiles."""
    done = compose_config(folder)
    assert done.returncode == 0, done.stderr
    resolved: Services = json.loads(done.stdout)["services"]
    return resolved


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Clip]]:
    """``clip("vertical")``: a clip by its name in ``clips.CLIPS``, generated once."""
    folder = tmp_path_factory.mktemp("clips")
    made: dict[str, Clip] = {}

    def of(name: str) -> Clip:
        if name not in made:
            made[name] = make(name, folder)
        return made[name]

    yield of
    for item in made.values():
        item.path.unlink(missing_ok=True)
