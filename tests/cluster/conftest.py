"""Fixtures for the running sandbox (`make cluster-up`): users and playable videos."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import images
import node
import pytest
from client import Person, register
from clips import Clip
from cluster import BRANCH, CREDENTIALS, PUBLIC_URL, REPOSITORY
from environment import ROOT
from live import Cluster

node.without_proxy()

# The longest test waits for several consecutive rollouts.
TIMEOUT_SECONDS = 1200


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    able = subprocess.run(
        [sys.executable, ROOT / "local" / "doctor.py", "cluster"], capture_output=True, text=True, check=False
    )
    if able.returncode:
        pytest.skip(f"the sandbox cannot run on this machine: {able.stdout.strip()}")
    try:
        httpx.get(f"{PUBLIC_URL}/auth/.well-known/jwks.json", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        pytest.fail(f"The sandbox does not answer at {PUBLIC_URL} ({error}). Start it: make cluster-up", pytrace=False)
    clone = tmp_path_factory.mktemp("clone") / "kinora"
    signed_in = f"credential.helper=store --file={CREDENTIALS}"
    subprocess.run(["git", "clone", "--quiet", "--branch", BRANCH, "-c", signed_in, REPOSITORY, clone], check=True)
    here = Cluster(PUBLIC_URL, [str(node.BIN / "kubectl"), f"--kubeconfig={node.KUBECONFIG}"], clone)
    here.git("config", "user.name", "tests")
    here.git("config", "user.email", "tests@example.org")
    return here


@pytest.fixture
async def person(cluster: Cluster) -> AsyncIterator[Person]:
    """A new user; the account and its videos are deleted afterwards."""
    async with register(cluster.gateway) as someone:
        yield someone


@pytest.fixture
async def video(person: Person, clip: Callable[[str], Clip]) -> str:
    """A playable video of ``person``."""
    made = await person.upload(clip("short").path)
    outcome = await person.outcome(made)
    assert outcome["state"] == "ready", outcome
    return made


@pytest.fixture(scope="session")
def version(cluster: Cluster) -> Callable[..., str]:
    """``version("auth")``: a new version of an app, imported into the node; ``of``: with another app's code."""
    numbers = itertools.count(1)

    def make_version(app: str, *, of: str | None = None) -> str:
        new = f"{cluster.version(app)}-test.{next(numbers)}"
        # The version in git: others may also have been built here.
        code = f"{images.SERVICES}kinora-{of or app}", cluster.version(of or app)
        images.retag(":".join(code), f"{images.SERVICES}kinora-{app}:{new}")
        worker = f"{images.SERVICES}kinora-{app}-worker"
        if of is None and f"{worker}:{code[1]}" in images.imported():
            images.retag(f"{worker}:{code[1]}", f"{worker}:{new}")
        return new

    return make_version
