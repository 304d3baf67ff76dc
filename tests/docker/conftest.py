"""The platform on a separate Docker daemon, from local/dotenv to down: `make test-docker`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import daemon
import pytest
from client import Person, register
from compose import COMMANDS, README, Compose, figures
from daemon import Daemon
from environment import ROOT

TIMEOUT_SECONDS = 1200


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("measured on Docker")
    for figure in figures:
        terminalreporter.write_line(figure)


@pytest.fixture(scope="session")
def docker() -> Iterator[Daemon]:
    daemon.remove_groups()
    running = Daemon()
    running.start()
    yield running
    running.stop()
    daemon.remove_groups()


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout, symlinked, without its .env."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in (".env", ".git", ".kinora"):
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="session")
def platform(docker: Daemon, checkout: Path) -> Iterator[Compose]:
    """Started and removed by the commands of README.md. Fails if containers, volumes or networks remain."""
    compose = Compose(checkout, daemon.client())
    dotenv, up, *_ = COMMANDS
    assert (dotenv, up) == ("local/dotenv", "docker compose up --build --wait")
    compose.shell(dotenv)
    compose.shell("docker compose down --volumes --remove-orphans")  # what an interrupted run left
    for image in daemon.load(compose.images()):
        figures.append(f"loaded {image}")
    began = time.monotonic()
    # Without --build, because no registry is available for the base images; the images are loaded instead.
    compose.shell(f"{up.replace(' --build', '')} || {{ docker compose logs --tail=20 >&2; exit 1; }}")
    figures.append(f"up after {time.monotonic() - began:.0f} s")
    yield compose
    began = time.monotonic()
    assert "`docker compose down --volumes`" in README
    compose.shell("docker compose down --volumes")
    figures.append(f"down after {time.monotonic() - began:.0f} s")
    left = {
        "containers": compose.docker("ps", "--all", "--quiet"),
        "volumes": compose.docker("volume", "ls", "--quiet"),
        "networks": compose.docker("network", "ls", "--quiet", "--filter=type=custom"),
    }
    assert left == dict.fromkeys(left, ""), left


@pytest.fixture
async def person(platform: Compose) -> AsyncIterator[Person]:
    """A new user, whose account and videos are deleted afterwards."""
    async with register() as someone:
        yield someone


@pytest.fixture(scope="session")
def upload_bytes(pytestconfig: pytest.Config) -> int:
    """0.9 GB, with which tusd exceeded its memory limit while its buffers were unbounded; 5 GB in `make test-all`."""
    return 5_000_000_000 if pytestconfig.getoption("whole") else 900_000_000
