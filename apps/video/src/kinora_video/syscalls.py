"""The system calls of a tool, as seccomp filters: an allow-list, so that what nobody thought of is refused.

libseccomp knows their numbers on each architecture. What is not on the list fails with ENOSYS, as on an older kernel:
the C library then does without.
"""

import ctypes
import errno
import functools
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

# Only what concerns the process itself. Of the calls that name another process (kill, ptrace, setpriority, ...) or
# reach outside of the file system (System V IPC, keyrings, io_uring, ...) there is none.
_GROUPS = {
    # Landlock says which. No links, folders, pipes or devices are made.
    "files": "access close dup dup2 dup3 faccessat faccessat2 fadvise64 fdatasync fstat fstatfs fsync ftruncate getcwd"
    " getdents64 lseek lstat newfstatat open openat pread64 preadv pwrite64 pwritev read readlink readlinkat readv"
    " rename renameat renameat2 stat statfs statx umask unlink unlinkat write writev",
    "memory": "brk get_mempolicy madvise membarrier mincore mlock mmap mprotect mremap munlock munmap set_mempolicy",
    "itself": "arch_prctl execve exit exit_group getcpu getegid geteuid getgid getgroups getpid getppid getpriority"
    " getrandom getrlimit getrusage gettid getuid restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn"
    " sched_getaffinity sched_getparam sched_getscheduler sched_yield set_robust_list set_tid_address sigaltstack"
    " sysinfo times uname",
    "time": "clock_getres clock_gettime clock_nanosleep futex gettimeofday nanosleep poll ppoll pselect6 select time",
    # The connection to its source; nothing with an address in it, but for sendto, which a connected one refuses.
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
    """struct scmp_arg_cmp: an argument of a call, how it is compared, and with what."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("comparison", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


# Calls that are allowed for some arguments only.
_CONDITIONS = [
    # Threads; a process of its own is made by none.
    ("clone", _Condition(0, _MASKED_EQUAL, _CLONE_THREAD, _CLONE_THREAD)),
    ("prctl", _Condition(0, _EQUAL, _PR_SET_NAME)),
    ("prlimit64", _Condition(0, _EQUAL, 0)),  # of itself
    # Not F_SETOWN, which sends signals to anybody.
    *(
        ("fcntl", _Condition(1, _EQUAL, command))
        for command in (_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC)
    ),
    ("socket", _Condition(0, _EQUAL, socket.AF_INET)),  # answered by the worker
]


@dataclass(frozen=True, slots=True)
class Filters:
    """Programs for the kernel: calls that are answered by the worker, and calls that are allowed."""

    answered: bytes
    allowed: bytes
    seccomp: int
    """The number of the system call that takes them."""


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    return library


@functools.cache
def filters() -> Filters:
    """Raises OSError when there is no libseccomp, or it refuses a rule."""
    # What socket() returned is connected already.
    connected = ("connect", ERRNO | 0, None)
    allowed = [(name, ALLOW, None) for name in ALLOWED]
    conditional = [(name, ALLOW, condition) for name, condition in _CONDITIONS]
    return Filters(
        answered=compiled(ALLOW, [("socket", _NOTIFY, None)]),
        allowed=compiled(ERRNO | errno.ENOSYS, [*allowed, *conditional, connected]),
        seccomp=number("seccomp"),
    )


def number(name: str) -> int:
    """Of a system call on this architecture; negative when it has none of this name."""
    return int(_library().seccomp_syscall_resolve_name(name.encode()))


def compiled(otherwise: int, rules: Sequence[tuple[str, int, _Condition | None]]) -> bytes:
    """A filter of calls by name, with what happens to them (under a condition) and to all others."""
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
