"""What a change would change in an environment: `python -m kinora_environment.diff STACK [--from REF] [--to REF]`.

Both sides are rendered by their own program, from git; without --to, the second side is the working tree.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from kinora_environment.render import PROJECT, identity

ROOT = PROJECT.parent
Objects = Mapping[tuple[str, str, str], Mapping[str, Any]]


class NotRendered(Exception):
    pass


def objects_of(folder: Path) -> Objects:
    manifests = [yaml.safe_load(file.read_text()) for file in sorted(folder.rglob("*.yaml"))]
    return {identity(manifest): manifest for manifest in manifests}


def render_tree(tree: Path, stack: str, folder: Path) -> Objects:
    """The objects of a stack as the program in a checkout renders them; none where it has no such stack."""
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


def render_commit(commit: str, stack: str, folder: Path) -> Objects:
    tree = folder / "tree"
    _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
    try:
        made = ROOT / ".kinora"
        if made.exists():  # what other projects publish is the same for all commits
            (tree / ".kinora").symlink_to(made)
        return render_tree(tree, stack, folder / "objects")
    finally:
        _git("worktree", "remove", "--force", str(tree))


def _git(*words: str) -> str:
    run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise NotRendered(run.stderr.strip())
    return run.stdout.strip()


def changes(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every place where two values differ: path, what stood there, what stands there. None is nothing."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            yield from changes(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(before, list) and isinstance(after, list):
        yield from changes(_by_name(before), _by_name(after), path)
    elif before != after:
        yield path, before, after


def _by_name(values: list[Any]) -> Mapping[str, Any]:
    """A list of named things by name, so that one more among them is one change."""
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="diff", description=__doc__)
    parser.add_argument("stack")
    parser.add_argument("--from", dest="before", default="HEAD", metavar="REF")
    parser.add_argument("--to", dest="after", metavar="REF")
    arguments = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        try:
            before = render_commit(arguments.before, arguments.stack, Path(one))
            after = (
                render_commit(arguments.after, arguments.stack, Path(other))
                if arguments.after
                else render_tree(ROOT, arguments.stack, Path(other))
            )
        except NotRendered as error:
            sys.exit(str(error))
    if not before and not after:
        sys.exit(f"There is no stack {arguments.stack} on either side.")
    lines = list(report(before, after))
    for line in lines or ["Nothing changes."]:
        console.print(line)
    counts = [sum(line.startswith(f"[{colour}]") for line in lines) for colour in ("green", "yellow", "red")]
    console.print("\n{} objects more, {} changed, {} fewer.".format(*counts))


if __name__ == "__main__":
    main()
