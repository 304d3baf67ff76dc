"""Start and stop the native platform, and report its health.

The Procfile names the processes, honcho converts it to a supervisord configuration, and supervisord restarts processes
that exit. There is no start order: every process retries until its dependencies are available.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import re
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from environment import MADE, ROOT, environment, generate_secrets
from parts import PARTS, is_job
from rich.console import Console
from rich.table import Column, Table
from supervisor.xmlrpc import SupervisorTransport

RUN, LOGS, STATE = MADE / "run", MADE / "logs", MADE / "state"
SOCKET, PID_FILE, CONFIG = RUN / "supervisor.sock", RUN / "supervisord.pid", RUN / "supervisord.conf"

UP_LIMIT_SECONDS = 120
DOWN_LIMIT_SECONDS = 45  # the longest stopwaitsecs in local/supervisor/supervisord.conf is 35 s
PROBE_LIMIT_SECONDS = 2
LOG_LINES = 15

ACTIVE = ("STARTING", "RUNNING", "BACKOFF")

console = Console(highlight=False)


class Failure(Exception):
    """An error message for the terminal."""


def known_processes() -> list[str]:
    return re.findall(r"^([\w-]+):", (ROOT / "Procfile").read_text(), flags=re.MULTILINE)


def is_store(process: str) -> bool:
    name = process.removesuffix("-provision")
    return name in PARTS and PARTS[name].store


def choose(words: list[str]) -> list[str]:
    """The named processes: all if none is named; `stores` means the stores and their provisioning jobs."""
    known = known_processes()
    stores = [name for name in known if is_store(name)]
    chosen = [name for word in words for name in (stores if word == "stores" else [word])] or known
    if unknown := sorted(set(chosen) - set(known)):
        raise Failure(f"Unknown process: {', '.join(unknown)}. Known: {', '.join(known)}; or stores.")
    return list(dict.fromkeys(chosen))


# --- the supervisor ------------------------------------------------------------------------------------------------


def supervisor(method: str, *arguments: object) -> Any:
    transport = SupervisorTransport(None, None, f"unix://{SOCKET}")
    with contextlib.closing(transport), xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
        return getattr(proxy.supervisor, method)(*arguments)


def supervisor_runs() -> bool:
    try:
        return bool(supervisor("getState")["statename"] == "RUNNING")
    except (OSError, xmlrpc.client.Error):
        return False


def processes() -> dict[str, dict[str, Any]]:
    return {info["name"]: info for info in supervisor("getAllProcessInfo")}


def write_config() -> None:
    for folder in (RUN, LOGS, STATE):
        folder.mkdir(parents=True, exist_ok=True)
    RUN.chmod(0o700)
    export = ["honcho", "--app-root", str(ROOT), "--procfile", "Procfile", "export", "--app", CONFIG.stem]
    export += ["--user", getpass.getuser(), "--log", str(LOGS), "--template-dir", str(ROOT / "local/supervisor")]
    subprocess.run([*export, "supervisord", str(RUN)], check=True, env=environment(None), capture_output=True)


def start_supervisor() -> None:
    command = ["supervisord", "--configuration", str(CONFIG)]
    outcome = subprocess.run(command, cwd=ROOT, env=environment(None), capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        raise Failure(f"supervisord did not start:\n{outcome.stderr.strip()}")
    wait_until(supervisor_runs, seconds=10, otherwise="supervisord started but does not answer.")


def reload_supervisor() -> None:
    """Apply a changed Procfile; unchanged processes keep running."""
    added, changed, removed = supervisor("reloadConfig")[0]
    stop([*changed, *removed])
    for name in (*changed, *removed):
        supervisor("removeProcessGroup", name)
    for name in (*added, *changed):
        supervisor("addProcessGroup", name)


def start(names: Iterable[str]) -> list[str]:
    infos = processes()
    idle = [name for name in names if infos[name]["statename"] not in ACTIVE]
    for name in idle:
        supervisor("startProcess", name, False)
    return idle


def stop(names: Iterable[str]) -> None:
    infos = processes()
    active = [name for name in names if infos[name]["statename"] in ACTIVE]
    for name in active:
        try:
            supervisor("stopProcess", name, False)
        except xmlrpc.client.Fault:
            continue  # it has exited in the meantime

    def stopped() -> bool:
        infos = processes()
        return not any(infos[name]["statename"] in (*ACTIVE, "STOPPING") for name in active)

    wait_until(stopped, seconds=DOWN_LIMIT_SECONDS, otherwise=f"Some of {', '.join(active)} did not stop.")


def wait_until(condition: Callable[[], bool], *, seconds: float, otherwise: str) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise Failure(otherwise)
        time.sleep(0.1)


# --- health --------------------------------------------------------------------------------------------------------


def trouble(name: str, info: dict[str, Any]) -> str:
    """Why a process is unhealthy; empty if it is healthy."""
    if is_job(name):
        return "" if info["statename"] == "EXITED" and info["exitstatus"] == 0 else "not done"
    if info["statename"] != "RUNNING":
        return str(info["statename"].lower())
    return PARTS[name].probe.trouble(PROBE_LIMIT_SECONDS) if name in PARTS else ""


def said(what: str) -> str:
    return f"[red]{what}[/]" if what else "[green]healthy[/]"


def troubles(names: Iterable[str], infos: dict[str, dict[str, Any]]) -> dict[str, str]:
    """By process."""
    names = list(names)
    with ThreadPoolExecutor(len(names) or 1) as pool:
        return dict(zip(names, pool.map(lambda name: trouble(name, infos[name]), names), strict=True))


def log_tail(name: str) -> str:
    log = LOGS / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else []
    return "\n".join(f"    {line}" for line in lines) or "    (its log is empty)"


def wait_until_healthy(names: list[str]) -> None:
    begun = time.monotonic()
    waiting = list(names)
    with console.status("starting") as line:
        while True:
            infos = processes()
            seconds = time.monotonic() - begun
            wrong = troubles(waiting, infos)
            for name, what in wrong.items():
                if not what:
                    waiting.remove(name)
                    console.print(f"  [green]✓[/] {name:20} {seconds:5.1f} s")
            if not waiting:
                return
            fatal = [name for name in waiting if infos[name]["statename"] == "FATAL"]
            if fatal or seconds > UP_LIMIT_SECONDS:
                break
            line.update(f"waiting for {', '.join(waiting)} ({seconds:.0f} s)")
            time.sleep(0.3)
    for name in fatal or waiting:
        console.print(f"\n[red]✗ {name}[/] ({wrong[name]}); the end of .kinora/logs/{name}.log:")
        console.print(log_tail(name), markup=False, soft_wrap=True)
    reason = "keeps exiting" if fatal else f"not healthy after {UP_LIMIT_SECONDS} s"
    raise Failure(f"{', '.join(fatal or waiting)}: {reason}. Fix what the log shows and run `make up` again.")


# --- the verbs -----------------------------------------------------------------------------------------------------


def up(words: list[str]) -> None:
    chosen = choose(words)
    generate_secrets()
    write_config()
    fresh = not supervisor_runs()
    started: list[str] = []
    try:
        if fresh:
            kill_descendants()
            start_supervisor()
        else:
            reload_supervisor()
        started = start(chosen)
        wait_until_healthy(chosen)
    except (KeyboardInterrupt, Failure):
        console.print("\nStopping what this command started.")
        if fresh:
            down()
        else:
            stop(started)
        raise
    for name in chosen:
        if name in PARTS and PARTS[name].address:
            console.print(f"  {PARTS[name].purpose:20} {PARTS[name].address}")


def descendants() -> list[psutil.Process]:
    """All descendants of the supervisor, even if it was killed.

    The supervisor is their session leader (setsid), and none of them leaves the session. The working folder
    distinguishes them from unrelated processes that got the same id after a reboot.
    """
    if not PID_FILE.exists() or not (leader := PID_FILE.read_text().strip()).isdigit():
        return []
    remaining = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == int(leader) and Path(process.cwd()).is_relative_to(ROOT):
                remaining.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return remaining


def kill_descendants() -> None:
    """Terminate what a killed supervisor left running."""
    remaining = descendants()
    for process in remaining:
        process.terminate()
    for process in psutil.wait_procs(remaining, timeout=10)[1]:
        process.kill()


def down() -> None:
    if supervisor_runs():
        remaining = descendants()
        names = list(processes())
        # Services first, so that they can finish their work while the stores are still up.
        with console.status("stopping the services"):
            stop(name for name in names if not is_store(name))
        with console.status("stopping the stores"):
            stop(name for name in names if is_store(name))
            remaining += descendants()
            supervisor("shutdown")
            left = psutil.wait_procs(remaining, timeout=10)[1]
        for process in left:
            console.print(f"  {process.pid} did not exit; killing it")
            process.kill()
        console.print("The platform is down.")
    else:
        kill_descendants()
        console.print("The platform is not running.")


def restart(words: list[str]) -> None:
    if supervisor_runs():
        stop(name for name in choose(words) if name in processes())
    up(words)


def status() -> None:
    if not supervisor_runs():
        raise Failure("The platform is not running; `make up` starts it.")
    infos = processes()
    active = [name for name, info in infos.items() if is_job(name) or info["statename"] in ACTIVE]
    wrong = troubles(active, infos)
    table = Table("process", "state", "pid", "uptime", "health", Column("address", no_wrap=True), box=None)
    for name in known_processes():
        info = infos.get(name)
        if info is None:
            continue
        runs = info["statename"] == "RUNNING"
        table.add_row(
            name,
            info["statename"].lower(),
            str(info["pid"]) if runs else "",
            f"{info['now'] - info['start']} s" if runs else "",
            said(wrong[name]) if name in wrong and info["start"] else "",
            PARTS[name].address if name in PARTS else "",
        )
    console.print(table, soft_wrap=True)
    if sick := [name for name in active if wrong[name] and infos[name]["start"]]:
        raise Failure(f"Unhealthy: {', '.join(sick)}; `make logs S={sick[0]}` shows why.")


def logs(words: list[str]) -> None:
    files = [log for name in choose(words) if (log := LOGS / f"{name}.log").exists()]
    if not files:
        raise Failure("There is no log yet; `make up` starts the platform.")
    os.execvp("tail", ["tail", "-n", "20", "-F", *map(str, files)])


def run(command: list[str], *, keep: bool) -> int:
    """Run a command against the platform, which is started for it and stopped afterwards unless it was already running.

    ``keep``: leave the platform running if the command succeeds.
    """
    was_running = supervisor_runs()
    up([])
    code = 1
    try:
        tools = os.environ | {"PATH": environment(None)["PATH"]}
        code = subprocess.run(command, check=False, env=tools).returncode
    finally:
        if not was_running and not (keep and code == 0):
            down()
    if code != 0:
        console.print("The logs of the processes are in .kinora/logs; `make logs S=<process>` shows one.")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("up", "restart", "logs"):
        verbs.add_parser(verb).add_argument("processes", nargs="*")
    verbs.add_parser("down")
    verbs.add_parser("status")
    runner = verbs.add_parser("run")
    runner.add_argument("--keep", action="store_true")
    runner.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        match arguments.verb:
            case "up":
                up(arguments.processes)
            case "restart":
                restart(arguments.processes)
            case "logs":
                logs(arguments.processes)
            case "down":
                down()
            case "status":
                status()
            case "run":
                return run(arguments.command, keep=arguments.keep)
    except Failure as failure:
        console.print(str(failure), markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
