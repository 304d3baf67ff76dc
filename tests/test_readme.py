"""Every command in README.md works."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks() -> list[str]:
    """The indented blocks of shell commands, each as one script."""
    found = re.findall(r"(?:^    .+\n(?:\n(?=    ))?)+", README, flags=re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE).strip() for block in found]


def test_readme_contains_commands() -> None:
    assert any("make demo" in block for block in blocks())


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_make_demo_prints_a_playable_url() -> None:
    done = subprocess.run(["make", "demo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "/master.m3u8" in done.stdout


def journey() -> list[str]:
    """The blocks of "Use the API", from registering to deleting the account."""
    return [block for block in blocks() if "curl" in block]


def run(script: list[str], folder: Path) -> str:
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(script)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_readme_api_examples_work(tmp_path: Path) -> None:
    first, *_, last = journey()
    run([first, last], tmp_path)  # an interrupted run may have left the account
    said = run(journey(), tmp_path)
    assert '"username":"ada"' in said.replace(" ", "")
    assert '"errors"' not in said
    assert '"code"' not in said
    assert '"code"' not in run([first, last], tmp_path), "the account was not deleted"


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^    (make [\w= .-]+)$", README, flags=re.MULTILINE))))
def test_readme_make_commands_exist(command: str, tmp_path: Path) -> None:
    # make runs lines with $(MAKE) even in a dry run, where they would fail without the results of earlier lines, or
    # wait for a build that has the lock.
    (tmp_path / "flock").symlink_to("/bin/true")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    dry = [*command.split(), "--dry-run", "MAKE=true"]
    done = subprocess.run(dry, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.e2e
def test_make_status_succeeds() -> None:
    done = subprocess.run(["make", "status"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_readme_links_resolve() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), f"README.md links to {target}, which is not there"
