"""Run every check that a change must pass, in phases: `make test`, and `make test-all` with `ALL=1`.

A pytest suite uses at most one core and often waits, so phases that need the platform run in parallel with phases that
do not. What the sandbox needs is built from the beginning, at a low priority, in the time that tests leave, and it
comes up while the platform is still being tested. The cluster's tests run alone, because they measure how long rollouts
take and whether requests are lost. The tests of docker-compose.yml come last.

Tests of parallel phases compete for two cores. When all phases are over, those with few failed tests repeat these tests
alone: what fails again makes the run fail, what passes is reported as flaky.

The output of each phase goes to .kinora/logs/test-<phase>.log and is printed in one piece when the phase ends. A
failed phase stops only the phases that need it, so that one run shows all failures. The duration of each phase and the
names of failed tests are always printed at the end.

Standard library only: it runs before the virtual environment exists.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import doctor

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".kinora" / "logs"
SANDBOX = ROOT / ".kinora" / "sandbox"
LIMIT_SECONDS = {"warm": 45 * 60, "cold": 75 * 60}
"""Time limits of a run on two cores, with all tools built (warm) and with none (cold)."""
REPORT_SECONDS = 60
STOP_LIMIT_SECONDS = 120
"""How long an interrupted phase may take to stop what it started."""


@dataclass(frozen=True)
class Phase:
    name: str
    verbs: tuple[str, ...]
    """Targets of make, run in order."""
    needs: tuple[str, ...]
    """Phases that must have passed."""
    after: tuple[str, ...] = ()
    """Phases that must not be running."""
    niceness: int = 0


PHASES = (
    Phase("install", ("install", "tools"), needs=()),
    Phase("lint", ("lint",), needs=("install",)),
    Phase("native", ("test-native",), needs=("lint",)),
    Phase("types", ("types",), needs=("lint",)),
    Phase("environments", ("test-pulumi",), needs=("lint",), after=("types",)),
    Phase("builds", ("cluster-build",), needs=("lint",), niceness=10),
    Phase("sandbox", ("cluster-up",), needs=("builds",), after=("environments",)),
    Phase("cluster", ("pytest-cluster",), needs=("sandbox",), after=("native",)),
    Phase("docker", ("test-docker",), needs=("lint",), after=("native", "cluster")),
)
FAILURE = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
"""A line of pytest's short summary."""
MOST_REPEATED = 5
"""If more tests of a phase fail, the cause is the change and not the machine."""


@dataclass
class Run:
    """A phase that has started."""

    phase: Phase
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def log_of(phase: Phase) -> Path:
    return LOGS / f"test-{phase.name}.log"


def failures_of(phase: Phase) -> list[str]:
    """The tests that failed."""
    return FAILURE.findall(log_of(phase).read_text(errors="replace"))


def begin(phase: Phase, variables: list[str]) -> Run:
    with log_of(phase).open("wb") as log:
        process = subprocess.Popen(
            ["nice", "-n", str(phase.niceness), "make", "--no-print-directory", *phase.verbs, *variables],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C goes to this process, which stops each phase with its children
        )
    return Run(phase, process)


def end(run: Run) -> None:
    """Interrupt a phase, so that it stops what it started, and wait for it."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(run.process.pid, number)
            run.process.wait(STOP_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return


def changed_files() -> list[str]:
    """The files that differ from the merge base with origin/main, committed or not.

    Empty without such a branch, or if this checkout equals it: a clean clone of main, as in a check before a merge,
    does not show what has been tested before, so everything is tested.
    """
    if shutil.which("git") is None:
        return []
    merge_base = ["git", "merge-base", "HEAD", "origin/main"]
    base = subprocess.run(merge_base, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    if not base:
        return []
    tracked = ["git", "diff", "--name-only", "--no-renames", base]
    untracked = ["git", "ls-files", "--others", "--exclude-standard"]
    return [
        line
        for listed in (tracked, untracked)
        for line in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    ]


def reason_to_skip_the_cluster() -> str:
    files = changed_files()
    if files and all(file.endswith(".md") for file in files):
        return f"only documents differ from origin/main: {', '.join(files)}"
    if problems := doctor.check_cluster():
        return f"this machine cannot run it: {' '.join(problems)}"
    return ""


def reason_to_skip_docker(variables: list[str]) -> str:
    if not any(each.startswith("ALL=") for each in variables):
        return "it takes 6 min: `make test-all` and `make test-docker` run it"
    if problems := doctor.check_test_docker():
        return f"this machine cannot run it: {' '.join(problems)}"
    return ""


def builds_tools() -> bool:
    return any(doctor.makes_something(*each) for each in (("install",), ("tools",), ("tools", "sandbox")))


class Checks:
    def __init__(self, variables: list[str]) -> None:
        self.variables = variables
        self.results = {phase.name: "not run" for phase in PHASES}
        self.seconds: dict[str, float] = {}
        self.running: list[Run] = []
        self.began = time.monotonic()

    def all_pass(self) -> bool:
        self._run(PHASES)
        for phase in PHASES:
            if self.results[phase.name] == "failed" and 0 < len(failures_of(phase)) <= MOST_REPEATED:
                self._repeat(phase)
        return "failed" not in self.results.values()

    def _repeat(self, phase: Phase) -> None:
        """Run the failed tests of a phase once more."""
        again = replace(phase, name=f"{phase.name}-again", verbs=(*phase.verbs, "AGAIN=1"), needs=(), after=())
        self.results[again.name] = "not run"
        self._run([again])
        if self.results[again.name] == "passed":
            self.results[phase.name] = "flaky: its failed tests passed when repeated alone"

    def _run(self, phases: Sequence[Phase]) -> None:
        reported = time.monotonic()
        while True:
            for phase in self._ready(phases):
                self.running.append(begin(phase, self.variables))
                self.results[phase.name] = "under way"
                say(f"{phase.name} begins")
            if not self.running:
                return
            time.sleep(0.2)
            for run in [run for run in self.running if run.process.poll() is not None]:
                self.running.remove(run)
                self._note(run, "passed" if run.process.returncode == 0 else "failed")
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                for run in self.running:
                    say(f"{run.phase.name}, {run.seconds:.0f} s: {last_line(log_of(run.phase))}")

    def _ready(self, phases: Sequence[Phase]) -> list[Phase]:
        return [
            phase
            for phase in phases
            if self.results[phase.name] == "not run"
            and all(self.results[name] == "passed" for name in phase.needs)
            and all(self._is_over(name) for name in phase.after)
        ]

    def _is_over(self, name: str) -> bool:
        """Whether it has ended, or cannot begin because a phase that it needs did not pass."""
        if self.results[name] != "not run":
            return self.results[name] != "under way"
        (phase,) = (each for each in PHASES if each.name == name)
        return any(self._is_over(each) and self.results[each] != "passed" for each in phase.needs)

    def skip(self, names: tuple[str, ...], reason: str) -> None:
        self.results |= dict.fromkeys(names, f"skipped, {reason}")

    def _note(self, run: Run, result: str) -> None:
        self.results[run.phase.name], self.seconds[run.phase.name] = result, run.seconds
        say(f"{run.phase.name} {result}; its output:")
        sys.stdout.write(log_of(run.phase).read_text(errors="replace"))
        say(f"end of the output of {run.phase.name}, which {result} after {run.seconds:.0f} s")

    def interrupt(self) -> None:
        for run in self.running:
            end(run)
            self._note(run, "interrupted")

    def report(self, kind: str) -> str:
        lines = [f"  {name:18} {self.seconds.get(name, 0):6.0f} s  {result}" for name, result in self.results.items()]
        failures = [
            f"  {'FAILED' if self.results[phase.name] == 'failed' else 'FLAKY'} {test}"
            for phase in PHASES
            if self.results[phase.name].startswith(("failed", "flaky"))
            for test in failures_of(phase)
        ]
        return "\n".join([*failures, *lines, verdict(time.monotonic() - self.began, kind)])


def verdict(seconds: float, kind: str) -> str:
    limit = LIMIT_SECONDS[kind]
    within = f"within the limit of {limit} s" if seconds <= limit else f"OVER THE LIMIT of {limit} s"
    return f"  {'together':18} {seconds:6.0f} s  {kind}, {within}"


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip()[-100:] for line in reversed(lines) if line.strip()), "")


def say(words: str) -> None:
    print(f"== {words}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variables", nargs="*", help="variables for make, such as ALL=1")
    variables = parser.parse_args().variables
    LOGS.mkdir(parents=True, exist_ok=True)
    kind = "cold" if builds_tools() else "warm"
    was_up = SANDBOX.exists()
    if not was_up:
        os.environ["KINORA_SANDBOX_ENDS"] = "yes"  # tests need not restore what they changed in it
    checks = Checks(variables)
    if reason := reason_to_skip_the_cluster():
        checks.skip(("builds", "sandbox", "cluster"), reason)
    if reason := reason_to_skip_docker(variables):
        checks.skip(("docker",), reason)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return 0 if checks.all_pass() else 1
    except KeyboardInterrupt:
        checks.interrupt()
        return 130
    finally:
        if SANDBOX.exists() and not was_up:
            subprocess.run(["make", "--no-print-directory", "cluster-down"], cwd=ROOT, check=False)
        print(checks.report(kind), flush=True)


if __name__ == "__main__":
    sys.exit(main())
