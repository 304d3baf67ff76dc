"""Check that this machine can run the platform (or the named parts), and report one sentence per problem.

With `tools`, `images`, `cluster` or `test-docker` as its argument, it checks instead what that make target needs; with
`docker`, what docker-compose.yml needs.

Standard library only, and no syntax that an older Python rejects: it must be able to report that Python is too old.
"""

from __future__ import annotations

import ctypes.util
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from parts import HOST, PARTS, Part

ROOT = Path(__file__).resolve().parent.parent
MADE = ROOT / ".kinora"

# Debian package -> one of its programs. RabbitMQ's is not the one on PATH, see local/stores/rabbitmq.
PACKAGES = {
    "redis-server": "redis-server",
    "rabbitmq-server": "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "ffmpeg": "ffmpeg",
    "prometheus": "prometheus",
    "curl": "curl",  # the examples of README.md, which the tests run
    "openssl": "openssl",
}
# The same for building images.
IMAGE_PACKAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}
# The same for the sandbox's node; the network plugins are not on PATH.
CLUSTER_PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "iptables": "iptables",
    "ipset": "ipset",
    "conntrack": "conntrack",
    "iproute2": "ip",
    "openssl": "openssl",
}
# The Docker daemon of the tests of docker-compose.yml.
DOCKER_PACKAGES = {"docker.io": "dockerd", "iptables": "iptables", "iproute2": "ip"}
PACKAGES_FOR = {
    "install": PACKAGES,
    "images": IMAGE_PACKAGES,
    "cluster": CLUSTER_PACKAGES,
    "docker": DOCKER_PACKAGES,
    "clients": {},
}
# The path of a unix socket is limited to 108 bytes, and supervisord first binds a longer name.
LONGEST_ROOT = 108 - len("/.kinora/run/supervisor.sock.1234567") - 1


def missing_packages(packages: dict[str, str]) -> list[str]:
    return [package for package, program in packages.items() if shutil.which(program) is None]


def version(command: list[str], pattern: str) -> tuple[int, ...] | None:
    """The version that a program reports; None if it is missing."""
    try:
        spoken = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        return None
    found = re.search(pattern, spoken.stdout + spoken.stderr)
    return tuple(int(number) for number in found.groups() if number) if found else None


def makes_something(verb: str, target: str = "all") -> bool:
    """Whether `make install` or `make tools` would install or build anything."""
    question = ["make", "--question", "--file", f"local/{verb}.mk", target]
    return subprocess.run(question, cwd=ROOT, capture_output=True, check=False).returncode != 0


def check_system() -> list[str]:
    problems = []
    if sys.platform != "linux":
        problems.append(f"The platform runs on Linux; this is {sys.platform}.")
    if sys.version_info < (3, 11):  # noqa: UP036 - the one place that may run on an older Python
        problems.append(
            f"Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}. Install a newer one and"
            " select it: `make up PYTHON=python3.12`."
        )
    if len(str(ROOT)) > LONGEST_ROOT:
        problems.append(f"The path of this checkout is too long for unix sockets; keep it below {LONGEST_ROOT} bytes.")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        problems.append("setpriv is needed to run PostgreSQL as root; on Debian, install util-linux.")
    if ctypes.util.find_library("seccomp") is None:
        problems.append("libseccomp is needed to contain ffmpeg; on Debian, install libseccomp2.")
    return [*problems, *check_landlock("local/env/video-worker.env")]


def check_landlock(settings: str) -> list[str]:
    """Landlock, unless this file of settings accepts that it is missing."""
    file, accepting = ROOT / settings, "KINORA_REQUIRE_LANDLOCK=false"
    if sys.platform != "linux" or (file.exists() and accepting in file.read_text()):
        return []
    # landlock_create_ruleset, which returns the ABI version
    if ctypes.CDLL(None).syscall(444, None, 0, 1) >= 1:
        return []
    return [
        "This kernel has no Landlock, which restricts ffmpeg's file access. Enable it, or accept that with"
        f" {accepting} in {settings}."
    ]


def check_install() -> list[str]:
    """Requirements of `make install` only."""
    problems = []
    go = version(["go", "version"], r"go(\d+)\.(\d+)")
    if go is None or go < (1, 25):
        problems.append("Go 1.25 or newer is needed to build tusd and MinIO; install it and put it on PATH.")
    if not (MADE / "venv").exists() and version([sys.executable, "-m", "ensurepip", "--version"], r"pip (\d+)") is None:
        problems.append(f"{sys.executable} cannot create virtual environments; on Debian, install python3-venv.")
    return [*problems, *check_packages(PACKAGES)]


def check_packages(wanted: dict[str, str]) -> list[str]:
    packages = " ".join(missing_packages(wanted))
    if packages and shutil.which("apt-get") is None:
        return [f"apt-get is missing; install the equivalents of Debian 12's {packages}."]
    if packages and os.geteuid() != 0 and shutil.which("sudo") is None:
        return [f"Debian packages are missing; run as root: apt-get install {packages}"]
    return []


def check_clients() -> list[str]:
    """Requirements of `make clients` only. Not a Debian package: Debian 12's is older."""
    node = version(["node", "--version"], r"v(\d+)\.(\d+)")
    if node is None or node < (20, 0) or shutil.which("npm") is None:
        return ["Node.js 20 or newer and npm are needed for the tests' GraphQL clients; install them, on PATH."]
    return []


def check_tools() -> list[str]:
    """Requirements of `make tools` only."""
    problems = []
    go = version(["go", "version"], r"go(\d+)\.(\d+)(?:\.(\d+))?")
    if go is None or go < (1, 26, 6):
        problems.append("Go 1.26.6 or newer is needed to build the tools; install it and put it on PATH.")
    # The tools themselves take 1 GB, Go's caches in the home folder 16 GB.
    return [*problems, *check_memory(6, "to build the tools"), *check_disk(2), *check_disk(20, Path.home())]


def check_images() -> list[str]:
    """Requirements of `make images` only."""
    problems = []
    if sys.platform != "linux" or os.geteuid() != 0:
        problems.append("Building images needs root on Linux; elsewhere, use Docker: docker compose build")
    elif subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        problems.append("Root may not mount file systems here, as in most containers; images cannot be built.")
    return [*problems, *check_packages(IMAGE_PACKAGES), *check_disk(4)]


def check_containers(runtime: str) -> list[str]:
    """Requirements of every container runtime."""
    problems = []
    for needed, question in (
        ("create network namespaces", ["unshare", "--net", "true"]),
        ("mount file systems", ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]),
    ):
        if subprocess.run(question, capture_output=True, check=False).returncode != 0:
            problems.append(f"{runtime} must {needed}, which is not permitted here: run it outside this container.")
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        problems.append("This kernel has no overlay file system, which containers need: modprobe overlay")
    if not os.access("/sys/fs/cgroup", os.W_OK):
        problems.append("The cgroups are not writable (/sys/fs/cgroup): run it outside this container.")
    return problems


def check_memory(gigabytes_needed: int, purpose: str) -> list[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if memory >= gigabytes_needed:
        return []
    return [f"{gigabytes_needed} GB of memory are needed {purpose}; this machine has {memory:.1f} GB."]


def check_docker() -> list[str]:
    """Requirements of docker-compose.yml."""
    problems = []
    daemon = version(["docker", "version", "--format", "{{.Server.Version}}"], r"^(\d+)\.(\d+)")
    if daemon is None or daemon < (20, 10):
        problems.append("No Docker daemon of version 20.10 or newer answers this user (`docker version`).")
    for plugin, oldest in (("compose", (2, 20)), ("buildx", (0, 10))):
        found = version(["docker", plugin, "version"], r"v?(\d+)\.(\d+)")
        if found is None or found < oldest:
            needed = ".".join(map(str, oldest))
            problems.append(f"Docker's plugin {plugin} is needed, {needed} or newer (`docker {plugin} version`).")
    return [
        *problems,
        *check_landlock(".env"),
        *check_memory(4, "to run the platform in containers"),
        *check_disk(10),
        *check_ports([PARTS["traefik"]]),
    ]


def check_test_docker() -> list[str]:
    """Requirements of the tests of docker-compose.yml only, which start their own Docker daemon."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return ["The tests of docker-compose.yml run a Docker daemon, as only root on Linux can: sudo make test-docker"]
    problems = []
    go = version(["go", "version"], r"go(\d+)\.(\d+)(?:\.(\d+))?")
    if not (MADE / "bin" / "docker-compose").exists() and (go is None or go < (1, 26, 8)):
        problems.append("Go 1.26.8 or newer is needed to build Docker Compose; install it and put it on PATH.")
    return [
        *problems,
        *check_containers("A Docker daemon"),
        *check_memory(6, "to run the platform in containers"),
        *check_packages(DOCKER_PACKAGES),
        *check_images(),
        # Both buildah and the daemon store the images.
        *([] if (MADE / "docker").exists() else check_disk(15)),
    ]


def check_cluster() -> list[str]:
    """Requirements of the sandbox only: this machine must be able to be a Kubernetes node."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return ["The sandbox is a Kubernetes node, which only root on Linux can run: sudo make cluster-up"]
    problems = []
    if shutil.which("git") is None:
        problems.append("git is needed to push this checkout to the sandbox; on Debian, install git.")
    problems += check_containers("The sandbox")
    if not (MADE / "sandbox").exists() and (others := kubelets()):
        problems.append(f"Another Kubernetes runs pods on this machine ({others[0]}): stop it first.")
    problems += check_memory(10, "for the sandbox")
    # A running sandbox already occupies that space.
    room = [] if (MADE / "sandbox").exists() else check_disk(15)
    return [*problems, *check_packages(CLUSTER_PACKAGES), *room]


def kubelets(groups: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """The cgroups that a kubelet creates for its pods."""
    return [*groups.glob("kubepods*"), *groups.glob("*/kubepods*")]


def check_disk(gigabytes_needed: int, folder: Path = ROOT) -> list[str]:
    free = shutil.disk_usage(folder).free / 1e9
    if free >= gigabytes_needed:
        return []
    return [f"{gigabytes_needed} GB of disk are needed below {folder}; {free:.1f} GB are free. Free up space there."]


def check_ports(parts: list[Part]) -> list[str]:
    taken = {port: part.purpose for part in parts for port in part.ports if not is_free(port)}
    if not taken:
        return []
    listeners = {port: process for process, ports in listening().items() for port in ports}
    pid_file = MADE / "run" / "supervisord.pid"
    ours = pid_file.read_text().strip() if pid_file.exists() else ""
    problems = []
    for port, purpose in sorted(taken.items()):
        process = listeners.get(port)
        if process is None:
            problems.append(f"Port {port} ({purpose}) is taken by a process of another user; stop it.")
        elif str(os.getsid(process)) != ours:
            problems.append(f"Port {port} ({purpose}) is taken by process {process} ({command(process)}); stop it.")
    return problems


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def listening() -> dict[int, set[int]]:
    """The TCP ports that each process listens on, as far as visible to this user (man 5 proc_pid_net)."""
    ports = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A":  # LISTEN
                ports["socket:[" + columns[9] + "]"] = int(columns[1].rsplit(":", 1)[1], 16)
    found: dict[int, set[int]] = {}
    for file in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            inode = str(file.readlink())
        except OSError:
            continue
        if inode in ports:
            found.setdefault(int(file.parts[2]), set()).add(ports[inode])
    return found


def command(process: int) -> str:
    words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    return b" ".join(words).decode(errors="replace").strip()[:80]


OTHER_CHECKS: dict[str, tuple[Callable[[], list[str]], str]] = {
    "tools": (lambda: check_tools() if makes_something("tools") else [], "This machine can build the tools."),
    "clients": (check_clients, "This machine can run the GraphQL clients of the tests."),
    "images": (check_images, "This machine can build the images."),
    "docker": (check_docker, "This machine can run docker-compose.yml."),
    "test-docker": (check_test_docker, "This machine can run the tests of docker-compose.yml."),
    "cluster": (check_cluster, "This machine can be the sandbox."),
}


def main() -> int:
    words = sys.argv[1:]
    if words[:1] == ["--missing-packages"]:
        print(" ".join(missing_packages(PACKAGES_FOR[words[1] if len(words) > 1 else "install"])))
        return 0
    if len(words) == 1 and words[0] in OTHER_CHECKS:
        check, success = OTHER_CHECKS[words[0]]
        return report(check(), success)
    wanted = [part for name, part in PARTS.items() if not words or name in words or (part.store and "stores" in words)]
    incomplete = makes_something("install")
    problems = [
        *check_system(),
        *(check_install() if incomplete else []),
        *check_disk(6 if incomplete else 2),
        *check_ports(wanted),
    ]
    return report(problems, "This machine can run the platform.")


def report(problems: list[str], success: str) -> int:
    print("\n".join(f"- {problem}" for problem in problems) or success)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
