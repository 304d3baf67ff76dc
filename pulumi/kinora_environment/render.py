"""The objects of a stack without a cluster: the real program, run under Pulumi's mocks.

`python -m kinora_environment.render STACK FOLDER` writes them as YAML. Random values appear as a
reference to the resource that generates them, such as ${auth-postgres-1}.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import yaml
from pulumi.runtime import mocks, rpc
from pulumi.runtime.stack import wait_for_rpcs
from pulumi.runtime.sync_await import _sync_await

from kinora_environment import config, helm, needs
from kinora_environment.environment import create

PROJECT = Path(__file__).resolve().parent.parent
CHARTS = PROJECT.parent / ".kinora" / "upstream" / "istio"

# Kinds that must exist before others can be created.
_FIRST = ("CustomResourceDefinition", "Namespace")


@dataclass(frozen=True)
class Resource:
    """A registered resource."""

    type: str
    name: str
    inputs: Mapping[str, Any]
    """With the provider's names (camelCase)."""
    secret: frozenset[str]
    """The inputs that Pulumi keeps encrypted."""


@dataclass
class Rendered:
    """The resources of a stack, in registration order."""

    stack: str
    resources: list[Resource] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    urns: list[str] = field(default_factory=list)
    """A URN contains the types of all parents."""

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The Kubernetes objects, in an order in which they can be created."""
        made = [
            {"apiVersion": each.inputs["apiVersion"], "kind": each.inputs["kind"], **each.inputs}
            for each in self.resources
            if each.type.startswith("kubernetes:") and "kind" in each.inputs
        ]
        return sorted(
            made, key=lambda each: (_FIRST.index(each["kind"]) if each["kind"] in _FIRST else 9, *identity(each))
        )


def identity(manifest: Mapping[str, Any]) -> tuple[str, str, str]:
    """Namespace, kind with its group, name."""
    group, _, _ = manifest["apiVersion"].rpartition("/")
    kind = f"{manifest['kind']}.{group}" if group else manifest["kind"]
    return manifest["metadata"].get("namespace", ""), kind, manifest["metadata"]["name"]


class Recorder(mocks.Mocks):
    """Mocks the engine: records registrations, and responds like the providers."""

    def __init__(self, rendered: Rendered, random: Callable[[str], str]) -> None:
        self._rendered, self._random = rendered, random

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        plain = {key: _plain(value) for key, value in args.inputs.items()}
        secret = frozenset(key for key, value in args.inputs.items() if _holds_secret(value))
        self._rendered.resources.append(Resource(args.typ, args.name, plain, secret))
        state = dict(args.inputs)
        if args.typ == "random:index/randomPassword:RandomPassword":
            state["result"] = self._random(args.name)
        return f"{args.name}-id", state

    def call(self, args: mocks.MockCallArgs) -> Any:
        match args.token:
            case "kubernetes:yaml:decode":
                return {"result": [each for each in yaml.safe_load_all(args.args["text"]) if each]}
            case "kubernetes:helm:template":
                return {"result": helm.template(args.args["jsonOpts"], CHARTS)}
        raise NotImplementedError(f"the program calls {args.token}, which the renderer does not know")


def _holds_secret(value: Any) -> bool:
    if rpc.is_rpc_secret(value):
        return True
    if isinstance(value, Mapping):
        return any(map(_holds_secret, value.values()))
    return isinstance(value, list) and any(map(_holds_secret, value))


def _plain(value: Any) -> Any:
    """Without secret markers, and with integers restored: the protocol turns them into floats."""
    if rpc.is_rpc_secret(value):
        return _plain(rpc.unwrap_rpc_secret(value))
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def stacks() -> list[str]:
    """The committed stacks."""
    return sorted(file.name.split(".")[1] for file in PROJECT.glob("Pulumi.*.yaml"))


def configuration(stack: str, project: Path = PROJECT) -> config.EnvironmentConfig:
    """The configuration of a committed stack; encrypted values become references.

    Raises:
        ConfigError: with one sentence per problem.
    """
    file = project / f"Pulumi.{stack}.yaml"
    if not file.exists():
        raise config.ConfigError(f"Unknown stack {stack}. Known: {', '.join(stacks())}.")
    given = (yaml.safe_load(file.read_text()).get("config") or {}).get(config.KEY)
    return config.parse(stack, _references(given, ()))


def _references(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {"secure"}:
            return f"${{{'.'.join(path)}}}"
        return {key: _references(each, (*path, key)) for key, each in value.items()}
    return [_references(each, path) for each in value] if isinstance(value, list) else value


def render(
    stack: str,
    given: config.EnvironmentConfig | None = None,
    *,
    needed: Mapping[str, needs.Needs] | None = None,
    random: Callable[[str], str] = "${{{}}}".format,
) -> Rendered:
    """Run the program for a stack, by default with its committed configuration.

    ``random``: the value of a random secret by the name of its resource.

    Raises:
        ConfigError: as the program does.
    """
    rendered = Rendered(stack)
    monitor = mocks.MockMonitor(Recorder(rendered, random))
    mocks.set_mocks(monitor.mocks, project="kinora", stack=stack, preview=False, monitor=monitor)
    outputs = create(stack, given or configuration(stack), needs.read() if needed is None else needed)
    pulumi.Output.all(**outputs).apply(rendered.outputs.update)
    _sync_await(wait_for_rpcs())
    rendered.urns += monitor.resources
    return rendered


def text(manifest: Mapping[str, Any]) -> str:
    """An object as YAML, always in the same order."""
    return yaml.dump(_ordered(manifest), Dumper=yaml.CSafeDumper, sort_keys=False, width=120, allow_unicode=True)


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        first = [key for key in ("apiVersion", "kind", "name", "metadata") if key in value]
        return {key: _ordered(value[key]) for key in [*first, *sorted(value.keys() - set(first))]}
    return [_ordered(each) for each in value] if isinstance(value, list) else value


class NotOurs(Exception):
    pass


def write(rendered: Rendered, folder: Path) -> list[Path]:
    """Write each object to <folder>/<namespace>/<kind>-<name>.yaml, replacing an older rendering.

    Raises:
        NotOurs: if the folder contains anything else.
    """
    if any(file.suffix != ".yaml" for file in folder.rglob("*") if not file.is_dir()):
        raise NotOurs(f"{folder} contains files other than YAML: use a separate folder for the objects.")
    shutil.rmtree(folder, ignore_errors=True)
    files = []
    for manifest in rendered.objects:
        namespace, kind, name = identity(manifest)
        file = (
            folder / (namespace or "cluster") / f"{kind.split('.')[0].lower()}-{re.sub(r'[^a-z0-9.-]', '_', name)}.yaml"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():  # the same kind in another group
            file = file.with_stem(f"{file.stem}.{kind.partition('.')[2]}")
        file.write_text(text(manifest))
        files.append(file)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(prog="render", description=__doc__)
    parser.add_argument("stack")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        files = write(render(arguments.stack), arguments.folder)
    except (config.ConfigError, NotOurs) as error:
        sys.exit(str(error))
    print(f"{len(files)} objects of {arguments.stack} are in {arguments.folder}")


if __name__ == "__main__":
    main()
