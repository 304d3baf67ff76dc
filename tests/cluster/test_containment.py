"""Code that took ffmpeg over, in a worker's pod, gets out of its folder as little as natively (docs/adr/0014)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from live import APPS, STORES, Cluster

TESTS = Path(__file__).resolve().parents[2] / "apps" / "video" / "tests"


def addresses(cluster: Cluster) -> dict[str, tuple[str, int]]:
    """Of every Service of the environment, by its name: a tool can look none up."""
    found: dict[str, tuple[str, int]] = {"the metadata service": ("169.254.169.254", 80)}
    for namespace in (APPS, STORES):
        for service in cluster.all("service", namespace=namespace):
            address = service["spec"].get("clusterIP")
            if address not in (None, "None"):
                found[service["metadata"]["name"]] = (address, service["spec"]["ports"][0]["port"])
    return found


def test_tool_in_a_pod_is_refused_everything(cluster: Cluster) -> None:
    given: dict[str, Any] = {
        # The worker's own, and what Kubernetes puts into a pod.
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
    assert end["survived"], "the sibling runs on"
    outcomes = json.loads(end["stdout"])
    assert len(outcomes) > 100
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "refused"} == {}
