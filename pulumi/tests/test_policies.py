"""Each policy detects its violations and accepts everything else; all objects of all stacks comply."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc

from kinora_environment import policies, render

GOOD: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "good", "namespace": "kinora-test-apps"},
    "spec": {
        "template": {
            "spec": {
                "serviceAccountName": "good",
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [
                    {
                        "name": "main",
                        "image": "registry.example/good:1.2",
                        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
            }
        }
    },
}


def changed(path: str, value: object) -> dict[str, Any]:
    """GOOD with another value at one place below the pod's spec; `container.` is its only container."""
    manifest = copy.deepcopy(GOOD)
    place: Any = manifest["spec"]["template"]["spec"]
    *steps, last = path.split(".")
    for step in steps:
        place = place["containers"][0] if step == "container" else place[step]
    place[last] = value
    return manifest


def other(kind: str, **rest: object) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x", "namespace": "kinora-test-apps"}, **rest}


BAD = {
    "pods_are_restricted": [
        changed("securityContext.runAsNonRoot", False),
        changed("securityContext.runAsUser", 0),
        changed("container.securityContext.runAsUser", 0),
        changed("securityContext.seccompProfile", {"type": "Unconfined"}),
    ],
    "containers_are_restricted": [
        changed("container.securityContext.privileged", True),
        changed("container.securityContext.allowPrivilegeEscalation", True),
        changed("container.securityContext.capabilities", {}),
        changed("container.securityContext.capabilities.add", ["NET_ADMIN"]),
        changed("container.securityContext.readOnlyRootFilesystem", False),
        changed("initContainers", [{"name": "first", "image": "x:1"}]),
    ],
    "no_host_access": [
        changed("hostNetwork", True),
        changed("hostPID", True),
        changed("volumes", [{"name": "node", "hostPath": {"path": "/etc"}}]),
        changed("container.ports", [{"containerPort": 80, "hostPort": 80}]),
    ],
    "resources_are_bounded": [
        changed("container.resources", {}),
        changed("container.resources.limits", {"cpu": "1"}),
    ],
    "images_are_pinned": [
        changed("container.image", "registry.example:5000/good"),
        changed("container.image", "good:latest"),
    ],
    "only_the_gateway_is_public": [
        other("Service", spec={"type": "LoadBalancer"}),
        other("Service", spec={"type": "NodePort"}),
        other("Ingress", spec={}),
    ],
    "tokens_are_asked_for": [changed("serviceAccountName", "default"), other("ServiceAccount")],
    "rights_are_named": [other("Role", rules=[{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}])],
    "secrets_are_not_configuration": [
        changed("container.env", [{"name": "DB_PASSWORD", "value": "hunter2"}]),
        other("ConfigMap", data={"password": "hunter2"}),
    ],
}


def test_every_policy_has_violations() -> None:
    assert BAD.keys() == policies.POLICIES.keys()


@pytest.mark.parametrize(("name", "manifest"), [(name, each) for name, bad in BAD.items() for each in bad])
def test_policy_detects_violation(name: str, manifest: dict[str, Any]) -> None:
    assert list(policies.POLICIES[name](manifest))
    assert any(sentence.startswith(f"{name}: ") for sentence in policies.violations(manifest))


def test_compliant_object_passes() -> None:
    assert list(policies.violations(GOOD)) == []
    job = {"spec": {"jobTemplate": {"spec": {"template": GOOD["spec"]["template"]}}}}
    assert list(policies.violations({**GOOD, "kind": "CronJob", **job})) == []


def test_stacks_violate_no_policy(environment: render.Rendered) -> None:
    assert [sentence for each in environment.objects for sentence in policies.violations(each)] == []


def test_exemptions_are_necessary(rendered: Callable[[str], render.Rendered]) -> None:
    needed = {
        (name, f"{each['kind']}/{each['metadata']['name']}")
        for stack in render.stacks()
        for each in rendered(stack).objects
        for name, policy in policies.POLICIES.items()
        if list(policy(each))
    }
    assert needed == policies.EXEMPT.keys()


def test_policy_pack_works_with_the_engine() -> None:
    """Started like the CLI does, and called over the CLI's protocol."""
    pack = Path(render.PROJECT) / "policy"
    with subprocess.Popen([sys.executable, "__main__.py"], cwd=pack, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ask(f"127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()


def ask(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        analyzer = analyzer_pb2_grpc.AnalyzerStub(channel)
        info = analyzer.GetAnalyzerInfo(empty_pb2.Empty(), timeout=20)
        assert {policy.name for policy in info.policies} == {name.replace("_", "-") for name in policies.POLICIES}

        def sentences(manifest: dict[str, Any]) -> list[str]:
            properties = json_format.ParseDict(manifest, struct_pb2.Struct())
            request = analyzer_pb2.AnalyzeRequest(
                type="kubernetes:apps/v1:Deployment", properties=properties, urn="urn:pulumi:t::k::t::good", name="good"
            )
            answer = analyzer.Analyze(request, timeout=20)
            assert all(each.enforcementLevel == analyzer_pb2.MANDATORY for each in answer.diagnostics)
            return [each.message for each in answer.diagnostics]

        assert sentences(GOOD) == []
        (sentence,) = sentences(changed("container.securityContext.privileged", True))
        assert "Deployment/good main is privileged" in sentence
