"""The containment, as seen by code that has taken over ffmpeg: it can access nothing but its folder and its source.

Tested with both possible users of the worker: root, as on a developer's machine, and an unprivileged user, as in a pod.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kinora_kit.testing import served
from kinora_video import launch, sandbox
from kinora_video.sandbox import Limits, OutputRefused

WORKER, ATTACK = ((Path(__file__).parent / name).read_text() for name in ("attacked.py", "attack.py"))
ROOT = Path(__file__).resolve().parents[3]
PYTHON = "/usr/bin/python3"  # tools can execute only the system's
POD_USER = 10001
AS_IN_A_POD = [
    *("setpriv", f"--reuid={POD_USER}", f"--regid={POD_USER}", "--clear-groups", "--no-new-privs"),
    *("--bounding-set=-all", "--inh-caps=-all"),
]
LIMITS = Limits(wall_seconds=60)
PORTS = {"postgres": 8432, "redis": 8379, "rabbitmq": 8672, "minio": 8900, "gateway": 8080, "auth": 8101, "video": 8103}


def users() -> list[str]:
    return ["root", "unprivileged"] if os.geteuid() == 0 else ["unprivileged"]


@pytest.fixture
def modules(workdir: Path) -> Path:
    """The modules of the containment, in a folder that any user can read."""
    package = workdir / "modules" / "kinora_video"
    package.mkdir(parents=True)
    for module in ("__init__", "sandbox", "launch", "feed", "syscalls"):
        source = Path(sandbox.__file__).with_name(f"{module}.py")
        (package / source.name).write_text(source.read_text())
    return package.parent


def run_worker(user: str, modules: Path, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [*(AS_IN_A_POD if user == "unprivileged" and os.geteuid() == 0 else []), PYTHON, "-c", program]
    return subprocess.run(
        [*command, *arguments],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(modules), "KINORA_SECRET": "secret"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


class Listener:
    """A fake component of the platform; counts connections."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    @contextlib.contextmanager
    def listening(self, local: Path) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
            unix.bind(str(local))
            unix.listen()
            local.chmod(0o777)
            for name, server in (("tcp", tcp), ("unix", unix)):
                threading.Thread(target=self._accept, args=(name, server), daemon=True).start()
            yield tcp.getsockname()[1]

    def _accept(self, name: str, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                server.accept()[0].close()
                self.reached.append(name)


def attack(user: str, modules: Path, workdir: Path, source: str | None) -> tuple[dict[str, str], Listener]:
    """The outcome of each attempt."""
    secrets = [workdir / name for name in ("pg_hba.conf", "passwords", "worker")]
    for secret, owner, mode in zip(secrets, (65534, 0, POD_USER), (0o600, 0o666, 0o600), strict=True):
        secret.write_text("secret")
        secret.chmod(mode)
        if os.geteuid() == 0:
            os.chown(secret, owner, owner)
    secrets += list((ROOT / ".kinora").glob("state/postgres/data/pg_hba.conf"))
    workdir.chmod(0o777)  # by its mode alone, any user could write there
    listener = Listener()
    with listener.listening(workdir / "local") as port:
        addresses: dict[str, Any] = {"the metadata service": ("169.254.169.254", 80), "a listener": ("127.0.0.1", port)}
        given = {
            "secrets": [str(secret) for secret in secrets],
            "outside": str(workdir),
            "local": str(workdir / "local"),
            "addresses": addresses | {name: ("127.0.0.1", number) for name, number in PORTS.items()},
            "source": source,
        }
        done = run_worker(user, modules, WORKER, ATTACK, json.dumps(given))
    assert done.returncode == 0, done.stderr
    end = json.loads(done.stdout)
    assert end["code"] == 0, end["stderr"]
    assert end["survived"], "the sibling is still running"
    outcomes: dict[str, str] = json.loads(end["stdout"])
    assert len(outcomes) > 100
    return outcomes, listener


needs_landlock = pytest.mark.skipif(launch.landlock_version() == 0, reason="Landlock is unavailable")


@needs_landlock
@pytest.mark.parametrize("user", users())
def test_tool_without_source_is_denied_everything(user: str, modules: Path, workdir: Path) -> None:
    outcomes, listener = attack(user, modules, workdir, source=None)

    assert {name: outcome for name, outcome in outcomes.items() if outcome != "refused"} == {}
    assert listener.reached == []


@needs_landlock
@pytest.mark.parametrize("user", users())
def test_tool_reaches_only_its_source_at_any_address(user: str, modules: Path, workdir: Path) -> None:
    source = workdir / "source"
    source.write_text("its source")

    outcomes, listener = attack(user, modules, workdir, source=served(source))

    achieved = {name: outcome for name, outcome in outcomes.items() if outcome != "refused"}
    assert set(achieved.values()) == {"done: 'connected to HTTP/1.0 206'"}
    assert set(achieved) == {name for name in outcomes if name.startswith("connect to") and "by IPv6" not in name} - {
        "connect to a local socket",
        "connect to an abstract socket",
    }
    assert listener.reached == []


async def test_signals_to_the_worker_break_no_connection_of_a_tool(workdir: Path) -> None:
    (source := workdir / "source").write_text("its source")
    program = (
        "import socket\n"
        "for _ in range(1000):\n"
        "    with socket.create_connection(('127.0.0.1', 80)) as it:\n"
        "        it.sendall(b'GET / HTTP/1.1\\r\\nHost: source\\r\\n\\r\\n')\n"
        "        assert it.recv(4) == b'HTTP'\n"
    )
    ended, main = threading.Event(), threading.main_thread().ident
    assert main is not None

    def send_signals() -> None:
        while not ended.wait(0.0002):
            signal.pthread_kill(main, signal.SIGUSR1)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: None)
    sender = threading.Thread(target=send_signals)
    sender.start()
    try:
        end = await sandbox.run(["python3", "-I", "-S", "-c", program], LIMITS, source=served(source))
    finally:
        ended.set()
        sender.join()
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)
    assert (end.code, end.stderr) == (0, "")


def test_worker_cannot_be_read_by_processes_of_its_user(modules: Path) -> None:
    program = (
        "import asyncio, os, subprocess, sys; from kinora_video import sandbox;"
        "asyncio.run(sandbox.check(require_landlock=False));"
        "sys.exit(subprocess.run(['cat', f'/proc/{os.getpid()}/environ']).returncode)"
    )

    done = run_worker("unprivileged", modules, program)

    assert (done.returncode, done.stdout) == (1, "")
    assert "Permission denied" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a run as another user")
async def test_each_run_has_its_own_user_as_root() -> None:
    command = ["id", "-u"]
    ends = await asyncio.gather(*(sandbox.run(command, LIMITS) for _ in range(2)))

    one, other = (int(end.stdout) for end in ends)
    assert one != other
    assert min(one, other) > launch.FIRST_USER


async def test_tool_has_no_privileges() -> None:
    async with sandbox.start(["sleep", "100"], LIMITS) as process:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()

    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    if os.geteuid() == 0:
        assert status["CapBnd"] == "0" * 16
    assert "0" not in status["Uid"].split()
    assert "0" not in status["Gid"].split()


async def test_tool_is_killed_at_its_folder_and_memory_limits(workdir: Path) -> None:
    write = "import os\nwhile True: open(str(os.urandom(4).hex()), 'wb').write(bytes(1 << 20))"
    fill = "kept = bytearray(1 << 30)\nimport time\ntime.sleep(100)"

    wrote = await sandbox.run(
        ["python3", "-I", "-S", "-c", write], replace(LIMITS, folder_bytes=10 << 20, cpu_seconds=20), folder=workdir
    )
    filled = await sandbox.run(["python3", "-I", "-S", "-c", fill], replace(LIMITS, resident_bytes=200 << 20))

    assert (wrote.code, wrote.timed_out, wrote.out_of_memory) == (-9, False, False)
    assert (filled.code, filled.timed_out, filled.out_of_memory) == (-9, False, True)


async def test_largest_tool_is_killed_if_all_together_use_too_much_memory() -> None:
    def holds(mebibytes: int) -> list[str]:
        return ["python3", "-I", "-S", "-c", f"kept = bytearray({mebibytes} << 20)\nimport time\ntime.sleep(100)"]

    ours = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    limits = replace(LIMITS, shared_bytes=ours + (300 << 20))
    async with sandbox.start(holds(80), limits) as small, sandbox.start(holds(160), limits) as large:
        assert await large.poll(1) is None, "both fit"
        async with sandbox.start(holds(120), limits):
            end = await large.wait()
            assert (end.code, end.out_of_memory, end.crowded_out) == (-9, False, True)
            assert await small.poll(1) is None, "the others fit"
    alone = await sandbox.run(holds(400), limits)
    assert (alone.code, alone.out_of_memory) == (-9, True)


@pytest.mark.parametrize(
    ("groups", "limits", "lowest"),
    [
        ("0::/", {"memory.max": "100"}, 100),
        ("0::/pods/worker", {"pods/memory.max": "300", "pods/worker/memory.max": "max"}, 300),
        ("4:memory:/pods/worker", {"memory/memory.limit_in_bytes": "100"}, 100),
        (
            "5:cpu:/x\n4:memory:/x",
            {"memory/x/memory.limit_in_bytes": "100", "memory/memory.limit_in_bytes": "200"},
            100,
        ),
        ("0::/", {}, sys.maxsize),
    ],
    ids=["v2", "v2 nested", "v1 in a container", "v1", "none"],
)
def test_memory_limit_is_that_of_the_control_groups(
    groups: str, limits: dict[str, str], lowest: int, tmp_path: Path
) -> None:
    for name, content in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    assert sandbox.memory_limit(f"{groups}\n", tmp_path) == lowest


def test_output_that_is_not_a_regular_file_without_links_is_rejected(workdir: Path) -> None:
    secret, link, hard = workdir / "secret", workdir / "link", workdir / "hard"
    secret.write_text("secret")
    link.symlink_to(secret)
    pipe = workdir / "pipe"
    os.mkfifo(pipe)

    assert sandbox.read_output(secret, limit=6) == b"secret"
    with pytest.raises(OutputRefused):
        sandbox.read_output(secret, limit=5)
    hard.hardlink_to(secret)
    for path in (link, hard, pipe):
        with pytest.raises(OutputRefused):
            sandbox.read_output(path, limit=100)


async def test_missing_tool_is_named_in_the_error() -> None:
    with pytest.raises(sandbox.ToolFailed, match="nothing-of-that-name is not installed"):
        await sandbox.run(["nothing-of-that-name"], LIMITS)


REFUSES_LANDLOCK = """
import asyncio, errno, sys
from kinora_video import launch, sandbox, syscalls
rules = [("landlock_create_ruleset", syscalls.ERRNO | errno.EPERM, None)]
launch.forbid_privileges()
launch.add_filter(syscalls.number("seccomp"), syscalls.compiled(syscalls.ALLOW, rules))
asyncio.run(sandbox.check(require_landlock=sys.argv[1] == "required"))
"""


def test_worker_refuses_to_start_without_landlock_by_default(modules: Path) -> None:
    refused = run_worker("unprivileged", modules, REFUSES_LANDLOCK, "required")
    accepted = run_worker("unprivileged", modules, REFUSES_LANDLOCK, "accepted")

    assert refused.returncode == 1
    assert "KINORA_REQUIRE_LANDLOCK=false" in refused.stderr
    assert (accepted.returncode, accepted.stderr) == (0, "")
