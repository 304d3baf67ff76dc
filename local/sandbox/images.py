"""Brings the images that buildah keeps into the node's containerd: those that it does not have yet, in one archive."""

from __future__ import annotations

import json
import shutil
import subprocess

import node
from environment import MADE

CONTAINERS = MADE / "containers"
BUILDAH = ("buildah", f"--root={CONTAINERS}/storage", f"--runroot={CONTAINERS}/run", "--storage-driver=overlay")


RUN = ("ghcr.io/kinora-platform/", "localhost/kinora-sandbox/", "docker.io/tusproject/")
"""How the references of images begin that pods name."""


def built() -> dict[str, str]:
    """The images that were built for the sandbox: reference -> id."""
    listed = json.loads(node.run(*BUILDAH, "images", "--json"))
    return {name: each["id"] for each in listed for name in each.get("names") or [] if name.startswith(RUN)}


def imported() -> dict[str, str]:
    """What the node has of them, as this module noted it: reference -> id."""
    file = node.IMAGES / "brought.json"
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    return known


def bring() -> int:
    """Import what is missing or was built anew; the number of images."""
    wanted, there = built(), imported()
    missing = {name: each for name, each in wanted.items() if there.get(name) != each}
    if not missing:
        return 0
    layout, archive = node.STATE / "import", node.STATE / "import.tar"
    shutil.rmtree(layout, ignore_errors=True)
    for name in missing:
        # Into one folder, where layers that several share stand once. Without compression: it goes nowhere.
        node.run(*BUILDAH, "push", "--quiet", "--disable-compression", name, f"oci:{layout}:{name}", timeout=300)
    subprocess.run(["tar", "--create", f"--file={archive}", "--directory", layout, "."], check=True)
    shutil.rmtree(layout)
    node.ctr("images", "import", archive, timeout=600)
    archive.unlink()
    (node.IMAGES / "brought.json").write_text(json.dumps(wanted))
    return len(missing)


def retag(reference: str, new: str) -> None:
    """Give an image of the node a second name, as a new version would have."""
    node.ctr("images", "tag", "--force", reference, new)
