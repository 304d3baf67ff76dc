"""Contains itself and executes an untrusted tool: `launch.py name=value... -- tool argument...` (`sandbox._command`).

In this order: resource limits, a user of its own (if root), no new privileges, a kill signal when the parent dies, file
access to the system's programs and its own folder only (Landlock), and an allow-list of system calls (seccomp). Then it
executes the tool. The descriptor that answers the tool's socket() calls is sent to the parent, through the descriptor
`control`.

This runs for each run of a tool, so it imports as little as possible; the parent compiles the filters.
"""

import ctypes
import os
import resource
import sys
from _socket import SCM_RIGHTS, SOL_SOCKET, socket  # importing socket would take longer than everything else here

# What a tool may read and execute; nothing below these is secret. Missing ones are skipped.
PROGRAMS = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")

# Above all user ids that systemd assigns; adding the process id makes it unique.
FIRST_USER = 0x7000_0000

_LIBC = ctypes.CDLL(None, use_errno=True)

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_SIGKILL = 9

# linux/landlock.h; its system calls have the same numbers on every architecture
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE, _READ, _READ_FOLDER, _REMOVE_FILE, _MAKE_FILE, _TRUNCATE = (
    1 << bit for bit in (0, 1, 2, 3, 5, 8, 14)
)
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_CONNECT_AND_BIND = _SIGNAL_AND_ABSTRACT_SOCKET = 0b11

# linux/seccomp.h
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8


def landlock_version() -> int:
    """The version of the kernel's Landlock; 0 if it is missing or unavailable to this process."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _prctl(option: int, value: int) -> None:
    _checked(_LIBC.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3))


def _limit(limits: dict[str, str]) -> None:
    os.nice(int(limits["niceness"]))
    for name in ("AS", "CPU", "FSIZE", "NOFILE", "NPROC"):
        value = int(limits[name])
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/oom_score_adj", "w") as score:  # so that the OOM killer prefers it to the worker
        score.write("1000")


def _change_user(folder: int | None) -> None:
    user = FIRST_USER + os.getpid()
    if folder is not None:
        os.fchown(folder, user, user)
    with open("/proc/sys/kernel/cap_last_cap") as last:
        for capability in range(int(last.read()) + 1):
            _prctl(_PR_CAPBSET_DROP, capability)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _restrict_files(version: int, folder: int | None, descriptors: dict[str, int]) -> None:
    """Landlock: everything not allowed here is forbidden. Paths were opened before, while they were accessible."""
    fields = (_RIGHTS[min(version, 5)], _CONNECT_AND_BIND, _SIGNAL_AND_ABSTRACT_SOCKET)
    attributes = (ctypes.c_uint64 * 3)(*fields)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _checked(_LIBC.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0)))

    def allow(descriptor: int, rights: int) -> None:
        rule = rights.to_bytes(8, sys.byteorder) + descriptor.to_bytes(4, sys.byteorder)
        _checked(_LIBC.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, ctypes.c_uint32(0)))

    for path, descriptor in descriptors.items():
        if path in DEVICES:
            allow(descriptor, _READ | _WRITE)
        else:
            allow(descriptor, _READ | (_EXECUTE | _READ_FOLDER if os.path.isdir(path) else 0))
    if folder is not None:
        truncate = _TRUNCATE if version >= 3 else 0
        allow(folder, _READ | _READ_FOLDER | _WRITE | _MAKE_FILE | _REMOVE_FILE | truncate)
    _checked(_LIBC.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))


def forbid_privileges() -> None:
    """Executed programs gain no privileges (no_new_privs). Without this, only root may add seccomp filters."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


class _Program(ctypes.Structure):
    """struct sock_fprog: the number of instructions, and a pointer to them."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def add_filter(number: int, instructions: bytes, flags: int = 0) -> int:
    """Add a permanent seccomp filter to this process; ``number`` is that of the system call."""
    program = _Program(len(instructions) // 8, instructions)
    return _checked(_LIBC.syscall(number, _SET_MODE_FILTER, ctypes.c_ulong(flags), ctypes.byref(program)))


def main(arguments: list[str]) -> None:
    split = arguments.index("--")
    options = dict(argument.split("=", 1) for argument in arguments[:split])
    command = arguments[split + 1 :]
    control = socket(fileno=int(options["control"]))
    os.set_inheritable(control.fileno(), False)
    folder = os.open(".", os.O_DIRECTORY | os.O_CLOEXEC) if options["folder"] == "own" else None
    version = landlock_version()
    opened = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in (*PROGRAMS, *DEVICES) if os.path.exists(path)}

    _limit(options)
    if os.geteuid() == 0:
        _change_user(folder)
    forbid_privileges()
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != int(options["parent"]):  # it died before PR_SET_PDEATHSIG took effect
        sys.exit(1)
    if version:
        _restrict_files(version, folder, opened)
    seccomp = int(options["seccomp"])
    listener = add_filter(seccomp, bytes.fromhex(options["answered"]), _NEW_LISTENER)
    control.sendmsg([b"ready"], [(SOL_SOCKET, SCM_RIGHTS, listener.to_bytes(4, sys.byteorder))])
    # Two filters, because the second one forbids sending the descriptor of the first one.
    add_filter(seccomp, bytes.fromhex(options["allowed"]))
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
