"""The Procfile, the supervisord configuration made from it, and local/ctl.py with a small Procfile."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import ctl
import psutil
import pytest
from environment import ROOT
from honcho.environ import parse_procfile
from parts import PARTS, is_job
from supervisor.options import ServerOptions

if TYPE_CHECKING:
    from conftest import Checkout

PROCESSES: dict[str, str] = dict(parse_procfile((ROOT / "Procfile").read_text()).processes)

SMALL_PROCFILE = """\
sleeper: local/with-env mongo -- sleep 1000
hello-migrate: local/with-env mongo -- sh -c "test -e .kinora/ready || { touch .kinora/ready; exit 1; }"
"""


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_starts_with_the_variables_of_a_committed_file(name: str) -> None:
    with_env, file, dashes, *_ = shlex.split(PROCESSES[name])
    assert (with_env, dashes) == ("local/with-env", "--")
    assert (ROOT / "local/env" / f"{file}.env").exists()


def test_every_process_that_is_no_job_has_ports_and_a_probe() -> None:
    assert {name for name in PROCESSES if not is_job(name)} == PARTS.keys()


def test_no_two_processes_share_a_port() -> None:
    ports = [port for part in PARTS.values() for port in part.ports]
    assert len(set(ports)) == len(ports)


def test_supervisord_accepts_the_exported_configuration(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout.python("import ctl; ctl.write_config()")
    monkeypatch.chdir(checkout.root)
    options = ServerOptions()
    options.realize(["--configuration", ".kinora/run/supervisord.conf"])
    programs = {group.name: group.process_configs[0] for group in options.process_group_configs}
    assert programs.keys() == PROCESSES.keys()
    assert programs["postgres"].stopsignal == signal.SIGINT
    # A service drains its requests for 20 s and its calls for 10 s; `make down` waits for the slowest process.
    patience = max(program.stopwaitsecs for program in programs.values())
    assert 30 < programs["auth"].stopwaitsecs <= patience < ctl.DOWN_LIMIT_SECONDS
    assert all(program.killasgroup for program in programs.values())


@pytest.fixture
def small(checkout: Checkout) -> Iterator[Checkout]:
    (checkout.root / "Procfile").write_text(SMALL_PROCFILE)
    (checkout.root / ".kinora").mkdir()
    yield checkout
    checkout.run(sys.executable, "ctl.py", "down")
    assert processes_of(checkout) == []


def processes_of(checkout: Checkout) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(checkout.root):
                found.append(process)
        except psutil.Error:
            continue
    return found


def sleepers(checkout: Checkout) -> list[psutil.Process]:
    return [process for process in processes_of(checkout) if process.name() == "sleep" and "1000" in process.cmdline()]


def wait_for(condition: Callable[[], object], *, seconds: float = 15) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_up_retries_jobs_and_restarts_processes_and_down_leaves_none(small: Checkout) -> None:
    ctl = (sys.executable, "ctl.py")
    said = small.run(*ctl, "up")
    assert "✓ sleeper" in said
    assert "✓ hello-migrate" in said  # its first attempt fails
    small.run(*ctl, "status")

    (sleeper,) = sleepers(small)
    sleeper.kill()
    wait_for(lambda: any(process.pid != sleeper.pid for process in sleepers(small)))

    said = small.run(*ctl, "down")
    assert "The platform is down." in said
    assert processes_of(small) == []
    small.run(*ctl, "status", code=1)


def test_down_kills_processes_of_a_killed_supervisor(small: Checkout) -> None:
    ctl = (sys.executable, "ctl.py")
    small.run(*ctl, "up")
    (supervisor,) = (process for process in processes_of(small) if "supervisord" in " ".join(process.cmdline()))
    supervisor.kill()
    supervisor.wait(5)
    assert sleepers(small)
    small.run(*ctl, "down")
    assert processes_of(small) == []


def test_interrupted_up_stops_what_it_started(small: Checkout) -> None:
    (small.root / "Procfile").write_text("sleeper: local/with-env mongo -- sleep 1000\nnever-migrate: false\n")
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # noqa: PTH120
    up = subprocess.Popen(
        # If the tests run in the background, SIGINT is ignored, and children inherit that.
        ["env", "--default-signal=INT", sys.executable, "ctl.py", "up"],
        cwd=small.root / "local",
        env={"PATH": path, "HOME": str(small.root)},
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: sleepers(small))
    up.send_signal(signal.SIGINT)
    assert up.wait(30) == 130
    assert processes_of(small) == []


def test_up_shows_the_log_of_a_crash_looping_process(small: Checkout) -> None:
    (small.root / "Procfile").write_text('broken: local/with-env mongo -- sh -c "echo the reason; exit 3"\n')
    said = small.run(sys.executable, "ctl.py", "up", code=1)
    assert "the reason" in said
    assert "make up" in said


def test_unknown_process_is_rejected_with_the_known_ones(small: Checkout) -> None:
    assert "Known: sleeper, hello-migrate" in small.run(sys.executable, "ctl.py", "up", "slepper", code=1)
