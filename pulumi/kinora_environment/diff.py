"""The effect of a change on all environments: `python -m kinora_environment.diff [STACK] [--from REF] [--to REF]`.

First a summary, one line per environment, then every changed field. Covers changes by `pulumi up` and by Argo CD. Each
side is rendered by its own version of the program, from git; without --to, the second side is the working tree.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from kinora_environment.render import PROJECT, identity

ROOT = PROJECT.parent
Objects = Mapping[tuple[str, str, str], Mapping[str, Any]]

DEPLOYED_ONLY = re.compile(r"apps/[^/]+/(?!deploy/needs\.yaml$)|argocd/|charts/|docs/|istio/|platform/|tests/")
"""Files that the program does not read."""


class NotRendered(Exception):
    pass


def objects_of(folder: Path) -> Objects:
    # The C loader: definitions of custom resources take the Python loader 8 s.
    manifests = [yaml.load(file.read_text(), yaml.CSafeLoader) for file in sorted(folder.rglob("*.yaml"))]
    return {identity(manifest): manifest for manifest in manifests}


def render_tree(tree: Path, stack: str, folder: Path) -> Objects:
    """The objects of a stack as rendered by the program in a checkout; empty if it has no such stack."""
    if not (tree / "pulumi" / f"Pulumi.{stack}.yaml").exists():
        return {}
    run = subprocess.run(
        [sys.executable, "-m", "kinora_environment.render", stack, str(folder)],
        cwd=tree / "pulumi",
        env={**os.environ, "PYTHONPATH": str(tree / "pulumi")},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        raise NotRendered(run.stderr.strip())
    return objects_of(folder)


def deployed_tree(tree: Path, stack: str) -> Mapping[str, Objects]:
    """What Argo CD deploys in a stack, by application, as rendered by the charts in a checkout."""
    program = tree / "local" / "charts.py"
    if not (tree / "pulumi" / f"Pulumi.{stack}.yaml").exists() or not program.exists():
        return {}
    run = subprocess.run([sys.executable, str(program), stack], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise NotRendered(f"{stack}: {run.stderr.strip()}")
    if not run.stdout:  # a commit before charts.py had this output
        raise NotRendered("Deployed objects cannot be compared with a commit that old: use a later one.")
    applications = json.loads(run.stdout)
    return {name: {identity(each): each for each in objects} for name, objects in applications.items()}


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    tree = folder / "tree"
    _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
    try:
        made = ROOT / ".kinora"
        if made.exists():  # upstream files are the same for all commits
            (tree / ".kinora").symlink_to(made)
        yield tree
    finally:
        _git("worktree", "remove", "--force", str(tree))


def changed_files(before: str, after: str | None) -> list[str]:
    files = _git("diff", "--name-only", before, *([after] if after else [])).splitlines()
    return files if after else files + _git("ls-files", "--others", "--exclude-standard").splitlines()


def _git(*words: str) -> str:
    run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise NotRendered(run.stderr.strip())
    return run.stdout.strip()


def changes(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every difference between two values: path, old, new. None means absent."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            yield from changes(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(before, list) and isinstance(after, list):
        yield from changes(_by_name(before), _by_name(after), path)
    elif before != after:
        yield path, before, after


def _by_name(values: list[Any]) -> Mapping[str, Any]:
    """A list of named items by name, so that adding one is one change."""
    if values and all(isinstance(each, Mapping) and "name" in each for each in values):
        return {str(each["name"]): each for each in values}
    return {str(index): each for index, each in enumerate(values)}


def report(before: Objects, after: Objects) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        namespace, kind, name = key
        shown = f"{kind.split('.')[0]} {name}" + (f" in {namespace}" if namespace else "")
        if key not in before:
            yield f"[green]+ {shown}[/]"
        elif key not in after:
            yield f"[red]- {shown}[/]"
        elif before[key] != after[key]:
            yield f"[yellow]~ {shown}[/]"
            yield from (
                f"    {path}: {_short(old)} -> {_short(new)}" for path, old, new in changes(before[key], after[key])
            )


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = str(value).replace("[", "\\[")
    return text if len(text) <= 100 else f"{text[:97]}..."


# --- summary ---------------------------------------------------------------------------------------------------------


def sentences(before: Mapping[str, Objects], after: Mapping[str, Objects]) -> Iterator[str]:
    """The changes to an environment's applications, in words."""
    for app in sorted(before.keys() | after.keys()):
        old, new = before.get(app, {}), after.get(app, {})
        versions = version(old), version(new)
        if not old or not new:
            if old or new:
                yield (
                    f"{app} is removed, with all its objects"
                    if old
                    else f"{app} {versions[1]} is new".replace(" None", "")
                )
            continue
        if versions[0] != versions[1]:
            yield f"{app} {versions[0]} -> {versions[1]}"
        for key in sorted(old.keys() | new.keys()):
            yield from _of_object(key, old.get(key), new.get(key), versions)


def version(objects: Objects) -> str | None:
    """The version of our images; all images of an application have the same one."""
    for (_, kind, _), each in sorted(objects.items()):
        if kind == "Deployment.apps":
            for container in each["spec"]["template"]["spec"]["containers"]:
                if "/kinora-" in container["image"]:
                    return str(container["image"].rpartition(":")[2])
    return None


def _of_object(
    key: tuple[str, str, str],
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any] | None,
    versions: tuple[str | None, str | None],
) -> Iterator[str]:
    _, kind, name = key
    kind = kind.split(".")[0]
    if old is None or new is None:
        yield f"{name} {'gets' if old is None else 'loses'} its {kind}"
        return
    rest = False
    for path, was, becomes in changes(old, new):
        if path.endswith(".image") and [str(each).rpartition(":")[2] for each in (was, becomes)] == list(versions):
            continue
        said = _said(kind, path)
        rest = rest or said is None
        if said is not None:
            yield f"{name} {said} {_short(_value(was))} -> {_short(_value(becomes))}"
    if rest:
        yield f"{name}: other changes to its {kind}"


_SAID = (
    (r"Deployment:.*\.resources\.(?P<which>limits|requests)\.(?P<what>[\w-]+)", "{what} {which}"),
    (r"Deployment:.*\.containers\.[^.]+\.env\.(?P<what>\w+)(\.value)?", "{what}"),
    (r"Deployment:.*\.containers\.[^.]+\.(?P<what>image)", "{what}"),
    (r"Deployment:spec\.(?P<what>replicas)", "{what}"),
    (r"HorizontalPodAutoscaler:spec\.min(?P<what>Replicas)", "at least"),
    (r"HorizontalPodAutoscaler:spec\.max(?P<what>Replicas)", "at most"),
    (r"ScaledObject:spec\.min(?P<what>ReplicaCount)", "at least"),
    (r"ScaledObject:spec\.max(?P<what>ReplicaCount)", "at most"),
)
"""Fields whose changes are listed with values, and their names in the summary; others only by object."""


def _said(kind: str, path: str) -> str | None:
    for pattern, words in _SAID:
        if match := re.fullmatch(pattern, f"{kind}:{path}"):
            said = words.format(**match.groupdict())
            return said.replace(" limits", " limit").replace(" requests", " request")
    return None


def _value(value: Any) -> Any:
    return value.get("value") if isinstance(value, Mapping) else value


def _of_environment(before: Objects, after: Objects) -> list[str]:
    """The names of some of the objects that Pulumi would change."""
    names = [
        f"{key[1].split('.')[0]} {key[2]}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    more = [f"and {len(names) - 3} more"] if len(names) > 4 else []
    return [f"`pulumi up` for {', '.join([*names[: 3 if more else 4], *more])}"] if names else []


def main() -> None:
    parser = argparse.ArgumentParser(prog="diff", description=__doc__)
    parser.add_argument("stack", nargs="?")
    parser.add_argument("--from", dest="before", default="HEAD", metavar="REF")
    parser.add_argument("--to", dest="after", metavar="REF")
    arguments = parser.parse_args()
    try:
        run(arguments.stack, arguments.before, arguments.after)
    except NotRendered as error:
        sys.exit(str(error))


def run(only: str | None, before: str, after: str | None) -> None:
    """Print the summary of all environments, and then every changed field.

    Raises:
        NotRendered: with the error message of one of the programs.
    """
    console = Console(highlight=False, soft_wrap=True)
    for ref in (before, after):
        if ref is not None:
            try:
                _git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
            except NotRendered:
                raise NotRendered(f"There is no commit {ref}: name a branch, a tag or a commit.") from None
    with ExitStack() as stack, tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "from").mkdir()
        (folder / "to").mkdir()
        trees = (
            stack.enter_context(checkout(before, folder / "from")),
            stack.enter_context(checkout(after, folder / "to")) if after else ROOT,
        )
        stacks = sorted({file.name.split(".")[1] for tree in trees for file in tree.glob("pulumi/Pulumi.*.yaml")})
        if only is not None and only not in stacks:
            raise NotRendered(f"Stack {only} exists on neither side. Known: {', '.join(stacks)}.")
        # Rendering is slow.
        files = changed_files(before, after)
        environment = any(not DEPLOYED_ONLY.match(file) for file in files)
        details: list[str] = []
        for name in [only] if only else stacks:
            old, new = (deployed_tree(tree, name) for tree in trees) if files else ({}, {})
            made_old, made_new = (
                (
                    render_tree(tree, name, folder / side / name)
                    for side, tree in zip(("from", "to"), trees, strict=True)
                )
                if environment
                else ({}, {})
            )
            said = [*sentences(old, new), *_of_environment(made_old, made_new)]
            console.print(f"[bold]{name}[/]: {'; '.join(said).replace('[', chr(92) + '[') or 'nothing changes'}")
            everything = [{**pulumi, **_merged(argo)} for pulumi, argo in ((made_old, old), (made_new, new))]
            lines = list(report(*everything))
            counts = [sum(line.startswith(f"[{colour}]") for line in lines) for colour in ("green", "yellow", "red")]
            if lines:
                total = "{} objects added, {} changed, {} removed.".format(*counts)
                details += ["", f"[bold]{name}[/]: {total}", *lines]
        for line in details:
            console.print(line)


def _merged(applications: Mapping[str, Objects]) -> Objects:
    return {key: each for objects in applications.values() for key, each in objects.items()}


if __name__ == "__main__":
    main()
