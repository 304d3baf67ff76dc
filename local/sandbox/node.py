"""One real Kubernetes node on this machine: API server, controllers, scheduler, kubelet, containerd, network and DNS.

Every process runs in a separate network namespace without a default route: it can reach, and be reached from, this
machine only. They also share a mount namespace: mounts for pods are invisible to the host and disappear with the last
process. All state is below one folder. A process is identified by its pid and start time, so a reused pid is never
mistaken for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from apiserver import ETCD_OPTIONS, is_ready, write_private
from environment import MADE

STATE = MADE / "sandbox"
BIN = MADE / "bin"
LOGS = STATE / "logs"
KUBECONFIG = STATE / "kubeconfig"
IMAGES = MADE / "containers" / "node"
"""containerd's root folder. It is kept when the sandbox is removed, because importing images takes minutes."""

NAMESPACE = "kinora-sandbox"
"""The name of the network namespace."""
HOST_DEVICE, NODE_DEVICE = "kinora0", "kinora1"
HOST_ADDRESS, NODE_ADDRESS = "10.231.0.1", "10.231.0.2"
PODS, SERVICES = "10.232.0.0/16", "10.96.0.0/16"
API_PORT, FIREWALL_HEALTH_PORT = 6443, 20244
NODE = "sandbox"

START_LIMIT_SECONDS = 90
STOP_LIMIT_SECONDS = 30

ACCOUNTS = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
    f"system:node:{NODE}": "system:nodes",
    "kube-router": "",
    "coredns": "",
}
"""The clients of the API server, each with its own token -> group."""


class Failure(Exception):
    """An error message for the terminal."""


# --- processes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    name: str
    command: list[str]


def start(process: Process) -> bool:
    """Start a process unless it is running; it outlives this one. Returns whether it was started."""
    if running(process.name):
        return False
    entering = [f"--net=/run/netns/{NAMESPACE}"]
    if holder := running(HOLDER):
        # The working folder is lost when entering the mount namespace.
        entering += [f"--mount=/proc/{holder.pid}/ns/mnt", "env", f"--chdir={STATE}"]
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{process.name}.log").open("ab") as log:
        # Not `ip netns exec`: it remounts /sys, without the cgroups.
        child = subprocess.Popen(
            ["nsenter", *entering, *process.command],
            cwd=STATE,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={"PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(STATE)},
        )
    file = STATE / "pids" / process.name
    file.parent.mkdir(exist_ok=True)
    file.write_text(identity(child.pid))
    return True


def identity(pid: int) -> str:
    """A process's pid and start time, in ticks since boot: wall-clock time would change when the clock is set."""
    began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # the 22nd field of proc(5)
    return f"{pid} {began} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"


def running(name: str) -> psutil.Process | None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError, psutil.NoSuchProcess):
        noted = (STATE / "pids" / name).read_text()
        process = psutil.Process(int(noted.partition(" ")[0]))
        if identity(process.pid) == noted and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def wait(condition: Callable[[], bool], *, what: str, log: str, seconds: float = START_LIMIT_SECONDS) -> None:
    """Raises Failure, naming the log to read, if the condition is not met in time or its process has exited."""
    deadline = time.monotonic() + seconds
    while not condition():
        if running(log) is None or time.monotonic() > deadline:
            file = LOGS / f"{log}.log"
            last = "\n".join(file.read_text(errors="replace").splitlines()[-10:])
            raise Failure(f"{what} did not start. The end of {file}:\n{last}")
        time.sleep(0.2)


def run(*command: str | Path, check: bool = True, given: str | None = None, timeout: float = 120) -> str:
    """The output of a command. Raises Failure with its error output if it fails."""
    words = [str(word) for word in command]
    named = " ".join(words)[:200]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, input=given, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failure(f"{named} did not finish within {timeout:.0f} s.") from None
    if check and done.returncode:
        raise Failure(f"{named} failed:\n{(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def inside(*command: str | Path, check: bool = True) -> str:
    """Run a command in the network namespace."""
    return run("nsenter", f"--net=/run/netns/{NAMESPACE}", *command, check=check)


def kubectl(*arguments: str | Path, given: str | None = None, check: bool = True, timeout: float = 120) -> str:
    return run(BIN / "kubectl", f"--kubeconfig={KUBECONFIG}", *arguments, given=given, check=check, timeout=timeout)


def without_proxy() -> None:
    """Make this process and its children connect to the node directly: the environment's proxy cannot reach it."""
    names = (os.environ.get("NO_PROXY"), os.environ.get("no_proxy"), NODE_ADDRESS)
    # Some programs read one, some the other.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(name for name in names if name)


# --- bringing it up ------------------------------------------------------------------------------------------------


def up() -> Iterator[str]:
    """Bring the node up; yields a progress message for each component. Running components are left alone."""
    STATE.mkdir(parents=True, exist_ok=True)
    STATE.chmod(0o700)
    _remember_kernel_settings()
    _network()
    _hold_mounts()
    yield "network"
    _credentials()
    start(_etcd())
    start(_api_server())
    certificate = STATE / "certificates" / "apiserver.crt"
    wait(
        lambda: is_ready(API_PORT, certificate, host=NODE_ADDRESS),
        what="The API server",
        log="kube-apiserver",
    )
    # Its certificate, followed by its issuer's.
    (STATE / "authority.crt").write_text(certificate.read_text()[certificate.read_text().rindex("-----BEGIN") :])
    yield "API server"
    _rbac()
    for controller in ("kube-controller-manager", "kube-scheduler"):
        start(_controller(controller))
    _containerd_configuration()
    started = start(Process("containerd", ["containerd", f"--config={STATE}/containerd.toml"]))
    wait(_containerd_answers, what="containerd", log="containerd")
    if started:
        _remove_container_records()
    yield "containerd"
    _kubelet_configuration()
    start(_kubelet())
    start(_kube_proxy())
    _dns_configuration()
    start(Process("coredns", ["coredns", f"-conf={STATE}/Corefile"]))
    wait(_node_is_ready, what="The node", log="kubelet")
    start(_kube_router())  # it exits if the node does not exist yet
    wait(_firewall_answers, what="The firewall", log="kube-router")
    _volumes()
    if ended := [file.name for file in (STATE / "pids").iterdir() if running(file.name) is None]:
        raise Failure(f"{', '.join(ended)} exited; the logs are in {LOGS}. `make cluster-up` starts it again.")
    yield "node"


HOLDER = "namespaces"
HIDDEN = ("/run/containerd", "/run/netns", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")
"""Folders that containerd, the network plugins and the kubelet write to and that cannot be configured."""


def _hold_mounts() -> None:
    """Create the mount namespace, held open by a process that only sleeps; all others enter it."""
    for folder in HIDDEN:
        Path(folder).mkdir(parents=True, exist_ok=True)
    mounts = " && ".join(f"mount -t tmpfs tmpfs {folder}" for folder in HIDDEN)
    # Slave propagation: later mounts of the host become visible inside, but not vice versa.
    script = f"{mounts} && touch holding && exec sleep infinity"
    if running(HOLDER) is None:
        (STATE / "holding").unlink(missing_ok=True)
    start(Process(HOLDER, ["unshare", "--mount", "--propagation=slave", "sh", "-c", script]))
    wait((STATE / "holding").exists, what="The mount namespace", log=HOLDER)


KERNEL_SETTINGS = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)
"""Settings of the whole machine that a kubelet changes."""


def _remember_kernel_settings() -> None:
    file = STATE / "kernel.json"
    if not file.exists():
        file.write_text(json.dumps({name: Path(f"/proc/sys/{name}").read_text() for name in KERNEL_SETTINGS}))


def _network() -> None:
    """Every step is idempotent, so an interrupted run continues where it stopped."""
    if not Path(f"/run/netns/{NAMESPACE}").exists():
        run("ip", "netns", "add", NAMESPACE)
    if not Path(f"/sys/class/net/{HOST_DEVICE}").exists():
        run("ip", "link", "add", HOST_DEVICE, "type", "veth", "peer", "name", NODE_DEVICE, "netns", NAMESPACE)
    run("ip", "address", "replace", f"{HOST_ADDRESS}/30", "dev", HOST_DEVICE)
    run("ip", "link", "set", HOST_DEVICE, "up")
    inside("ip", "address", "replace", f"{NODE_ADDRESS}/30", "dev", NODE_DEVICE)
    for device in ("lo", NODE_DEVICE):
        inside("ip", "link", "set", device, "up")
    # There is no default route, but processes on the node must reach cluster IPs.
    inside("ip", "route", "replace", SERVICES, "dev", NODE_DEVICE)
    inside("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")


def _credentials() -> None:
    """Tokens, and the self-signed certificate by which the kubelet's clients know it."""
    tokens = STATE / "tokens.csv"
    if not tokens.exists():
        lines = [f'{secrets.token_urlsafe()},{name},{name},"{group}"' for name, group in ACCOUNTS.items()]
        write_private(tokens, "\n".join(lines) + "\n")
    if not (STATE / "kubelet-client.crt").exists():
        run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", STATE / "kubelet-client.key", "-out", STATE / "kubelet-client.crt", "-days", "365"),
            *("-subj", "/O=system:masters/CN=kube-apiserver-kubelet-client", "-addext", "extendedKeyUsage=clientAuth"),
        )


def _etcd() -> Process:
    return Process("etcd", ["etcd", *ETCD_OPTIONS])


def _api_server() -> Process:
    return Process(
        "kube-apiserver",
        [
            "kube-apiserver",
            "--etcd-servers=unix://etcd.sock",
            f"--bind-address={NODE_ADDRESS}",
            f"--advertise-address={NODE_ADDRESS}",
            f"--secure-port={API_PORT}",
            # It creates its own certificate there before it reads the keys for service accounts.
            "--cert-dir=certificates",
            "--service-account-key-file=certificates/apiserver.key",
            "--service-account-signing-key-file=certificates/apiserver.key",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--token-auth-file=tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",  # as in every cluster: Pod Security rejects them
            f"--service-cluster-ip-range={SERVICES}",
            "--kubelet-client-certificate=kubelet-client.crt",
            "--kubelet-client-key=kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
        ],
    )


def _kubeconfig(account: str) -> Path:
    """The kubeconfig of an account."""
    file = KUBECONFIG if account == "admin" else STATE / f"{account.replace(':', '-')}.kubeconfig"
    if not file.exists():
        lines = (line.split(",") for line in (STATE / "tokens.csv").read_text().splitlines())
        tokens = {name: token for token, name, *_ in lines}
        cluster = {
            "server": f"https://{NODE_ADDRESS}:{API_PORT}",
            "certificate-authority": str(STATE / "certificates" / "apiserver.crt"),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sandbox", "cluster": cluster}],
            "users": [{"name": account, "user": {"token": tokens[account]}}],
            "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": account}}],
            "current-context": "sandbox",
        }
        write_private(file, yaml.safe_dump(content))
    return file


READS = {
    "kube-router": {
        "": ["namespaces", "pods", "services", "nodes", "endpoints"],
        "networking.k8s.io": ["networkpolicies"],
        "discovery.k8s.io": ["endpointslices"],
    },
    "coredns": {"": ["namespaces", "pods", "services", "endpoints"], "discovery.k8s.io": ["endpointslices"]},
}
"""Read permissions of the components that are not part of Kubernetes."""


def _rbac() -> None:
    _kubeconfig("admin")
    group = "rbac.authorization.k8s.io"
    for name, kinds in READS.items():
        rules = [
            {"apiGroups": [of], "resources": names, "verbs": ["get", "list", "watch"]} for of, names in kinds.items()
        ]
        about = {"apiVersion": f"{group}/v1", "metadata": {"name": f"sandbox:{name}"}}
        role = {"apiGroup": group, "kind": "ClusterRole", "name": f"sandbox:{name}"}
        user = {"apiGroup": group, "kind": "User", "name": name}
        apply(
            [
                {**about, "kind": "ClusterRole", "rules": rules},
                {**about, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [user]},
            ]
        )


def apply(manifests: list[dict[str, object]], timeout: float = 120) -> None:
    kubectl(
        *("apply", "--server-side", "--force-conflicts", "--field-manager=sandbox", "--filename=-"),
        given=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}),
        timeout=timeout,
    )


def _controller(name: str) -> Process:
    more = [
        "--use-service-account-credentials",
        "--service-account-private-key-file=certificates/apiserver.key",
        "--root-ca-file=authority.crt",
    ]
    return Process(
        name,
        [
            name,
            f"--kubeconfig={_kubeconfig(f'system:{name}')}",
            "--leader-elect=false",
            f"--bind-address={NODE_ADDRESS}",
            *(more if name == "kube-controller-manager" else []),
        ],
    )


def _containerd_configuration() -> None:
    cri = "io.containerd.grpc.v1.cri"
    (STATE / "containerd.toml").write_text(f"""\
version = 2
root = "{IMAGES}"
state = "{STATE}/containerd-run"
[grpc]
  address = "{STATE}/containerd.sock"
[ttrpc]
  address = "{STATE}/containerd.sock.ttrpc"
[plugins."{cri}"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."{cri}".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{STATE}/cni"
  [plugins."{cri}".containerd]
    snapshotter = "overlayfs"
    [plugins."{cri}".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
""")
    # Each pod has its own veth pair to the node, without a bridge, so all its traffic passes the node's firewall.
    ptp = {
        "type": "ptp",
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": PODS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(STATE / "addresses"),
        },
    }
    folder = STATE / "cni"
    folder.mkdir(exist_ok=True)
    network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [ptp]}
    (folder / "10-pods.conflist").write_text(json.dumps(network))


PAUSE = "localhost/kinora-sandbox/pause:1"


def ctr(*arguments: str | Path, check: bool = True, timeout: float = 300) -> str:
    return run(
        "ctr", f"--address={STATE}/containerd.sock", "--namespace=k8s.io", *arguments, check=check, timeout=timeout
    )


CRI_VERSION = """\
import sys, grpc
grpc.insecure_channel(sys.argv[1]).unary_unary("/runtime.v1.RuntimeService/Version")(b"", timeout=5)
"""


def _containerd_answers() -> bool:
    """Whether its CRI service is initialised, without which the kubelet exits; containerd itself answers before.

    In a process of its own, because gRPC's threads and this process's many forks do not go together.
    """
    asking = [sys.executable, "-c", CRI_VERSION, f"unix://{STATE}/containerd.sock"]
    return subprocess.run(asking, capture_output=True, check=False).returncode == 0


def _kubelet_configuration() -> None:
    (STATE / "resolv.conf").write_text("")
    configuration = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(STATE / "kubelet-client.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # Images come from this machine only and could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "containerRuntimeEndpoint": f"unix://{STATE}/containerd.sock",
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(STATE / "resolv.conf"),
        "maxPods": 110,
        "serializeImagePulls": False,
        "registerNode": True,
        "podLogsDir": str(STATE / "pods-logs"),
        "volumePluginDir": str(STATE / "volume-plugins"),
    }
    (STATE / "kubelet.yaml").write_text(yaml.safe_dump(configuration))


def _kubelet() -> Process:
    return Process(
        "kubelet",
        [
            "kubelet",
            f"--config={STATE}/kubelet.yaml",
            f"--kubeconfig={_kubeconfig(f'system:node:{NODE}')}",
            f"--root-dir={STATE}/kubelet",
            f"--cert-dir={STATE}/kubelet-certificates",
            f"--hostname-override={NODE}",
            f"--node-ip={NODE_ADDRESS}",
        ],
    )


def _kube_proxy() -> Process:
    return Process(
        "kube-proxy",
        [
            "kube-proxy",
            f"--kubeconfig={_kubeconfig('system:kube-proxy')}",
            f"--hostname-override={NODE}",
            f"--bind-address={NODE_ADDRESS}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={PODS}",
            # Keep the kernel's own limits: they apply to the whole machine.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            "--iptables-min-sync-period=200ms",
        ],
    )


def _kube_router() -> Process:
    """Enforces NetworkPolicies; all its other features are disabled."""
    return Process(
        "kube-router",
        [
            "kube-router",
            f"--kubeconfig={_kubeconfig('kube-router')}",
            f"--hostname-override={NODE}",
            "--run-router=false",
            "--run-service-proxy=false",
            "--run-firewall=true",
            f"--service-cluster-ip-range={SERVICES}",
            "--metrics-port=0",
            f"--health-port={FIREWALL_HEALTH_PORT}",
        ],
    )


def _firewall_answers() -> bool:
    with contextlib.suppress(OSError), socket.create_connection((NODE_ADDRESS, FIREWALL_HEALTH_PORT), timeout=2):
        return True
    return False


def _dns_configuration() -> None:
    (STATE / "Corefile").write_text(f"""\
cluster.local:53 {{
    bind {NODE_ADDRESS}
    kubernetes cluster.local {{
        kubeconfig {_kubeconfig("coredns")}
        ttl 5
    }}
    cache 5
}}
.:53 {{
    bind {NODE_ADDRESS}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
""")


def _node_is_ready() -> bool:
    status = kubectl(
        "get",
        "node",
        NODE,
        "--ignore-not-found",
        "--output=jsonpath={.status.conditions[?(@.type=='Ready')].status}",
        check=False,
    )
    return status == "True"


VOLUMES, VOLUME_SIZE = 16, "100Gi"


def _volumes() -> None:
    """PersistentVolumes that are folders of this machine, without a size limit."""
    manifests: list[dict[str, object]] = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "folder", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
    ]
    node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    for number in range(VOLUMES):
        folder = STATE / "volumes" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        manifests.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"folder-{number}"},
                "spec": {
                    "capacity": {"storage": VOLUME_SIZE},
                    "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": "folder",
                    "local": {"path": str(folder)},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [node]}]}},
                },
            }
        )
    apply(manifests)


# --- taking it down ------------------------------------------------------------------------------------------------


def down() -> None:
    """Kill every process and pod, and remove every cgroup, device and file of the sandbox.

    Nothing is stopped gracefully: whatever it would save is removed anyway.
    """
    if not STATE.exists():
        return  # a network namespace of that name belongs to another checkout
    if os.geteuid() != 0:
        raise Failure("The sandbox belongs to root: sudo make cluster-down")
    # The kubelet first, which would restart pods; containerd last, which records their exits.
    _kill(each for each in _processes() if not each.info["name"].startswith("containerd"))
    shims = [each for each in _processes() if each.info["name"].startswith("containerd-shim")]
    _kill(child for shim in shims for child in _children(shim))
    if running("containerd"):
        _remove_container_records()
    _kill(_processes())
    run("ip", "link", "delete", HOST_DEVICE, check=False)
    run("ip", "netns", "delete", NAMESPACE, check=False)
    _control_groups()
    if (remembered := STATE / "kernel.json").exists():
        for name, value in json.loads(remembered.read_text()).items():
            Path(f"/proc/sys/{name}").write_text(value)
    if not any(Path("/run/netns").glob("*")):
        run("umount", "/run/netns", check=False)  # `ip netns` mounted it
    for folder in HIDDEN:
        with contextlib.suppress(OSError):  # missing, or in use
            Path(folder).rmdir()
    shutil.rmtree(STATE)


def _processes() -> list[psutil.Process]:
    """All processes in the network namespace, recorded or not. Pods have their own namespaces."""
    file = Path(f"/run/netns/{NAMESPACE}")
    return [each for each in psutil.process_iter(["name"]) if file.exists() and _is_in(each, file)]


def _is_in(process: psutil.Process, namespace: Path) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process.pid}/ns/net").samefile(namespace)
    return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _kill(processes: Iterable[psutil.Process]) -> None:
    killed = list(processes)
    for process in killed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(killed, timeout=STOP_LIMIT_SECONDS)
    if alive:
        raise Failure(
            f"Nothing was removed; these processes survived SIGKILL: {', '.join(str(each.pid) for each in alive)}."
        )


def _remove_container_records() -> None:
    """Remove containers of an earlier sandbox from containerd, whose folder is kept. None of them is running."""
    deadline = time.monotonic() + STOP_LIMIT_SECONDS
    while containers := ctr("containers", "list", "--quiet").split():
        if time.monotonic() > deadline:
            raise Failure(f"containerd does not remove {', '.join(containers)}: see {LOGS}/containerd.log.")
        ctr("containers", "remove", *containers, check=False)  # fails until it has recorded their exit


def _control_groups() -> None:
    """The kubelet's cgroups, in each hierarchy, deepest first."""
    root = Path("/sys/fs/cgroup")
    for top in (root / "kubepods", *root.glob("*/kubepods")):
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
