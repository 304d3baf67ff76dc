"""Run ffmpeg and ffprobe as if they were hostile, because what they read may make them so.

A tool gets its own process group, no standard input, a minimal environment, resource limits (prlimit), no new
privileges and, when the caller is root, an unprivileged user without capabilities (setpriv). It dies with its parent
(PR_SET_PDEATHSIG) and with the task that awaits it. Containment on the network is the deployment's: a tool has to read
its source over HTTP.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

UNPRIVILEGED_ID = 65534  # nobody and nogroup on every Linux

_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
    "AV_LOG_FORCE_NOCOLOR": "1",
    # glibc reserves 64 MiB of address space per thread arena, which counts against memory_bytes.
    "MALLOC_ARENA_MAX": "2",
}


class ToolFailed(Exception):
    """A tool did not do its work for a reason outside the source (network, disk, a signal); may be tried again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run of a tool may use. Bytes and seconds; `memory_bytes` is address space, not resident memory."""

    memory_bytes: int = 8 << 30
    cpu_seconds: int = 24 * 3600
    wall_seconds: float = 3600.0
    file_bytes: int = 2 << 30
    open_files: int = 256
    stdout_bytes: int = 1 << 20
    stderr_bytes: int = 16 << 10
    niceness: int = 10


@dataclass(frozen=True, slots=True)
class Exit:
    """How a tool ended: its code (negative: the signal), all of stdout and the last of stderr, within the limits."""

    code: int
    stdout: bytes
    stderr: str
    timed_out: bool


class Process:
    """A running tool; made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, limits: Limits) -> None:
        self._process = process
        self._timed_out = False
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._end = asyncio.create_task(self._run(limits))

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
        try:
            await asyncio.gather(self._keep_head(stdout, limits), self._keep_tail(stderr, limits))
            code = await self._process.wait()
        finally:
            timer.cancel()
        return Exit(code, bytes(self._stdout), self._stderr.decode(errors="replace"), self._timed_out)

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

    def _time_out(self) -> None:
        self._timed_out = True
        self.kill()

    async def close(self) -> None:
        """Kill what still runs and wait for its end; nothing is left, even when this is cancelled."""
        self.kill()
        await asyncio.wait({self._end})


@contextlib.asynccontextmanager
async def start(argv: Sequence[str], limits: Limits, folder: Path | None = None) -> AsyncIterator[Process]:
    """Start a tool in `folder` (it must be writable to the tool, see `hand_over`); leaving the block kills it."""
    process = Process(
        await asyncio.create_subprocess_exec(
            *_contained(argv, limits),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd=folder,
            start_new_session=True,
        ),
        limits,
    )
    try:
        yield process
    finally:
        await process.close()


async def run(argv: Sequence[str], limits: Limits, folder: Path | None = None) -> Exit:
    """Run a tool to its end."""
    async with start(argv, limits, folder) as process:
        return await process.wait()


def hand_over(folder: Path) -> None:
    """Make `folder` the tool's own, so that the unprivileged user can write there."""
    if os.geteuid() == 0:
        os.chown(folder, UNPRIVILEGED_ID, UNPRIVILEGED_ID)


def _contained(argv: Sequence[str], limits: Limits) -> list[str]:
    drop = ["--no-new-privs", "--inh-caps=-all", "--pdeathsig", "KILL"]
    if os.geteuid() == 0:
        ids = [f"--reuid={UNPRIVILEGED_ID}", f"--regid={UNPRIVILEGED_ID}", "--clear-groups"]
        drop = [*ids, "--bounding-set=-all", *drop]
    return [
        *("nice", "-n", str(limits.niceness)),
        *("setpriv", *drop),
        "prlimit",
        f"--as={limits.memory_bytes}",
        f"--cpu={limits.cpu_seconds}",
        f"--fsize={limits.file_bytes}",
        f"--nofile={limits.open_files}",
        "--core=0",
        "--",
        *argv,
    ]
