"""The sandbox: the whole platform on a real Kubernetes on this machine, as Argo CD rolls it out. `make cluster-up`.

What is in it is Pulumi's stack `sandbox` and what git says; made here is only what a cloud would have: the node, and a
git server that holds this repository.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import images
import node
from apiserver import sigterm_interrupts, write_private
from environment import MADE, ROOT
from node import Failure, kubectl
from rich.console import Console

STACK = "sandbox"
APPS, GATEWAY, GITOPS, MONITORING, STORES = (
    f"kinora-{STACK}-{role}" for role in ("apps", "gateway", "gitops", "monitoring", "stores")
)
PUBLIC_URL = f"http://{node.NODE_ADDRESS}:30080"
"""As pulumi/Pulumi.sandbox.yaml says: the gateway's port of the node, which this machine alone can reach."""
GIT_NAMESPACE, GIT_PORT, BRANCH = "kinora-sandbox", 30081, "main"
GIT_IMAGE = "localhost/kinora-sandbox/git"
LIMIT_SECONDS = 600

console = Console(highlight=False)


def kubernetes(kind: str, name: str, namespace: str, spec: dict[str, Any], *, version: str = "v1") -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": name}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


# --- what a cloud would have ----------------------------------------------------------------------------------------


REPOSITORY = f"http://push@{node.NODE_ADDRESS}:{GIT_PORT}/kinora.git"
"""Where this machine pushes to; the pods know it as `repository.url` of the stack."""
CREDENTIALS = node.STATE / "git-credentials"
"""A file of git's credential helper `store`."""


def git(*arguments: str, **variables: str) -> str:
    """Run git in this checkout, as one that may push to the sandbox."""
    options = ("-C", str(ROOT), "-c", f"credential.helper=store --file={CREDENTIALS}")
    return node.run("env", *(f"{name}={value}" for name, value in variables.items()), "git", *options, *arguments)


def git_server() -> None:
    if not CREDENTIALS.exists():
        write_private(CREDENTIALS, f"http://push:{secrets.token_urlsafe()}@{node.NODE_ADDRESS}:{GIT_PORT}\n")
    password = urlsplit(CREDENTIALS.read_text().strip()).password
    (image,) = (name for name in images.references() if name.startswith(f"{GIT_IMAGE}:"))
    selector = {"app.kubernetes.io/name": "git"}
    container = {
        "name": "git",
        "image": image,
        "env": [{"name": "PUSH_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "git", "key": "password"}}}],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 2},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "repositories", "mountPath": "/repositories"}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - of the pod alone
    }
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "repositories", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
    }
    port = {"name": "http", "port": 80, "targetPort": "http", "nodePort": GIT_PORT}
    node.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": GIT_NAMESPACE}}])
    node.apply(
        [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "git", "namespace": GIT_NAMESPACE},
                "stringData": {"password": password},
            },
            kubernetes("Service", "git", GIT_NAMESPACE, {"type": "NodePort", "selector": selector, "ports": [port]}),
            kubernetes(
                "Deployment",
                "git",
                GIT_NAMESPACE,
                {
                    "selector": {"matchLabels": selector},
                    "strategy": {"type": "Recreate"},
                    "template": {"metadata": {"labels": selector}, "spec": pod},
                },
                version="apps/v1",
            ),
        ]
    )


def push(*, uncommitted: bool = False) -> str:
    """Push what is committed here, over whatever was pushed before: this checkout is the truth. The commit.

    ``uncommitted``: as a commit that only the sandbox gets, all that is not ignored.
    """
    wait(
        lambda: httpx.get(f"{REPOSITORY}/info/refs?service=git-upload-pack").is_success,
        what="the git server",
    )
    if not uncommitted and git("status", "--porcelain"):
        console.print(
            "There are changes here that are not committed: the sandbox runs without them (UNCOMMITTED=1 with)."
        )
    if uncommitted:
        commit = _commit_of_its_own(_tree_of_files(), "What is not committed yet")
    elif _is_shallow():
        commit = _commit_of_its_own("HEAD^{tree}", "What a shallow clone has")
    else:
        commit = git("rev-parse", "HEAD").strip()
    git("push", "--quiet", "--force", REPOSITORY, f"{commit}:refs/heads/{BRANCH}")
    return commit


def _is_shallow() -> bool:
    return git("rev-parse", "--is-shallow-repository").strip() == "true"


def _tree_of_files() -> str:
    """The files as they are, whether committed or not; what is staged stays as it is."""
    index = node.STATE / "index"
    index.unlink(missing_ok=True)
    git("read-tree", "HEAD", GIT_INDEX_FILE=str(index))
    git("add", "--all", GIT_INDEX_FILE=str(index))
    return git("write-tree", GIT_INDEX_FILE=str(index)).strip()


def _commit_of_its_own(tree: str, message: str) -> str:
    """A commit that is on no branch; without a history where only a part of it is here, which nobody could fetch."""
    parent = () if _is_shallow() else ("-p", "HEAD")
    name = {"GIT_AUTHOR_NAME": "sandbox", "GIT_COMMITTER_NAME": "sandbox"}
    mail = {"GIT_AUTHOR_EMAIL": "sandbox@localhost", "GIT_COMMITTER_EMAIL": "sandbox@localhost"}
    return git("commit-tree", *parent, "-m", message, tree, **name, **mail).strip()


# --- what Pulumi makes ----------------------------------------------------------------------------------------------

NEEDED_BY_OTHERS = ("ConfigMap", "Role", "RoleBinding", "Secret", "ServiceAccount")


def stack(*options: str) -> str:
    """What objects.py prints."""
    path = os.pathsep.join([str(node.BIN), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [MADE / "pulumi" / "bin" / "python", ROOT / "local" / "sandbox" / "objects.py", node.STATE, *options],
        cwd=ROOT / "pulumi",
        env={"PYTHONPATH": str(ROOT / "pulumi"), "PATH": path, "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(f"The stack {STACK} could not be made:\n{done.stderr[-2000:]}")
    return done.stdout


def by_pulumi() -> bool:
    """Whether the Pulumi CLI makes the environment: as it was begun, since either way has passwords of its own."""
    return (node.STATE / "pulumi").exists() or (
        shutil.which("pulumi") is not None and not (node.STATE / "secrets.json").exists()
    )


def rendered(*options: str) -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = json.loads(stack(*options))["items"]
    return objects


def apply(objects: list[dict[str, Any]]) -> None:
    """Apply the objects of the stack, in the order that `pulumi up` would find by itself, and end jobs of before."""
    definitions = [each for each in objects if each["kind"] in ("CustomResourceDefinition", "Namespace")]
    node.apply(definitions)
    # Again where it fails: kubectl takes a definition that has no conditions yet for a broken one.
    wait(
        lambda: bool(kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")),
        what="the custom resource definitions",
    )
    needed = [each for each in objects if each["kind"] in NEEDED_BY_OTHERS]
    node.apply(needed)
    node.apply([each for each in objects if each not in definitions and each not in needed])
    named = {each["metadata"]["name"] for each in objects if each["kind"] == "Job"}
    for job in listed("jobs", STORES):
        name = job["metadata"]["name"]
        if name not in named and "ownerReferences" not in job["metadata"]:  # as those of a CronJob have
            kubectl("delete", "job", name, f"--namespace={STORES}", "--ignore-not-found")


# --- waiting --------------------------------------------------------------------------------------------------------


def wait(condition: Callable[[], bool], *, what: str, seconds: float = LIMIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    last = ""
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (Failure, httpx.HTTPError) as error:
            last = f" The last thing that was said: {error}"
        time.sleep(0.5)
    raise Failure(f"Waited {seconds:.0f} s for {what}.{last}\n{complaints()}")


def listed(kind: str, namespace: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(kubectl("get", kind, f"--namespace={namespace}", "--output=json"))["items"]
    return items


def unready(namespace: str) -> list[str]:
    """The pods of a namespace that are neither ready nor done, and jobs that are not complete. One that a CronJob made
    is not waited for: the next one does the same."""
    waiting = []
    for pod in listed("pods", namespace):
        conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
        if conditions.get("Ready") != "True" and pod["status"]["phase"] not in ("Succeeded", "Failed"):
            waiting.append(pod["metadata"]["name"])
    waiting += [
        job["metadata"]["name"]
        for job in listed("jobs", namespace)
        if not job["status"].get("succeeded") and "ownerReferences" not in job["metadata"]
    ]
    return waiting


def applications() -> dict[str, str]:
    """Each application of Argo CD -> how it is, and of which commit."""
    found = {}
    for each in listed("applications", GITOPS):
        status = each.get("status", {})
        sync, health = status.get("sync", {}), status.get("health", {})
        states = sync.get("status", "Unknown"), health.get("status", "Unknown"), sync.get("revision", "of no commit")
        found[each["metadata"]["name"]] = " ".join(states)
    return found


def complaints() -> str:
    """What Kubernetes warned of last, and what Argo CD says: where to look first."""
    events = kubectl("get", "events", "--all-namespaces", "--field-selector=type=Warning", check=False).splitlines()
    wrong = [
        f"{each['metadata']['name']}: {condition['message']}"
        for each in listed("applications", GITOPS)
        for condition in each.get("status", {}).get("conditions", [])
    ]
    return "\n".join([*events[-10:], *wrong])[:4000]


# --- verbs ----------------------------------------------------------------------------------------------------------


def up(*, uncommitted: bool = False) -> None:
    began = time.monotonic()

    def say(words: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:4.0f} s[/dim]  {words}")

    node.STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ThreadPoolExecutor() as beside:
        objects = None if by_pulumi() else beside.submit(rendered)
        for stands in node.up():
            say(f"{stands} up")
        for words in images.bring():
            say(words)
        git_server()
        if objects is not None:
            apply(objects.result())
    if objects is None:
        say("pulumi up, which waits for all that it makes (about 2 min)")
        stack("--up")
    say("environment applied: waiting for its pods")
    commit = push(uncommitted=uncommitted)
    for namespace in (STORES, GATEWAY, MONITORING, GITOPS):
        wait(lambda namespace=namespace: not unready(namespace), what=f"the pods of {namespace}")  # type: ignore[misc]
        say(f"{namespace.rpartition('-')[2]} ready")
    for words in _rolled_out(commit):
        say(words)
    wait(lambda: httpx.get(f"{PUBLIC_URL}/auth/.well-known/jwks.json").is_success, what="the gateway to answer")
    console.print(addresses())


def _rolled_out(commit: str) -> Iterator[str]:
    """Wait until all applications are what a commit says, and healthy; a sentence for each that becomes so."""
    kubectl(
        *("annotate", "application", "--all", f"--namespace={GITOPS}"),
        *("argocd.argoproj.io/refresh=normal", "--overwrite"),
    )
    wanted = expected(commit)
    said: set[str] = set()
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        states = dict.fromkeys(wanted, "is missing") | applications()
        well = {name for name, state in states.items() if state == f"Synced Healthy {commit}"}
        for name in sorted(well - said):
            yield f"{name} rolled out"
        said |= well
        if well == wanted == states.keys():
            return
        if time.monotonic() > deadline:
            waiting = [f"{name} ({states[name]})" for name in sorted(states.keys() - (well & wanted))]
            raise Failure(f"Not rolled out after {LIMIT_SECONDS} s: {', '.join(waiting)}.\n{complaints()}")
        time.sleep(0.5)


def expected(commit: str) -> set[str]:
    """The applications that a commit leads to: the services that it names for the sandbox, and those beside them."""
    files = [Path(line) for line in git("ls-tree", "-r", "--name-only", commit, "apps").splitlines()]
    named = {file.parts[1] for file in files if file.match(f"apps/*/deploy/envs/{STACK}/*.yaml")}
    return {"root", "gateway"} | named


def addresses() -> str:
    kube = f"KUBECONFIG={node.KUBECONFIG.relative_to(ROOT)}"
    return f"""
Kinora is at {PUBLIC_URL} (GraphQL at /graphql); only this machine can reach it.
  make cluster-demo                        uploads a video and shows that it plays
  {kube} kubectl get pods -A
  Argo CD     {kube} kubectl -n {GITOPS} get applications
  Prometheus  {kube} kubectl -n {MONITORING} port-forward svc/prometheus 9090
  make cluster-push                        rolls out what you committed
  make cluster-down                        ends it, and leaves nothing"""


def status() -> None:
    if node.running("kube-apiserver") is None:
        console.print("The sandbox is down.")
        return
    for name, state in sorted(applications().items()):
        console.print(f"{name:12} {state}")
    for namespace in (STORES, GATEWAY, GITOPS, MONITORING, APPS):
        console.print(f"{namespace}: {', '.join(unready(namespace)) or 'all ready'}")


def roll_out(*, uncommitted: bool = False) -> None:
    """Push, and before it bring the images that the node does not have yet."""
    if node.running("containerd") is None:
        raise Failure("The sandbox is down: make cluster-up")
    for words in images.bring():
        console.print(words)
    push(uncommitted=uncommitted)


def down() -> None:
    node.down()
    console.print("The sandbox is down, and nothing of it is left.")


def main() -> int:
    verbs: dict[str, Callable[[], None]] = {
        "up": lambda: up(uncommitted=arguments.uncommitted),
        "down": down,
        "status": status,
        "url": lambda: print(PUBLIC_URL),
        "push": lambda: roll_out(uncommitted=arguments.uncommitted),
    }
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("--uncommitted", action="store_true", help="push what is not committed, too")
    arguments = parser.parse_args()
    node.without_proxy()
    try:
        with sigterm_interrupts():
            verbs[arguments.verb]()
    except Failure as failure:
        console.print(str(failure), markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped. `make cluster-up` goes on from here; `make cluster-down` takes it away.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
