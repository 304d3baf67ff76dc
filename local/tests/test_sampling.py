"""Sampled tests run the configured number of cases (local/sampling.py)."""

import subprocess
import sys
from pathlib import Path

import pytest
from environment import ROOT

TESTS = """
import pytest

@pytest.mark.sample(2)
@pytest.mark.parametrize("n", range(10))
def test_many(n): pass

@pytest.mark.parametrize("n", range(3))
def test_few(n): pass

@pytest.mark.sample(1, "group")
def test_one(): pass

@pytest.mark.sample(1, "group")
def test_other(): pass
"""


def outcome(folder: Path, *words: str) -> list[str]:
    """The tests that passed."""
    (folder / "test_it.py").write_text(TESTS)
    options = [
        "-c",
        "/dev/null",
        f"--rootdir={folder}",
        "-p",
        "no:cacheprovider",
        "-p",
        "sampling",
        "-v",
        "--strict-markers",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *words],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT / "local"), "PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(line.split()[0].partition("::")[2] for line in done.stdout.splitlines() if " PASSED " in line)


def test_sample_is_deterministic_per_commit(tmp_path: Path) -> None:
    ran = outcome(tmp_path)
    assert len([name for name in ran if name.startswith("test_many")]) == 2
    assert [name for name in ran if name.startswith("test_few")] == [f"test_few[{n}]" for n in range(3)]
    assert len({"test_one", "test_other"} & set(ran)) == 1
    assert outcome(tmp_path) == ran


@pytest.mark.parametrize(
    ("words", "expected"), [(["--whole"], 15), (["test_it.py::test_many[7]"], 1), (["-k", "many and (3 or 4)"], 2)]
)
def test_whole_or_named_cases_are_not_sampled(tmp_path: Path, words: list[str], expected: int) -> None:
    assert len(outcome(tmp_path, *words)) == expected
