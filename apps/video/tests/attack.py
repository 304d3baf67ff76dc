"""Runs in place of ffmpeg and tries what malicious code would: `python3 -c ATTACK '{"paths": ...}'`.

Prints the outcome of each attempt as JSON: "refused", or what was achieved. Standard library only, as it can read no
other.
"""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
ATTEMPTS: dict[str, Callable[[], object]] = {}

given = json.loads(sys.argv[1])
worker, sibling = os.getppid(), given["sibling"]


def called(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def attempt(name: str, achieve: Callable[[], object]) -> None:
    ATTEMPTS[name] = achieve


def read(path: str) -> Callable[[], object]:
    return lambda: open(path, "rb").read(1)


def write(path: str) -> Callable[[], object]:
    return lambda: open(path, "ab").close()


def connect(family: int, kind: int, address: object, protocol: int = 0) -> Callable[[], object]:
    def achieve() -> object:
        with socket.socket(family, kind, protocol) as connection:
            connection.connect(address)
            connection.sendall(b"GET /elsewhere HTTP/1.1\r\n\r\n")
            return f"connected to {connection.recv(100)[:12].decode()}"

    return achieve


# Files: of the platform, of other runs, of the system.
for path in given["secrets"]:
    attempt(f"read {path}", read(path))
    attempt(f"write {path}", write(path))
for path in (
    "/etc/passwd",
    "/etc/shadow",
    "/etc/hostname",
    "/proc/self/status",
    "/proc/mounts",
    "/sys/kernel/uevent_seqnum",
):
    attempt(f"read {path}", read(path))
for pid in (worker, sibling, 1, "self"):
    for name in ("environ", "mem", "maps", "cmdline", "status", *(["fd/1"] if pid != "self" else [])):
        attempt(f"read /proc/{pid}/{name}", read(f"/proc/{pid}/{name}"))
for folder in ("/tmp", "/var/tmp", "/dev/shm", "/", "/usr", given["outside"]):
    attempt(f"write in {folder}", write(f"{folder}/planted"))
    if folder != "/usr":
        attempt(f"list {folder}", lambda folder=folder: os.listdir(folder))
attempt("write ../planted", write("../planted"))
attempt("make a symbolic link", lambda: os.symlink("/etc/passwd", "240p.m3u8"))
attempt("make a hard link", lambda: os.link("/usr/bin/env", "240p.m3u8"))
attempt("make a pipe", lambda: os.mkfifo("240p.m3u8"))
attempt("make a folder", lambda: os.mkdir("folder"))
attempt("change a mode", lambda: os.chmod(".", 0o777))
attempt("rename out", lambda: os.rename("own", "/tmp/planted"))
attempt("change the root", lambda: os.chroot("."))

# Processes.
for name, pid in (("worker", worker), ("sibling", sibling), ("init", 1)):
    attempt(f"signal {name}", lambda pid=pid: os.kill(pid, 0))
    attempt(f"signal the group of {name}", lambda pid=pid: os.killpg(pid, 0))
    attempt(f"open {name}", lambda pid=pid: os.pidfd_open(pid))
    attempt(f"trace {name}", lambda pid=pid: called(LIBC.ptrace(16, pid, 0, 0)))
    attempt(f"read the memory of {name}", lambda pid=pid: called(LIBC.process_vm_readv(pid, None, 0, None, 0, 0)))
    attempt(f"slow {name} down", lambda pid=pid: os.setpriority(os.PRIO_PROCESS, pid, 19))
    attempt(f"move {name}", lambda pid=pid: os.sched_setaffinity(pid, {0}))
    attempt(f"limit {name}", lambda pid=pid: resource.prlimit(pid, resource.RLIMIT_CPU))
attempt("fork", os.fork)
attempt("spawn", lambda: os.posix_spawn("/usr/bin/true", ["true"], {}))
attempt("become root", lambda: os.setuid(0))
attempt("be in another namespace", lambda: called(LIBC.unshare(0x10000000)))
attempt("share memory", lambda: called(LIBC.shmget(0x6B696E6F, 4096, 0o1666)))
attempt("queue messages", lambda: called(LIBC.msgget(0x6B696E6F, 0o1666)))
attempt("hold a key", lambda: called(LIBC.syscall(given["numbers"]["add_key"], b"user", b"kinora", b"x", 1, -3)))

# The network. With a source, every connection leads to the source; see the test.
for name, (host, port) in given["addresses"].items():
    attempt(f"connect to {name}", connect(socket.AF_INET, socket.SOCK_STREAM, (host, port)))
    attempt(f"connect to {name} by IPv6", connect(socket.AF_INET6, socket.SOCK_STREAM, (f"::ffff:{host}", port)))
attempt("send a datagram", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"x", ("::1", 53)))
attempt("connect to a local socket", connect(socket.AF_UNIX, socket.SOCK_STREAM, given["local"]))
attempt("connect to an abstract socket", connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0kinora"))
attempt("ask the kernel for routes", lambda: socket.socket(16, socket.SOCK_RAW, 0))
attempt("listen", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).bind(("127.0.0.1", 0)))


def fill_memory() -> object:
    kept = []
    while len(kept) < 64:  # GiB
        kept.append(mmap.mmap(-1, 1 << 30))
    return "64 GiB"


def threads_without_end() -> object:
    enough = threading.Event()
    threading.stack_size(64 << 10)
    running = []
    try:
        while len(running) < 20_000:
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            running.append(thread)
    finally:
        enough.set()
    return f"{len(running)} threads"


def inherited_descriptors() -> object:
    """Besides standard input, output and error."""
    found = []
    for descriptor in range(3, 1024):
        with contextlib.suppress(OSError):
            found.append(os.fstat(descriptor).st_ino)
    if found:
        return found
    raise OSError(errno.EBADF, "none of them")


def unlisted_calls() -> object:
    """Every call that is not on the allow-list, with harmless arguments."""
    done = []
    probes = {335, 336}  # internal to the kernel on x86-64, and hidden from seccomp: they kill the caller
    for number in set(range(600)) - probes - set(given["numbers"]["allowed"]):
        ctypes.set_errno(0)
        if LIBC.syscall(number, *[ctypes.c_long(0)] * 6) != -1 or ctypes.get_errno() != errno.ENOSYS:
            done.append(number)
    if done:
        return done
    raise OSError(errno.ENOSYS, "all of them")


attempt("use a descriptor of the worker", inherited_descriptors)
attempt("fill the memory", fill_memory)
attempt("start threads", threads_without_end)
attempt("make any other system call", unlisted_calls)

open("own", "w").write("mine")  # its own folder is writable
outcomes = {}
for name, achieve in ATTEMPTS.items():
    try:
        outcomes[name] = f"done: {achieve()!r:.100}"
    except (OSError, RuntimeError, MemoryError):
        outcomes[name] = "refused"
print(json.dumps(outcomes))
