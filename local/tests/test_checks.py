"""The order of `make test`'s phases and its report, with a Makefile of trivial targets."""

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
def check_test_docker(): return {problems!r}
"""
# Each target prints its name, and records when it begins and ends. `meet` waits until the other has begun, too.
MAKEFILE = """
export SHELL := /bin/bash
note = echo "$@ $(1)" >>order
meet = timeout --foreground 60 sh -c 'until grep -q "$(1) begins" order; do sleep 0.05; done'
said = echo "$@ $(ALL)"
plain = install tools lint types test-pulumi cluster-build pytest-cluster test-docker
$(plain): ; @$(call note,begins); $(said); $(call note,ends)
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
    makefile.write_text(makefile.read_text().replace(f" {verb}", "") + f"{verb}: ; @{recipe}\n")


def check(project: Checkout, *variables: str, code: int = 0) -> tuple[str, dict[str, str]]:
    """The output, and the result of each phase."""
    said = project.run(sys.executable, "checks.py", *variables, code=code)
    return said, dict(re.findall(r"^  (\S+) +\d+ s  (.*)$", said, re.MULTILINE))


def order(project: Checkout) -> list[str]:
    return (project.root / "order").read_text().splitlines()


def test_sandbox_starts_while_native_tests_run(project: Checkout) -> None:
    said, results = check(project)
    assert list(results) == [*(phase.name for phase in checks.PHASES), "together"]
    assert results.pop("docker").startswith("skipped, it takes")
    assert set(results.values()) == {"passed", f"warm, within the limit of {checks.LIMIT_SECONDS['warm']} s"}
    happened = order(project)
    assert happened.index("cluster-up begins") < happened.index("test-native ends")
    assert happened.index("pytest-cluster begins") > max(map(happened.index, ("test-native ends", "cluster-up ends")))
    assert happened[-1] == "cluster-down begins", "it was started for the tests"
    assert said.endswith("s\n")


def test_running_sandbox_is_not_stopped(project: Checkout) -> None:
    (project.root / ".kinora" / "sandbox").mkdir(parents=True)
    check(project)
    assert "cluster-down begins" not in order(project)


def test_cluster_tests_learn_whether_the_sandbox_ends_with_the_run(project: Checkout) -> None:
    replace(project, "pytest-cluster", "echo ends=$(KINORA_SANDBOX_ENDS)")
    assert "ends=yes" in check(project)[0].splitlines()
    (project.root / ".kinora" / "sandbox").mkdir()
    assert "ends=" in check(project)[0].splitlines()


def test_failed_phase_stops_only_what_needs_it(project: Checkout) -> None:
    replace(project, "test-pulumi", "echo FAILED tests/test_x.py::test_y - because; exit 3")
    replace(project, "test-native", "exit 1")
    replace(project, "cluster-up", "true")
    said, results = check(project, code=1)
    del results["together"], results["docker"]
    assert {name for name, result in results.items() if result == "failed"} == {
        *("native", "environments", "environments-again")
    }
    assert {name for name, result in results.items() if result != "failed"} == {
        *("install", "lint", "types", "builds", "sandbox", "cluster")
    }
    assert "  FAILED tests/test_x.py::test_y\n" in said.rpartition("== ")[2], "once more, at the end"

    replace(project, "lint", "exit 1")
    _, results = check(project, code=1)
    assert [name for name, result in results.items() if result == "not run"] == [
        *("native", "types", "environments", "builds", "sandbox", "cluster")
    ]


def repeated(project: Checkout, verb: str, outcome: str) -> None:
    """A phase whose test fails, and, repeated, has that outcome."""
    failing = "echo FAILED tests/test_x.py::test_y - because; exit 3"
    replace(project, verb, f"echo $@ again=$(AGAIN) >>order; if [ -n '$(AGAIN)' ]; then {outcome}; else {failing}; fi")


def test_failed_test_that_passes_alone_is_reported_as_flaky(project: Checkout) -> None:
    repeated(project, "pytest-cluster", "true")
    said, results = check(project)
    assert results["cluster"].startswith("flaky")
    assert results["cluster-again"] == "passed"
    assert "  FLAKY tests/test_x.py::test_y\n" in said.rpartition("== ")[2]
    assert order(project)[-2:] == ["pytest-cluster again=1", "cluster-down begins"], "after all others, in the sandbox"


def test_test_that_fails_again_fails_the_run(project: Checkout) -> None:
    repeated(project, "test-pulumi", "exit 1")
    said, results = check(project, code=1)
    assert (results["environments"], results["environments-again"]) == ("failed", "failed")
    assert "  FAILED tests/test_x.py::test_y\n" in said.rpartition("== ")[2]


def test_many_failed_tests_are_not_repeated(project: Checkout) -> None:
    failing = "".join(f"echo FAILED tests/test_x.py::test_{n} - because; " for n in range(checks.MOST_REPEATED + 1))
    replace(project, "test-pulumi", f"{failing} exit 1")
    _, results = check(project, code=1)
    assert results["environments"] == "failed"
    assert "environments-again" not in results


def test_docker_tests_run_last_even_if_the_sandbox_fails(project: Checkout) -> None:
    replace(project, "test-native", "echo test-native ends >>order")
    replace(project, "cluster-up", "exit 1")
    _, results = check(project, "ALL=1", code=1)
    assert (results["sandbox"], results["cluster"], results["docker"]) == ("failed", "not run", "passed")
    assert order(project)[-2:] == ["test-docker begins", "test-docker ends"]


def test_interrupt_stops_running_phases(project: Checkout) -> None:
    replace(
        project,
        "test-native",
        "echo test-native begins >>order; trap 'echo taken down >>order; exit 1' INT; sleep 1000 & wait",
    )
    run = subprocess.Popen(
        # If the tests run in the background, SIGINT is ignored, and children inherit that.
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


def test_variables_are_passed_to_every_phase(project: Checkout) -> None:
    said, _ = check(project, "ALL=everything")
    wanted = {f"{verb} everything" for verb in ("lint", "types", "pytest-cluster", "test-docker")}
    assert wanted <= set(said.splitlines())


def test_sandbox_is_skipped_with_the_reason_on_unsuitable_machine(project: Checkout) -> None:
    (project.root / "local" / "doctor.py").write_text(DOCTOR.format(problems=["Only root can."]))
    replace(project, "test-native", "true")
    _, results = check(project, "ALL=1")
    for phase in ("builds", "sandbox", "cluster", "docker"):
        assert results[phase] == "skipped, this machine cannot run it: Only root can."
    assert results["environments"] == "passed"


def git(project: Checkout, *words: str) -> None:
    identity = ("-c", "user.name=x", "-c", "user.email=x@localhost")
    subprocess.run(["git", *identity, *words], cwd=project.root, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("changed", "skipped"),
    [([], False), (["README.md", "docs/new.md"], True), (["README.md", "Procfile"], False), (["new.py"], False)],
)
def test_docs_only_change_skips_the_cluster(project: Checkout, changed: list[str], skipped: bool) -> None:
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
    for name in changed[:1]:  # uncommitted changes count, too
        git(project, "add", name)
        git(project, "commit", "--quiet", "--message=after")
    _, results = check(project)
    expected = "skipped, only documents differ from origin/main: README.md, docs/new.md" if skipped else "passed"
    assert results["builds"] == results["sandbox"] == results["cluster"] == expected
    assert results["environments"] == "passed"


@pytest.mark.parametrize(("kind", "minutes"), [("warm", 45), ("cold", 75)])
def test_verdict_reports_exceeded_time_limit(kind: str, minutes: int) -> None:
    assert "within the limit" in checks.verdict(minutes * 60, kind)
    assert "OVER THE LIMIT" in checks.verdict(minutes * 60 + 1, kind)
