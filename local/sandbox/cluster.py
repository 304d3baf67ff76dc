"""The sandbox: the whole platform on a real Kubernetes on this machine, deployed by Argo CD. `make cluster-up`.

Pulumi's stack `sandbox` and git define its contents; this module only adds what a cloud would provide: the node, and a
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
"""As in pulumi/Pulumi.sandbox.yaml: the gateway's node port, which only this machine can reach."""
GIT_NAMESPACE, GIT_PORT, BRANCH = "kinora-sandbox", 30081, "main"
GIT_IMAGE = "localhost/kinora-sandbox/git"
LIMIT_SECONDS = 600

console = Console(highlight=False, soft_wrap=True)


def kubernetes(kind: str, name: str, namespace: str, spec: dict[str, Any], *, version: str = "v1") -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": name}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


# --- what a cloud would provide -------------------------------------------------------------------------------------


REPOSITORY = f"http://push@{node.NODE_ADDRESS}:{GIT_PORT}/kinora.git"
"""Where this machine pushes to; for pods it is `repository.url` of the stack."""
CREDENTIALS = node.STATE / "git-credentials"
"""The file of git's credential helper `store`."""


def git(*arguments: str, **variables: str) -> str:
    """Run git in this checkout, with credentials to push to the sandbox."""
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
        "volumeMounts": [{"name": "repositories", "mountPath": "/repositories"}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - private to the pod
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
    """Force-push this checkout's HEAD. Returns the commit.

    ``uncommitted``: push all files that are not ignored, as a commit that exists only in the sandbox.
    """
    wait(
        lambda: httpx.get(f"{REPOSITORY}/info/refs?service=git-upload-pack").is_success,
        what="the git server",
    )
    if not uncommitted and git("status", "--porcelain"):
        console.print("Uncommitted changes are not pushed to the sandbox (UNCOMMITTED=1 includes them).")
    if uncommitted:
        commit = _detached_commit(_tree_of_files(), "Uncommitted changes")
    elif _is_shallow():
        commit = _detached_commit("HEAD^{tree}", "A shallow clone")
    else:
        commit = git("rev-parse", "HEAD").strip()
    git("push", "--quiet", "--force", REPOSITORY, f"{commit}:refs/heads/{BRANCH}")
    return commit


def _is_shallow() -> bool:
    return git("rev-parse", "--is-shallow-repository").strip() == "true"


def _tree_of_files() -> str:
    """A tree of the files as they are, committed or not; the index is not touched."""
    index = node.STATE / "index"
    index.unlink(missing_ok=True)
    git("read-tree", "HEAD", GIT_INDEX_FILE=str(index))
    git("add", "--all", GIT_INDEX_FILE=str(index))
    return git("write-tree", GIT_INDEX_FILE=str(index)).strip()


def _detached_commit(tree: str, message: str) -> str:
    """A commit that is on no branch. In a shallow clone it has no parent, because nobody could fetch a partial
    history."""
    parent = () if _is_shallow() else ("-p", "HEAD")
    name = {"GIT_AUTHOR_NAME": "sandbox", "GIT_COMMITTER_NAME": "sandbox"}
    mail = {"GIT_AUTHOR_EMAIL": "sandbox@localhost", "GIT_COMMITTER_EMAIL": "sandbox@localhost"}
    return git("commit-tree", *parent, "-m", message, tree, **name, **mail).strip()


# --- Pulumi's objects -----------------------------------------------------------------------------------------------

NEEDED_BY_OTHERS = ("ConfigMap", "Role", "RoleBinding", "Secret", "ServiceAccount")


def stack(*options: str) -> str:
    """The output of objects.py."""
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
        raise Failure(f"The stack {STACK} could not be created:\n{done.stderr[-2000:]}")
    return done.stdout


def uses_pulumi() -> bool:
    """Whether the Pulumi CLI manages the environment. That does not change once it is created: the passwords differ."""
    return (node.STATE / "pulumi").exists() or (
        shutil.which("pulumi") is not None and not (node.STATE / "secrets.json").exists()
    )


def rendered(*options: str) -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = json.loads(stack(*options))["items"]
    return objects


def apply(objects: list[dict[str, Any]]) -> None:
    """Apply the stack's objects, in the order that `pulumi up` would derive, and delete its earlier jobs."""
    definitions = [each for each in objects if each["kind"] in ("CustomResourceDefinition", "Namespace")]
    node.apply(definitions)
    # Retried: kubectl fails on a definition that has no conditions yet.
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
        if name not in named and "ownerReferences" not in job["metadata"]:  # a CronJob's jobs have them
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
            last = f" Last error: {error}"
        time.sleep(0.5)
    raise Failure(f"Waited {seconds:.0f} s for {what}.{last}\n{diagnosis()}")


def listed(kind: str, namespace: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(kubectl("get", kind, f"--namespace={namespace}", "--output=json"))["items"]
    return items


def unready(namespace: str) -> list[str]:
    """The pods of a namespace that are neither ready nor completed, and incomplete jobs. Jobs of a CronJob are ignored:
    the next one does the same."""
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
    """Each application of Argo CD -> sync status, health and commit."""
    found = {}
    for each in listed("applications", GITOPS):
        status = each.get("status", {})
        sync, health = status.get("sync", {}), status.get("health", {})
        states = sync.get("status", "Unknown"), health.get("status", "Unknown"), sync.get("revision", "no commit")
        found[each["metadata"]["name"]] = " ".join(states)
    return found


def diagnosis() -> str:
    """The last warnings of Kubernetes, and the conditions of Argo CD's applications."""
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
        objects = None if uses_pulumi() else beside.submit(rendered)
        for component in node.up():
            say(f"{component} up")
        for words in images.import_missing():
            say(words)
        git_server()
        if objects is not None:
            apply(objects.result())
    if objects is None:
        say("pulumi up, which waits for all its resources (about 2 min)")
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
    """Wait until all applications are synced to the commit and healthy; yields a sentence for each."""
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
            raise Failure(f"Not rolled out after {LIMIT_SECONDS} s: {', '.join(waiting)}.\n{diagnosis()}")
        time.sleep(0.5)


def expected(commit: str) -> set[str]:
    """The applications of a commit: the services that have a folder for the sandbox, and the shared ones."""
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
  make cluster-push                        rolls out your commits
  make cluster-down                        stops it and removes everything"""


def status() -> None:
    if node.running("kube-apiserver") is None:
        console.print("The sandbox is down.")
        return
    for name, state in sorted(applications().items()):
        console.print(f"{name:12} {state}")
    for namespace in (STORES, GATEWAY, GITOPS, MONITORING, APPS):
        console.print(f"{namespace}: {', '.join(unready(namespace)) or 'all ready'}")


def roll_out(*, uncommitted: bool = False) -> None:
    """Import the images that the node lacks, then push."""
    if node.running("containerd") is None:
        raise Failure("The sandbox is down: make cluster-up")
    for words in images.import_missing():
        console.print(words)
    push(uncommitted=uncommitted)


def down() -> None:
    node.down()
    console.print("The sandbox is down, and everything is removed.")


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
    parser.add_argument("--uncommitted", action="store_true", help="include uncommitted changes in the push")
    arguments = parser.parse_args()
    node.without_proxy()
    try:
        with sigterm_interrupts():
            verbs[arguments.verb]()
    except Failure as failure:
        console.print(str(failure), markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped. `make cluster-up` continues from here; `make cluster-down` removes it.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
