"""A real API server accepts the objects of all stacks side by side, without warnings, and again without changes."""

from collections.abc import Callable, Iterator

import pytest
from cluster import Cluster, Refused, cluster_with_definitions

from kinora_environment import render
from kinora_environment.render import identity


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_with_definitions(tmp_path_factory.mktemp("stacks")) as started:
        yield started


@pytest.mark.sample(2)
@pytest.mark.parametrize("stack", render.stacks())
def test_stack_applies_without_warnings_and_is_idempotent(
    server: Cluster, rendered: Callable[[str], render.Rendered], stack: str
) -> None:
    objects = rendered(stack).objects
    first = server.apply(objects)
    assert len(first) == len(objects)
    second = server.apply(objects)
    # The server itself updates a claim after creation, to add its protection finalizer.
    changed = {key for key, version in first.items() if second[key] != version}
    assert {kind for _, kind, _ in changed} <= {"PersistentVolumeClaim"}, changed
    claims = [each for each in objects if identity(each) in changed]
    assert not claims or server.apply(claims).items() <= second.items()


def test_invalid_object_is_rejected(server: Cluster, rendered: Callable[[str], render.Rendered]) -> None:
    """Proves that the test above can fail: for an unknown field, and for a warning."""
    server.apply([each for each in rendered("dev").objects if each["kind"] == "Namespace"])
    metadata = {"name": "wrong", "namespace": "kinora-dev-apps"}
    with pytest.raises(Refused, match="dota"):
        server.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "dota": {}}])
    pod = {"containers": [{"name": "main", "image": "x:1"}]}
    template = {"metadata": {"labels": {"app": "wrong"}}, "spec": pod}
    spec = {"selector": {"matchLabels": {"app": "wrong"}}, "template": template}
    with pytest.raises(Refused, match="would violate PodSecurity"):
        server.apply([{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}])
