"""The contract of every component."""

import dataclasses
import importlib
import inspect
import pkgutil
import typing

import pulumi
import pytest

import kinora_environment
from kinora_environment.render import Rendered

MODULES = [
    importlib.import_module(f"kinora_environment.{module.name}")
    for module in pkgutil.iter_modules(kinora_environment.__path__)
]
COMPONENTS = sorted(
    {
        value
        for module in MODULES
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, pulumi.ComponentResource)
        and value.__module__ == module.__name__
    },
    key=lambda component: component.__name__,
)
NAMES = ("Credentials", "Gateway", "GitOps", "Mesh", "MessageBroker", "MongoCluster", "Monitoring", "Namespaces")
NAMES += ("ObjectStore", "PostgresCluster", "RedisCache", "Workload")


def test_list_of_components_is_complete() -> None:
    assert {component.__name__ for component in COMPONENTS} >= set(NAMES)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.__name__)
class TestComponent:
    def test_takes_a_name_one_frozen_dataclass_and_options(self, component: type) -> None:
        parameters = list(inspect.signature(component.__init__).parameters.values())[1:]
        hints = typing.get_type_hints(component.__init__)
        arguments = [hints[each.name] for each in parameters]
        assert arguments[-1] == pulumi.ResourceOptions | None
        taken = next(each for each in arguments if dataclasses.is_dataclass(each))
        assert taken.__dataclass_params__.frozen, f"{taken.__name__} is not frozen"
        assert all(each in (str, taken, pulumi.ResourceOptions | None) for each in arguments)

    def test_reads_no_configuration(self, component: type) -> None:
        source = inspect.getsource(inspect.getmodule(component))
        assert "pulumi.Config" not in source
        assert "get_config" not in source
        assert "os.environ" not in source

    def test_registers_its_outputs(self, component: type) -> None:
        if component.__subclasses__():
            return  # a base class: its subclasses register outputs
        assert "self.register_outputs(" in inspect.getsource(component)


def test_every_resource_has_a_component_as_parent(environment: Rendered) -> None:
    """Except the provider, which selects the cluster."""
    for urn in environment.urns:
        _, _, kinds, name = urn.removeprefix("urn:pulumi:").split("::")
        kind, _, _ = kinds.removeprefix("pulumi:pulumi:Stack$").rpartition("$")
        top = not kind and not kinds.removeprefix("pulumi:pulumi:Stack$").startswith("kinora:environment:")
        assert not top or name == "cluster", f"{urn} has no parent among the components"
