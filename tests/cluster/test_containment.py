"""In a worker's pod, a compromised ffmpeg is contained as well as natively (docs/adr/0014)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from live import APPS, STORES, Cluster

TESTS = Path(__file__).resolve().parents[2] / "apps" / "video" / "tests"


def addresses(cluster: Cluster) -> dict[str, tuple[str, int]]:
    """The addresses of all Services by name, because a contained tool cannot resolve names."""
    found: dict[str, tuple[str, int]] = {"the metadata service": ("169.254.169.254", 80)}
    for namespace in (APPS, STORES):
        for service in cluster.all("service", namespace=namespace):
            address = service["spec"].get("clusterIP")
            if address not in (None, "None"):
                found[service["metadata"]["name"]] = (address, service["spec"]["ports"][0]["port"])
    return found


def test_contained_tool_in_a_pod_cannot_escape(cluster: Cluster) -> None:
    given: dict[str, Any] = {
        # The worker's own secrets, and those that Kubernetes mounts into a pod.
        "secrets": ["/proc/1/environ", "/etc/hosts", "/etc/resolv.conf", "/app/kinora_video/sandbox.py"],
        "outside": "/work",
        "local": "/work/socket",
        "addresses": addresses(cluster),
        "source": None,
    }
    assert {"auth", "video", "postgres", "rabbitmq"} <= set(given["addresses"])
    attack, worker = ((TESTS / name).read_text() for name in ("attack.py", "attacked.py"))

    said = cluster.run_in("video-worker", f"import sys\nsys.argv[1:] = {[attack, json.dumps(given)]!r}\n{worker}")

    end = json.loads(said)
    assert end["code"] == 0, end["stderr"]
    assert end["survived"], "the sibling keeps running"
    outcomes = json.loads(end["stdout"])
    assert len(outcomes) > 100
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "refused"} == {}
