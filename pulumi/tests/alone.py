"""Register a single component under Pulumi's mocks, in the namespaces of an environment."""

from collections.abc import Callable
from typing import Any

import pulumi
from pulumi.runtime import mocks
from pulumi.runtime.stack import wait_for_rpcs
from pulumi.runtime.sync_await import _sync_await

from kinora_environment.namespaces import Namespaces, NamespacesArgs
from kinora_environment.place import Place
from kinora_environment.render import Recorder, Rendered
from kinora_environment.sizes import SIZES

SMALL = SIZES["small"]


class WithStatus(Recorder):
    """Adds a status to objects, by resource type."""

    def __init__(self, rendered: Rendered, status: dict[str, Any]) -> None:
        super().__init__(rendered, "${{{}}}".format)
        self._status = status

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        identifier, state = super().new_resource(args)
        return identifier, {**state, **self._status.get(args.typ, {})}


def register(
    make: Callable[[Callable[[str], Place]], Any], *, environment: str = "test", status: dict[str, Any] | None = None
) -> tuple[Rendered, Any]:
    """Call ``make`` with a function from role to place; returns the registered resources, and the component."""
    rendered = Rendered(environment)
    mocks.set_mocks(WithStatus(rendered, status or {}), project="kinora", stack=environment, preview=False)
    namespaces = Namespaces(
        "namespaces",
        NamespacesArgs(environment=environment, quota=SMALL.apps, mesh=False, mesh_privileged=False, protect=False),
    )
    component = make(namespaces.__getitem__)
    _sync_await(wait_for_rpcs())
    return rendered, component


def value(output: pulumi.Output[Any]) -> Any:
    """The value of an output."""
    return _sync_await(output.future())
