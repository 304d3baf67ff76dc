"""Promote a service: copy its version from one environment to another. `make promote`.

It changes one file, apps/<app>/deploy/envs/<environment>/version.yaml, and pushes nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import charts


class Refused(Exception):
    """Says what to do instead."""


def version_file(root: Path, app: str, environment: str) -> Path:
    return root / "apps" / app / "deploy" / "envs" / environment / "version.yaml"


def promote(root: Path, app: str, source: str, target: str) -> str:
    """Promote in a checkout; returns what was done and the next steps.

    Raises:
        Refused: nothing was changed; the message says why.
    """
    stacks = {file.name.split(".")[1]: file for file in sorted((root / "pulumi").glob("Pulumi.*.yaml"))}
    apps = sorted(file.parents[1].name for file in root.glob("apps/*/deploy/values.yaml"))
    if not (app and source and target):
        raise Refused("Name the service and both environments: make promote SVC=auth FROM=dev TO=staging")
    if app not in apps:
        raise Refused(f"Unknown service {app}. Known: {', '.join(apps)}.")
    for environment in (source, target):
        if environment not in stacks:
            raise Refused(f"Unknown environment {environment}. Known: {', '.join(stacks)}.")
    if source == target:
        raise Refused(f"FROM and TO are both {source}.")
    given, taken = version_file(root, app, source), version_file(root, app, target)
    if not given.exists():
        raise Refused(f"{app} is not in {source}: no {given.relative_to(root)}.")
    if _git(root, "status", "--porcelain", "--", str(given)):
        raise Refused(
            f"{given.relative_to(root)} is not committed, so this version has not run in {source} yet: push it first."
        )
    new = _version(given)
    old = _version(taken) if taken.exists() else None
    if new == old:
        raise Refused(f"{app} {new} is already in {target}.")
    taken.parent.mkdir(parents=True, exist_ok=True)
    taken.write_bytes(given.read_bytes())
    branch = _stack(stacks[target])["repository"].get("revision", "main")
    return (
        f"{target}: {app} {f'{old} -> {new}' if old else f'{new}, for the first time'}\n"
        f"Changed: {taken.relative_to(root)}, and nothing else. `make diff ENV={target}` shows the effect.\n"
        f"Commit it and push it to {branch}, which Argo CD of {target} follows. Within half a minute it runs the"
        f" migrations of {new}, if there are any, and then replaces the pods one by one; a pod that does not"
        " become ready receives no requests and stops the rollout. To roll back, revert the commit: migrations stay,"
        " and the old version works with them."
    )


def _version(file: Path) -> str:
    try:
        return str(yaml.load(file.read_text(), yaml.BaseLoader)["version"])  # noqa: S506 - strings only: not the number 1.1
    except (KeyError, TypeError, yaml.YAMLError):
        raise Refused(f"{file} must contain one line, such as `version: 0.1.0`.") from None


def _stack(file: Path) -> dict[str, Any]:
    stack: dict[str, Any] = yaml.safe_load(file.read_text())["config"]["kinora:environment"]
    return stack


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="promote", description=__doc__)
    for name in ("app", "source", "target"):
        parser.add_argument(name)
    given = parser.parse_args()
    try:
        print(promote(charts.ROOT, given.app, given.source, given.target))
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
