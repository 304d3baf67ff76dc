"""The order of the phases of `make test`, and what it says of them: with a Makefile whose verbs do hardly anything."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import checks
import pytest

if TYPE_CHECKING:
    from conftest import Checkout

DOCTOR = """
def makes_something(*_): return False
def check_cluster(): return {problems!r}
"""
# Each verb says its name, and notes when it begins and ends. `meet` waits until the other has begun, too.
MAKEFILE = """
export SHELL := /bin/bash
note = echo "$@ $(1)" >>order
meet = timeout --foreground 60 sh -c 'until grep -q "$(1) begins" order; do sleep 0.05; done'
install tools lint types test-pulumi pytest-cluster: ; @$(call note,begins); echo "$@ $(ALL)"; $(call note,ends)
test-native: ; @$(call note,begins); $(call meet,cluster-up); $(call note,ends)
cluster-up: ; @$(call note,begins); mkdir -p .kinora/sandbox; $(call meet,test-native); $(call note,ends)
cluster-down: ; @$(call note,begins); rmdir .kinora/sandbox
"""


@pytest.fixture
def project(checkout: Checkout) -> Checkout:
    (checkout.root / "Makefile").write_text(MAKEFILE)
    (checkout.root / "local" / "doctor.py").write_text(DOCTOR.format(problems=[]))
    return checkout


def replace(project: Checkout, verb: str, recipe: str) -> None:
    makefile = project.root / "Makefile"
    makefile.write_text(makefile.read_text().replace(f"{verb} ", "") + f"{verb}: ; @{recipe}\n")


def check(project: Checkout, *variables: str, code: int = 0) -> tuple[str, dict[str, str]]:
    """What is said, and of it the result of each phase."""
    said = project.run(sys.executable, "checks.py", *variables, code=code)
    return said, dict(re.findall(r"^  (\S+) +\d+ s  (.*)$", said, re.MULTILINE))


def order(project: Checkout) -> list[str]:
    return (project.root / "order").read_text().splitlines()


def test_the_sandbox_comes_up_while_the_native_tests_run(project: Checkout) -> None:
    said, results = check(project)
    assert set(results.values()) == {"passed", f"warm, within the limit of {checks.LIMIT_SECONDS['warm']} s"}
    assert list(results) == [*(phase.name for phase in checks.PHASES), "together"]
    happened = order(project)
    assert happened.index("cluster-up begins") < happened.index("test-native ends")
    assert happened.index("pytest-cluster begins") > max(map(happened.index, ("test-native ends", "cluster-up ends")))
    assert happened[-1] == "cluster-down begins", "it was brought up for the tests"
    assert said.endswith("s\n")


def test_a_sandbox_that_was_up_stays_up(project: Checkout) -> None:
    (project.root / ".kinora" / "sandbox").mkdir(parents=True)
    check(project)
    assert "cluster-down begins" not in order(project)


def test_a_failure_is_shown_and_ends_the_run_with_the_times(project: Checkout) -> None:
    replace(project, "types", "echo what is wrong; exit 3")
    replace(project, "test-native", "echo native goes on to its end")
    said, results = check(project, code=1)
    assert "what is wrong" in said
    assert "native goes on to its end" in said
    passed = dict.fromkeys(("install", "lint", "native"), "passed")
    assert results.items() >= (passed | {"types": "failed", "environments": "not run", "cluster": "not run"}).items()
    assert "together" in results


def test_an_interrupted_run_ends_what_it_began(project: Checkout) -> None:
    replace(
        project,
        "test-native",
        "echo test-native begins >>order; trap 'echo taken down >>order; exit 1' INT; sleep 1000 & wait",
    )
    run = subprocess.Popen(
        # Whoever runs the tests in the background has SIGINT ignored, which is inherited.
        ["env", "--default-signal=INT", sys.executable, "checks.py"],
        cwd=project.root / "local",
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not {"test-native begins", "cluster-up ends"} <= set(
        order(project) if (project.root / "order").exists() else []
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert order(project)[-2:] == ["taken down", "cluster-down begins"]
    assert re.search(r"native +\d+ s  interrupted", said)


def test_variables_are_handed_to_every_phase(project: Checkout) -> None:
    said, _ = check(project, "ALL=everything")
    assert {"lint everything", "types everything", "pytest-cluster everything"} <= set(said.splitlines())


def test_a_machine_that_cannot_be_the_sandbox_says_why_it_is_left_out(project: Checkout) -> None:
    (project.root / "local" / "doctor.py").write_text(DOCTOR.format(problems=["Only root can."]))
    replace(project, "test-native", "true")
    _, results = check(project)
    assert results["sandbox"] == results["cluster"] == "skipped, this machine cannot run it: Only root can."
    assert results["environments"] == "passed"


def git(project: Checkout, *words: str) -> None:
    identity = ("-c", "user.name=x", "-c", "user.email=x@localhost")
    subprocess.run(["git", *identity, *words], cwd=project.root, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("changed", "skipped"),
    [([], False), (["README.md", "docs/new.md"], True), (["README.md", "Procfile"], False), (["new.py"], False)],
)
def test_documents_alone_need_no_cluster(project: Checkout, changed: list[str], skipped: bool) -> None:
    for verb in ("test-native", "cluster-up"):
        replace(project, verb, "true")
    (project.root / ".gitignore").write_text(".kinora/\n__pycache__/\norder\n")
    git(project, "init", "--quiet")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message=before")
    git(project, "update-ref", "refs/remotes/origin/main", "HEAD")
    for name in changed:
        (project.root / name).parent.mkdir(exist_ok=True)
        (project.root / name).write_text("changed")
    for name in changed[:1]:  # what is not committed counts, too
        git(project, "add", name)
        git(project, "commit", "--quiet", "--message=after")
    _, results = check(project)
    expected = "skipped, only documents differ from origin/main: README.md, docs/new.md" if skipped else "passed"
    assert results["sandbox"] == results["cluster"] == expected
    assert results["environments"] == "passed"


@pytest.mark.parametrize(("kind", "minutes"), [("warm", 45), ("cold", 75)])
def test_a_run_that_took_too_long_says_so(kind: str, minutes: int) -> None:
    assert "within the limit" in checks.verdict(minutes * 60, kind)
    assert "OVER THE LIMIT" in checks.verdict(minutes * 60 + 1, kind)
