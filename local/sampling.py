"""A pytest plugin for many slow tests: `make test` runs a sample of them, `make test-all` (`--whole`) all.

`@pytest.mark.sample(8)` on a parametrised test runs eight of its cases; `@pytest.mark.sample(2, "deploys")` on several
tests runs two of all their cases. The commit seeds the choice, so runs of the same commit are identical and every case
runs at some commit. A case that is named on the command line always runs.
"""

from __future__ import annotations

import random
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="run all cases of sampled tests")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sample(count, group): run only this many of its cases, unless --whole is given")


@pytest.hookimpl(trylast=True)  # after -k and -m have deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("whole"):
        return
    cases = defaultdict(list)
    for item in items:
        if mark := item.get_closest_marker("sample"):
            count, *named = mark.args
            cases[named[0] if named else item.nodeid.partition("[")[0], count].append(item)
    if not cases:
        return
    # Without git, a fixed seed.
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    left_out: set[pytest.Item] = set()
    for (group, count), of_group in cases.items():
        drawn = random.Random(f"{head}{group}").sample(of_group, min(count, len(of_group)))  # noqa: S311 - no secrets
        left_out |= set(of_group) - set(drawn)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
