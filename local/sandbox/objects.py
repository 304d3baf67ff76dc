"""The objects of Pulumi's stack `sandbox`: `objects.py FOLDER`, where FOLDER keeps the state between runs.

With `--up`, run a real `pulumi up` with the CLI on PATH; its state is in the folder. Without it, render the objects
like `make render` and print them as a List to apply; random secrets are generated here and kept in the folder, so that
a second run changes nothing.

Run by the environments' own Python (.kinora/pulumi).
"""

from __future__ import annotations

import argparse
import json
import secrets
import string
import sys
from pathlib import Path

import pulumi
from pulumi import automation

from kinora_environment import credentials, needs, render
from kinora_environment.environment import create

STACK = "sandbox"
LETTERS = string.ascii_letters + string.digits


def random_value() -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(credentials.LENGTH))


def write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def print_objects(folder: Path, project: Path) -> None:
    file = folder / "secrets.json"
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}

    def random(name: str) -> str:
        return known.setdefault(name, random_value())

    rendered = render.render(STACK, render.configuration(STACK, project), random=random)
    write_private(file, json.dumps(known))
    json.dump({"apiVersion": "v1", "kind": "List", "items": rendered.objects}, sys.stdout)


def up(folder: Path, project: Path) -> None:
    state, passphrase = folder / "pulumi", folder / "pulumi-passphrase"
    state.mkdir(exist_ok=True)
    if not passphrase.exists():
        write_private(passphrase, random_value())

    def program() -> None:
        for name, value in create(STACK, render.configuration(STACK, project), needs.read()).items():
            pulumi.export(name, value)

    # Not create_or_select: for a missing stack, the CLI complains about a login instead.
    choose = automation.select_stack if any(state.rglob(f"{STACK}.json")) else automation.create_stack
    stack = choose(
        STACK,
        "kinora",
        program,
        opts=automation.LocalWorkspaceOptions(
            env_vars={
                "KUBECONFIG": str(folder / "kubeconfig"),
                "PULUMI_BACKEND_URL": f"file://{state}",
                "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
                "PULUMI_SKIP_UPDATE_CHECK": "true",
            },
            project_settings=automation.ProjectSettings("kinora", "python"),
        ),
    )
    stack.up(on_output=lambda text: print(text, end="", file=sys.stderr))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--up", action="store_true", help="run `pulumi up` instead of printing the objects")
    parser.add_argument("--project", type=Path, default=render.PROJECT, help="the folder with the stack's file")
    arguments = parser.parse_args()
    if arguments.up:
        up(arguments.folder, arguments.project)
    else:
        print_objects(arguments.folder, arguments.project)


if __name__ == "__main__":
    main()
