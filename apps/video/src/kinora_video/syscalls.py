"""The system calls of a tool, as seccomp filters: an allow-list, so that anything unforeseen is denied.

libseccomp knows their numbers on each architecture. All others fail with ENOSYS, as on an older kernel, for which the C
library has fallbacks.
"""

import ctypes
import errno
import functools
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

# Only calls that affect the process itself: none that act on other processes (kill, ptrace, setpriority, ...) or bypass
# the file system (System V IPC, keyrings, io_uring, ...).
_GROUPS = {
    # Landlock restricts the paths. No links, folders, pipes or devices can be created.
    "files": "access close dup dup2 dup3 faccessat faccessat2 fadvise64 fdatasync fstat fstatfs fsync ftruncate getcwd"
    " getdents64 lseek lstat newfstatat open openat pread64 preadv pwrite64 pwritev read readlink readlinkat readv"
    " rename renameat renameat2 stat statfs statx umask unlink unlinkat write writev",
    "memory": "brk get_mempolicy madvise membarrier mincore mlock mmap mprotect mremap munlock munmap set_mempolicy",
    "itself": "arch_prctl execve exit exit_group getcpu getegid geteuid getgid getgroups getpid getppid getpriority"
    " getrandom getrlimit getrusage gettid getuid restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn"
    " sched_getaffinity sched_getparam sched_getscheduler sched_yield set_robust_list set_tid_address sigaltstack"
    " sysinfo times uname",
    "time": "clock_getres clock_gettime clock_nanosleep futex gettimeofday nanosleep poll ppoll pselect6 select time",
    # The connection to its source. No call takes an address, except sendto, where a connected socket rejects it.
    "connection": "getpeername getsockname getsockopt recvfrom sendto shutdown",
}
ALLOWED = tuple(name for names in _GROUPS.values() for name in names.split())

_CLONE_THREAD = 0x10000
_PR_SET_NAME = 15
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030

# seccomp.h
ALLOW, ERRNO, _NOTIFY = 0x7FFF0000, 0x00050000, 0x7FC00000
_EQUAL, _MASKED_EQUAL = 4, 7


class _Condition(ctypes.Structure):
    """struct scmp_arg_cmp: the index of an argument, the comparison, and its operands."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("comparison", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


# Calls that are allowed only with certain arguments.
_CONDITIONS = [
    # Threads, but no processes.
    ("clone", _Condition(0, _MASKED_EQUAL, _CLONE_THREAD, _CLONE_THREAD)),
    ("prctl", _Condition(0, _EQUAL, _PR_SET_NAME)),
    ("prlimit64", _Condition(0, _EQUAL, 0)),  # of itself
    # Not F_SETOWN, which can send signals to any process.
    *(
        ("fcntl", _Condition(1, _EQUAL, command))
        for command in (_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC)
    ),
    ("socket", _Condition(0, _EQUAL, socket.AF_INET)),  # answered by the worker
]


@dataclass(frozen=True, slots=True)
class Filters:
    """BPF programs: ``answered`` notifies the worker of calls, ``allowed`` is the allow-list."""

    answered: bytes
    allowed: bytes
    seccomp: int
    """The number of the system call that installs them."""


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    return library


@functools.cache
def filters() -> Filters:
    """Raises OSError if libseccomp is missing or rejects a rule."""
    # The socket that socket() returned is already connected.
    connected = ("connect", ERRNO | 0, None)
    allowed = [(name, ALLOW, None) for name in ALLOWED]
    conditional = [(name, ALLOW, condition) for name, condition in _CONDITIONS]
    return Filters(
        answered=compiled(ALLOW, [("socket", _NOTIFY, None)]),
        allowed=compiled(ERRNO | errno.ENOSYS, [*allowed, *conditional, connected]),
        seccomp=number("seccomp"),
    )


def number(name: str) -> int:
    """The number of a system call on this architecture; negative if it does not exist."""
    return int(_library().seccomp_syscall_resolve_name(name.encode()))


def compiled(otherwise: int, rules: Sequence[tuple[str, int, _Condition | None]]) -> bytes:
    """A filter from rules: calls by name, with an action and a condition each, and an action for all others."""
    library = _library()
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(otherwise)))
    try:
        for name, action, condition in rules:
            call = number(name)
            if call < 0:  # not on this architecture
                continue
            conditions = (_Condition * 1)(condition) if condition else None
            failed = library.seccomp_rule_add_array(
                context, ctypes.c_uint32(action), call, int(condition is not None), conditions
            )
            if failed:
                raise OSError(-failed, f"{os.strerror(-failed)}: no filter for {name}")
        program = os.memfd_create("filter")
        try:
            failed = library.seccomp_export_bpf(context, program)
            if failed:
                raise OSError(-failed, os.strerror(-failed))
            os.lseek(program, 0, os.SEEK_SET)
            return os.read(program, 1 << 16)
        finally:
            os.close(program)
    finally:
        library.seccomp_release(context)
