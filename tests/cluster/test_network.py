"""Connections that ``allowFrom`` does not list are blocked, as far as NetworkPolicies can: per port.

The mesh enforces methods and paths, and the sandbox has no mesh.
"""

from __future__ import annotations

import pytest
from live import GITOPS, STORES, Cluster

CONNECT = """\
import socket
try:
    socket.create_connection(({host!r}, {port}), timeout=4).close()
except (TimeoutError, ConnectionRefusedError) as error:
    print(type(error).__name__)
else:
    print("connected")
"""


def connects(cluster: Cluster, workload: str, host: str, port: int) -> bool:
    """Whether a pod of a workload can connect. Fails if the name does not resolve or the program fails."""
    return cluster.run_in(workload, CONNECT.format(host=host, port=port)).strip() == "connected"


@pytest.mark.parametrize(
    ("caller", "service", "port"),
    [
        ("graphql", "auth", 8201),
        ("graphql", "media", 8202),
        ("graphql", "video", 8203),
        ("media", "auth", 8101),
        ("media", "auth", 8201),  # names of users
        # Deletions and visibility hold at once (docs/adr/0013-enforcement.md).
        ("auth", "media", 8202),
        ("auth", "video", 8203),
        ("media", "video", 8203),
        ("video", "media", 8202),
    ],
)
def test_allowed_caller_can_connect(cluster: Cluster, caller: str, service: str, port: int) -> None:
    assert connects(cluster, caller, service, port)


@pytest.mark.parametrize(
    ("caller", "service", "port"),
    [
        ("video", "auth", 8201),
        ("auth", "tusd", 8108),
        ("media", "graphql", 8105),
        ("graphql", "tusd", 8108),
        ("video-worker", "auth", 8101),
        ("video-worker", "video", 8203),
    ],
)
def test_other_caller_cannot_connect(cluster: Cluster, caller: str, service: str, port: int) -> None:
    assert not connects(cluster, caller, service, port)


def test_services_can_connect_only_to_stores(cluster: Cluster) -> None:
    assert connects(cluster, "auth", f"postgres.{STORES}.svc.cluster.local", 5432)
    assert not connects(cluster, "auth", f"argocd-server.{GITOPS}.svc.cluster.local", 443)
    assert not connects(cluster, "auth", "kubernetes.default.svc.cluster.local", 443)
