"""Resource options: dependencies, protection, and updates in place."""

import functools
import json
from typing import Any

import pytest
from pulumi.runtime import mocks
from references import Key, named

from kinora_environment import render

CLAIMS = {
    "StatefulSet": "spec.volumeClaimTemplates",
    "PersistentVolumeClaim": "spec",
    "MongoDBCommunity": "spec.statefulSet.spec.volumeClaimTemplates",
    "Prometheus": "spec.storage",
    "Alertmanager": "spec.storage",
}
"""Kind -> the field with its volume sizes. The operators of all other kinds expand them."""


class Registered:
    """The requests to the engine, by object."""

    def __init__(self, stack: str) -> None:
        self.requests: dict[Key, Any] = {}
        self.urns: dict[Key, str] = {}
        self.providers: dict[str, Any] = {}
        self._by_urn: dict[str, Any] = {}
        told = self

        class Monitor(mocks.MockMonitor):
            def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - the protocol's name
                answer = super().RegisterResource(request)
                told.note(request, answer.urn)
                return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mocks, "MockMonitor", Monitor)
            self.rendered = render.render(stack)
        self.objects = {
            (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each
            for each in self.rendered.objects
        }

    def note(self, request: Any, urn: str) -> None:
        self._by_urn[urn] = request
        if request.type.startswith("pulumi:providers:"):
            self.providers[request.name] = request
        kind, metadata = request.object.fields.get("kind"), request.object.fields.get("metadata")
        if kind is not None and metadata is not None:
            fields = metadata.struct_value.fields
            namespace = fields["namespace"].string_value if "namespace" in fields else ""
            key = (kind.string_value, namespace, fields["name"].string_value)
            self.requests[key], self.urns[key] = request, urn

    def before(self, key: Key) -> set[str]:
        """The URNs of everything that an object depends on."""
        found: set[str] = set()
        ahead = list(self.requests[key].dependencies)
        while ahead:
            urn = ahead.pop()
            if urn not in found and urn in self._by_urn:
                found.add(urn)
                ahead += self._by_urn[urn].dependencies
        return found


@functools.cache
def _registered(stack: str) -> Registered:
    return Registered(stack)


@pytest.fixture(params=render.stacks())
def registered(request: pytest.FixtureRequest) -> Registered:
    return _registered(request.param)


def test_workloads_depend_on_their_secrets_and_config_maps(registered: Registered) -> None:
    late = [
        (key, wanted)
        for key, manifest in registered.objects.items()
        for wanted in named(manifest)
        if wanted[0] in ("Secret", "ConfigMap")
        and wanted in registered.urns
        and registered.urns[wanted] not in registered.before(key)
        and "istio" not in key[2]  # of Istio's own chart, whose parts wait for each other at run time
        and "argocd" not in key[2]  # of Argo CD's own manifest, likewise
    ]
    assert not late


def test_secrets_and_config_maps_are_updated_in_place(registered: Registered) -> None:
    given = registered.providers["cluster"].object
    for setting in ("enableSecretMutable", "enableConfigMapMutable"):
        assert json.loads(given[setting]) is True, setting


def test_resizing_recreates_no_volume(registered: Registered) -> None:
    seen = set()
    for key, request in registered.requests.items():
        spec = registered.objects[key].get("spec", {})
        if key[0] in CLAIMS and (key[0] != "StatefulSet" or spec.get("volumeClaimTemplates")):
            assert list(request.ignoreChanges) == [CLAIMS[key[0]]], key
            seen.add(key[0])
        if key[0] == "StatefulSet":
            assert not request.deleteBeforeReplace, key
    assert "StatefulSet" in seen


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_gateway_and_gitops_depend_on_the_mesh(stack: str) -> None:
    """Pods that start before it have no sidecar, and nobody restarts them."""
    registered = _registered(stack)
    gateway = ("Deployment", f"kinora-{stack}-gateway", "traefik")
    root = ("Application", f"kinora-{stack}-gitops", "root")
    facts = ("Secret", f"kinora-{stack}-gitops", "cluster")
    mesh = [
        key
        for key in registered.requests
        if key[0] in ("Deployment", "MutatingWebhookConfiguration") and "istio" in key[2]
    ]
    assert {kind for kind, _, _ in mesh} == {"Deployment", "MutatingWebhookConfiguration"}
    for waiting in (gateway, root, facts):
        assert {registered.urns[key] for key in mesh} <= registered.before(waiting), waiting


def test_prod_protects_resources_with_data() -> None:
    registered = _registered("prod")
    holding = {
        key
        for key, manifest in registered.objects.items()
        if key[0] in ("Cluster", "MongoDBCommunity", "RabbitmqCluster", "Prometheus", "Alertmanager", "Namespace")
        or (key[0] == "StatefulSet" and manifest["spec"].get("volumeClaimTemplates"))
    }
    assert {kind for kind, _, _ in holding} >= {"Cluster", "MongoDBCommunity", "RabbitmqCluster", "StatefulSet"}
    assert not {key for key in holding if not registered.requests[key].protect}
