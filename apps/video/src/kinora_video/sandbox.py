"""Runs ffmpeg and ffprobe as untrusted code, because a malicious file could take them over (docs/adr/0014).

Each tool is started through `launch.py`, which drops all privileges, sets limits, and allows only the system's
programs, the tool's own folder and a few system calls (`syscalls.py`). Its network is `feed.py`: a single source,
whatever the address. It has a minimal environment, no standard input and its own process group; it is killed with its
parent (PR_SET_PDEATHSIG) and with the task that awaits it.
"""

import asyncio
import contextlib
import ctypes
import functools
import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kinora_video import launch
from kinora_video.feed import Feed
from kinora_video.syscalls import filters

_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
    "AV_LOG_FORCE_NOCOLOR": "1",
    # glibc reserves 64 MiB of address space per thread arena, which counts against memory_bytes.
    "MALLOC_ARENA_MAX": "2",
}
# If tools run as the worker's user, the kernel counts the threads of all of that user's processes on the machine.
_SHARED_USER_FACTOR = 8
_WATCH_SECONDS = 0.1
# The share of the container's memory for this process and its tools. The rest is a margin for allocations between two
# checks: the kernel's OOM killer would kill the whole container (kubelet sets memory.oom.group), with all its parts.
_MEMORY_SHARE = 0.85
_FOLDER_FILES = 20_000
_PR_SET_DUMPABLE = 4


class ToolFailed(Exception):
    """A tool failed for a reason outside the source (network, disk, a signal). Can be retried."""


class OutputRefused(Exception):
    """A tool wrote something that only a compromised tool would write."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The resources of one run of a tool, in bytes and seconds.

    `memory_bytes` is address space, which the kernel limits. `resident_bytes`, `shared_bytes` and `folder_bytes` are
    checked ten times a second, so a tool can exceed them briefly.

    `shared_bytes` is the resident memory of this process and all its tools. None: most of the container's memory.
    """

    memory_bytes: int = 8 << 30
    resident_bytes: int = 4 << 30
    shared_bytes: int | None = None
    cpu_seconds: int = 24 * 3600
    wall_seconds: float = 3600.0
    file_bytes: int = 1 << 30
    folder_bytes: int = 1 << 30
    open_files: int = 256
    threads: int = 512
    stdout_bytes: int = 1 << 20
    stderr_bytes: int = 16 << 10
    niceness: int = 10


@dataclass(frozen=True, slots=True)
class Exit:
    """The result of a tool: its exit code (negative: the signal), stdout, and the end of stderr, within the limits.

    `out_of_memory`: it was killed because it exceeded its memory limit. `crowded_out`: it was killed as the largest of
    several tools that exceeded the limit together; alone it might succeed.
    """

    code: int
    stdout: bytes
    stderr: str
    timed_out: bool
    out_of_memory: bool = False
    crowded_out: bool = False


class Process:
    """A running tool, created by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, limits: Limits, folder: Path | None) -> None:
        self._process = process
        self._folder = folder
        self._timed_out = False
        self._out_of_memory = False
        self._crowded_out = False
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._end = asyncio.create_task(self._run(limits))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> Exit:
        """Wait for the tool to end."""
        return await asyncio.shield(self._end)

    async def poll(self, seconds: float) -> Exit | None:
        """As wait, but returns None if the tool is still running after `seconds`."""
        done, _ = await asyncio.wait({self._end}, timeout=seconds)
        return self._end.result() if done else None

    def kill(self) -> None:
        """Kill the whole process group. Does nothing if it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _run(self, limits: Limits) -> Exit:
        stdout = cast(asyncio.StreamReader, self._process.stdout)  # both are pipes, see start
        stderr = cast(asyncio.StreamReader, self._process.stderr)
        # Not asyncio.timeout, which would cancel the consumers of the callers, which are generators.
        timer = asyncio.get_running_loop().call_later(limits.wall_seconds, self._time_out)
        watch = asyncio.create_task(self._watch(limits))
        _running.add(self)
        try:
            await asyncio.gather(self._keep_head(stdout, limits), self._keep_tail(stderr, limits))
            code = await self._process.wait()
        finally:
            _running.discard(self)
            timer.cancel()
            watch.cancel()
        return Exit(
            code,
            bytes(self._stdout),
            self._stderr.decode(errors="replace"),
            self._timed_out,
            self._out_of_memory,
            self._crowded_out,
        )

    async def _keep_head(self, stream: asyncio.StreamReader, limits: Limits) -> None:
        while chunk := await stream.read(1 << 16):
            self._stdout += chunk
            if len(self._stdout) > limits.stdout_bytes:
                self.kill()
                return

    async def _keep_tail(self, stream: asyncio.StreamReader, limits: Limits) -> None:
        while chunk := await stream.read(1 << 16):
            self._stderr += chunk
            del self._stderr[: -limits.stderr_bytes]

    async def _watch(self, limits: Limits) -> None:
        """Kill the tool if it exceeds a limit that the kernel cannot enforce."""
        shared = _container_bytes() * _MEMORY_SHARE if limits.shared_bytes is None else limits.shared_bytes
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            used = {tool: _resident_bytes(tool.pid) for tool in _running}
            available = shared - _resident_bytes(os.getpid())
            self._out_of_memory = used[self] > min(limits.resident_bytes, available)
            self._crowded_out = sum(used.values()) > available and used[self] == max(used.values())
            if self._out_of_memory or self._crowded_out or _folder_bytes(self._folder) > limits.folder_bytes:
                self.kill()
                return

    def _time_out(self) -> None:
        self._timed_out = True
        self.kill()

    async def close(self) -> None:
        """Kill the tool and wait for its end. It is killed even if this is cancelled."""
        self.kill()
        await asyncio.wait({self._end})


_running: set[Process] = set()


@contextlib.asynccontextmanager
async def start(
    argv: Sequence[str], limits: Limits, *, folder: Path | None = None, source: str | None = None
) -> AsyncIterator[Process]:
    """Start a tool in `folder`, the only place where it can write; leaving the block kills it.

    `source` is the URL of the only resource that it can read, as `feed.URL`. Raises ToolFailed if the tool could not be
    contained or is not installed.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = Process(
            await asyncio.create_subprocess_exec(
                *_command(argv, limits, control=theirs.fileno(), own_folder=folder is not None),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_ENVIRONMENT,
                cwd=folder or "/",
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            ),
            limits,
            folder,
        )
        try:
            theirs.close()
            listener = await _receive_descriptor(ours)
            if listener is None:
                raise ToolFailed(f"{argv[0]} was not started: {(await process.wait()).stderr}")
            feed = Feed(listener, source)
            try:
                yield process
            finally:
                await feed.close()
        finally:
            await process.close()


async def run(argv: Sequence[str], limits: Limits, *, folder: Path | None = None, source: str | None = None) -> Exit:
    """Run a tool until it ends."""
    async with start(argv, limits, folder=folder, source=source) as process:
        return await process.wait()


async def check(*, require_landlock: bool = True) -> None:
    """Hide this process's memory and environment from tools, and check that this machine can contain them.

    Raises RuntimeError, with what is missing.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, *[ctypes.c_ulong(0)] * 4)
    if require_landlock and launch.landlock_version() == 0:
        raise RuntimeError(
            "Landlock is unavailable to this process: ffmpeg could read every file that its user can read. Enable it"
            " (CONFIG_SECURITY_LANDLOCK, lsm=landlock,...; Linux 5.14 or newer), or accept the risk with"
            " KINORA_REQUIRE_LANDLOCK=false."
        )
    try:
        end = await run(["true"], Limits())
    except (ToolFailed, OSError) as error:
        raise RuntimeError(
            f"ffmpeg cannot be contained on this machine (requires libseccomp2 and Linux 5.14 or newer): {error}"
        ) from error
    if end.code != 0:
        raise RuntimeError(f"Contained programs do not run on this machine: {end.stderr}")


def output_size(path: Path) -> int:
    """The size of a tool's output file. Raises OutputRefused unless it is a regular file without other links."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise OutputRefused(f"{path.name} is not a regular file")
    return status.st_size


def read_output(path: Path, *, limit: int) -> bytes:
    """The content of a tool's output file. Raises OutputRefused as output_size, and above `limit` bytes."""
    if output_size(path) > limit:
        raise OutputRefused(f"{path.name} has more than {limit} bytes")
    with path.open("rb") as file:
        return file.read(limit)


def _command(argv: Sequence[str], limits: Limits, *, control: int, own_folder: bool) -> list[str]:
    program = shutil.which(argv[0], path=_ENVIRONMENT["PATH"])
    if program is None:
        raise ToolFailed(f"{argv[0]} is not installed")
    compiled = filters()
    options = {
        "control": control,
        "parent": os.getpid(),
        "folder": "own" if own_folder else "none",
        "niceness": limits.niceness,
        "AS": limits.memory_bytes,
        "CPU": limits.cpu_seconds,
        "FSIZE": limits.file_bytes,
        "NOFILE": limits.open_files,
        "NPROC": limits.threads * (1 if os.geteuid() == 0 else _SHARED_USER_FACTOR),
        "seccomp": compiled.seccomp,
        "answered": compiled.answered.hex(),
        "allowed": compiled.allowed.hex(),
    }
    words = [f"{name}={value}" for name, value in options.items()]
    return [sys.executable, "-I", "-S", launch.__file__, *words, "--", program, *argv[1:]]


async def _receive_descriptor(control: socket.socket) -> int | None:
    """The descriptor that `launch.py` sends once the tool is contained; None if it ended before."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(control, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(control)
    _, descriptors, _, _ = socket.recv_fds(control, 16, 1)
    return descriptors[0] if descriptors else None


def _resident_bytes(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):  # it has ended
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def _container_bytes() -> int:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, memory_limit(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup")))


def memory_limit(groups: str, mount: Path) -> int:
    """The lowest memory limit in bytes of this process's control groups and their ancestors; sys.maxsize without any.

    `groups`: the content of /proc/self/cgroup. In a container without a cgroup namespace, its paths are those of the
    host, but the mount has only the container's group.
    """
    limits = [sys.maxsize]
    for line in groups.splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = mount, "memory.max"
        elif controllers == "memory":  # cgroup v1
            root, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        path = Path(group).relative_to("/")
        for folder in (path, *path.parents):
            with contextlib.suppress(OSError, ValueError):  # not mounted, or "max"
                limits.append(int((root / folder / name).read_text()))
    return min(limits)


def _folder_bytes(folder: Path | None) -> int:
    """The disk usage of the files; sys.maxsize if there are too many to count."""
    if folder is None:
        return 0
    used = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
        for number, file in enumerate(files):
            if number == _FOLDER_FILES:
                return sys.maxsize
            with contextlib.suppress(FileNotFoundError):  # a segment that was stored and removed meanwhile
                used += file.stat(follow_symlinks=False).st_blocks * 512
    return used
