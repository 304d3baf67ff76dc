"""Run ffmpeg and ffprobe as if they were hostile, because what they read may make them so (docs/adr/0014).

Each tool is started through `launch.py`, which leaves it no privileges, no file but the system's programs and its own
folder, few system calls (`syscalls.py`) and limits. Its network is `feed.py`: one source, by whatever address. It has a
minimal environment, no standard input and a process group of its own; it dies with its parent (PR_SET_PDEATHSIG) and
with the task that awaits it.
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
# Where tools share the worker's user, the kernel counts the threads of all its processes on the machine.
_SHARED_USER_FACTOR = 8
_WATCH_SECONDS = 0.1
# Of the container's memory, for this process and its tools. The rest is for what they allocate between two checks: the
# kernel's OOM killer ends the whole container (kubelet sets memory.oom.group), and with it every part that it encodes.
_MEMORY_SHARE = 0.85
_FOLDER_FILES = 20_000
_PR_SET_DUMPABLE = 4


class ToolFailed(Exception):
    """A tool did not do its work for a reason outside the source (network, disk, a signal); may be tried again."""


class OutputRefused(Exception):
    """A tool wrote something that only a tool which was taken over would write."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run of a tool may use, in bytes and seconds.

    `memory_bytes` is address space, which the kernel bounds. `resident_bytes`, `shared_bytes` and `folder_bytes` are
    checked ten times a second: a tool may use more for as long.

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
    """How a tool ended: its code (negative: the signal), all of stdout and the last of stderr, within the limits.

    `out_of_memory`: it was killed because it used more than it may. `crowded_out`: it was the largest of several tools
    that used too much together; alone it might end well.
    """

    code: int
    stdout: bytes
    stderr: str
    timed_out: bool
    out_of_memory: bool = False
    crowded_out: bool = False


class Process:
    """A running tool; made by `start`."""

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
        """The tool's end."""
        return await asyncio.shield(self._end)

    async def poll(self, seconds: float) -> Exit | None:
        """The tool's end, or None when it still runs after `seconds`."""
        done, _ = await asyncio.wait({self._end}, timeout=seconds)
        return self._end.result() if done else None

    def kill(self) -> None:
        """Kill the whole process group; nothing happens when it is gone."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _run(self, limits: Limits) -> Exit:
        stdout = cast(asyncio.StreamReader, self._process.stdout)  # both are pipes, see start
        stderr = cast(asyncio.StreamReader, self._process.stderr)
        # A timer and not asyncio.timeout: the callers are generators, and their consumer must not be cancelled.
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
        """Kill the tool when it uses more than the kernel can be told to bound."""
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
        """Kill what still runs and wait for its end; nothing is left, even when this is cancelled."""
        self.kill()
        await asyncio.wait({self._end})


_running: set[Process] = set()


@contextlib.asynccontextmanager
async def start(
    argv: Sequence[str], limits: Limits, *, folder: Path | None = None, source: str | None = None
) -> AsyncIterator[Process]:
    """Start a tool in `folder`, the only place where it may write; leaving the block kills it.

    `source` is the address of the one thing that it may read; it finds that at `feed.URL`. Raises ToolFailed when the
    tool could not be contained or is not installed.
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
    """Run a tool to its end."""
    async with start(argv, limits, folder=folder, source=source) as process:
        return await process.wait()


async def check(*, require_landlock: bool = True) -> None:
    """Hide this process's memory and environment from tools, and see that they can be contained here.

    Raises RuntimeError, which says what is missing.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, *[ctypes.c_ulong(0)] * 4)
    if require_landlock and launch.landlock_version() == 0:
        raise RuntimeError(
            "This kernel has no Landlock, or does not let this process use it: ffmpeg could read every file that its"
            " user can. Enable it (CONFIG_SECURITY_LANDLOCK, lsm=landlock,...; Linux 5.14 or newer), or accept this"
            " with KINORA_REQUIRE_LANDLOCK=false."
        )
    try:
        end = await run(["true"], Limits())
    except (ToolFailed, OSError) as error:
        raise RuntimeError(
            f"ffmpeg cannot be contained here (libseccomp2 and Linux 5.14 or newer are needed): {error}"
        ) from error
    if end.code != 0:
        raise RuntimeError(f"No program can be run in containment: {end.stderr}")


def output_size(path: Path) -> int:
    """The size of a file that a tool wrote. Raises OutputRefused when it is anything but a file of its own."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise OutputRefused(f"{path.name} is not a file")
    return status.st_size


def read_output(path: Path, *, limit: int) -> bytes:
    """A file that a tool wrote, whole. Raises OutputRefused when it is no file, or has more than `limit` bytes."""
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
    """What `launch.py` sends when the tool is contained; None when it ended before."""
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
    """The lowest memory limit in bytes of this process's control groups and those above them; without any, sys.maxsize.

    `groups`: the content of /proc/self/cgroup. In a container without a cgroup namespace its paths are the host's, and
    what is mounted is the container's group.
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
            with contextlib.suppress(OSError, ValueError):  # not here, or "max"
                limits.append(int((root / folder / name).read_text()))
    return min(limits)


def _folder_bytes(folder: Path | None) -> int:
    """What the files take; a folder without an end is as good as one that is too big."""
    if folder is None:
        return 0
    used = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
        for number, file in enumerate(files):
            if number == _FOLDER_FILES:
                return sys.maxsize
            with contextlib.suppress(FileNotFoundError):  # a segment that was stored meanwhile
                used += file.stat(follow_symlinks=False).st_blocks * 512
    return used
