"""The sandbox for its tests: kubectl, the repository that Argo CD follows, and waiting for conditions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ENVIRONMENT = "sandbox"
APPS, GITOPS, STORES = (f"kinora-{ENVIRONMENT}-{role}" for role in ("apps", "gitops", "stores"))
# Longer than anything takes on a slow and busy machine; only failing tests wait this long.
PATIENCE_SECONDS = 240


@dataclass(frozen=True)
class Cluster:
    """``clone``: the tests' own clone of the repository in the cluster; its pushes are deployed."""

    gateway: str
    kubectl_command: Sequence[str]
    clone: Path

    # --- objects ------------------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str, timeout: float = 60) -> str:
        """The output of kubectl. Raises CalledProcessError, with its error output, if it fails."""
        done = subprocess.run(
            [*self.kubectl_command, *arguments], capture_output=True, text=True, check=False, timeout=timeout
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, arguments, done.stdout, done.stderr)
        return done.stdout

    def get(self, kind: str, name: str, namespace: str = APPS) -> dict[str, Any] | None:
        """An object, or None."""
        found = self.kubectl("get", kind, name, "--namespace", namespace, "--output=json", "--ignore-not-found")
        return json.loads(found) if found else None

    def all(self, kind: str, namespace: str = APPS, selector: str = "") -> list[dict[str, Any]]:
        found = self.kubectl("get", kind, "--namespace", namespace, "--output=json", f"--selector={selector}")
        items: list[dict[str, Any]] = json.loads(found)["items"]
        return items

    def deployments(self) -> list[str]:
        return [each["metadata"]["name"] for each in self.all("deployment")]

    def pods(self, workload: str) -> list[dict[str, Any]]:
        """The pods that are not terminating."""
        found = self.all("pod", selector=f"app.kubernetes.io/name={workload}")
        return [
            pod
            for pod in found
            if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] in ("Pending", "Running")
        ]

    def images(self, workload: str) -> set[str]:
        """The versions of the workload's ready pods."""
        return {
            container["image"].rpartition(":")[2]
            for pod in self.pods(workload)
            if is_ready(pod)
            for container in pod["spec"]["containers"]
        }

    def is_rolled_out(self, workload: str) -> bool:
        """Whether all desired pods are updated and ready, and there are no others."""
        deployment = self.get("deployment", workload)
        if deployment is None:
            return False
        wanted, status = deployment["spec"]["replicas"], deployment["status"]
        return bool(
            status.get("observedGeneration") == deployment["metadata"]["generation"]
            and status.get("updatedReplicas") == wanted
            and status.get("readyReplicas") == wanted
            and status.get("replicas") == wanted
        )

    def run_in(self, workload: str, program: str) -> str:
        """The output of a Python program, run in a pod of a workload."""
        return self.kubectl("exec", f"deployment/{workload}", "--namespace", APPS, "--", "python", "-c", program)

    # --- git ----------------------------------------------------------------------------------------------------------

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", self.clone, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, arguments, done.stdout, done.stderr)
        return done.stdout.strip()

    def push(self, message: str) -> str:
        """Commit all changes in the clone and push them; returns the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")
        self.git("push", "--quiet", "origin", "HEAD")
        return self.head()

    @contextlib.contextmanager
    def pushed(self, files: Mapping[str, str | None], message: str) -> Iterator[str]:
        """Push these files (None: deleted) for the duration of the block; then push a revert."""
        for name, text in files.items():
            file = self.clone / name
            if text is None:
                file.unlink()
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        commit = self.push(message)
        try:
            yield commit
        finally:
            self.git("revert", "--no-edit", commit)
            self.git("push", "--quiet", "origin", "HEAD")

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def apps(self) -> list[str]:
        """The apps that git deploys to the sandbox."""
        return sorted(folder.parts[-4] for folder in self.clone.glob(f"apps/*/deploy/envs/{ENVIRONMENT}"))

    def workloads(self, app: str) -> list[str]:
        given = yaml.safe_load((self.clone / f"apps/{app}/deploy/values.yaml").read_text())
        return list(given["workloads"])

    def version(self, app: str) -> str:
        """The version in git."""
        given = yaml.safe_load((self.clone / version_file(app)).read_text())
        return str(given["version"])

    # --- Argo CD ------------------------------------------------------------------------------------------------------

    def application(self, app: str) -> dict[str, Any]:
        """The status of an app's application."""
        found = self.get("application", app, GITOPS)
        return {} if found is None else found.get("status", {})

    def is_synced(self, app: str, commit: str) -> bool:
        """Whether the application is synced to the commit and healthy."""
        status = self.application(app)
        sync = status.get("sync", {})
        return bool(
            sync.get("status") == "Synced"
            and commit in (sync.get("revision"), *sync.get("revisions", []))
            and status.get("health", {}).get("status") == "Healthy"
        )


def version_file(app: str) -> str:
    return f"apps/{app}/deploy/envs/{ENVIRONMENT}/version.yaml"


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


async def until(
    condition: Callable[[], bool | Awaitable[bool]], *, what: str, seconds: float = PATIENCE_SECONDS
) -> float:
    """Wait for a condition; returns the seconds that it took. On timeout, fails with ``what`` was awaited."""
    started = time.monotonic()
    last: Exception | None = None
    while time.monotonic() < started + seconds:
        try:
            met = await asyncio.to_thread(condition)
            if met is True or (not isinstance(met, bool) and await met):
                return time.monotonic() - started
        except (OSError, subprocess.SubprocessError) as error:  # such as a busy API server
            last = error
        await asyncio.sleep(0.5)
    pytest.fail(f"waited {seconds:.0f} s for {what}" + (f"; the last error was {last}" if last else ""))
