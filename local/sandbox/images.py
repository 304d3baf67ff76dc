"""Import images from buildah into the node's containerd: those that it does not have yet, in one archive."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import node
from environment import MADE, ROOT

HERE = Path(__file__).resolve().parent
CONTAINERS = MADE / "containers"
BUILDAH = ("buildah", f"--root={CONTAINERS}/storage", f"--runroot={CONTAINERS}/run", "--storage-driver=overlay")


SERVICES = "ghcr.io/kinora-platform/"
"""The prefix of the services' image references. All versions are imported: git decides which one runs."""


def references() -> list[str]:
    """The images of everything except the services, in their current versions."""
    # Without MAKEFLAGS of a calling make: they could add output.
    make = ("env", "--unset=MAKEFLAGS", "make", "--silent", f"--directory={ROOT}", f"--file={HERE / 'images.mk'}")
    return node.run(*make, "references").split()


def built() -> dict[str, str]:
    """The built images that pods may use: reference -> id."""
    listed = json.loads(node.run(*BUILDAH, "images", "--json"))
    found = {name: each["id"] for each in listed for name in each.get("names") or []}
    beside = references()
    return {name: each for name, each in found.items() if name.startswith(SERVICES) or name in beside}


def imported() -> dict[str, str]:
    """The images that this module has imported into the node: reference -> id."""
    file = node.IMAGES / "brought.json"
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    return known


def import_missing() -> Iterator[str]:
    """Import images that are missing or were rebuilt; yields a progress message for each."""
    wanted, there = built(), imported()
    missing = [name for name, each in wanted.items() if there.get(name) != each]
    if not missing:
        return
    layout = node.STATE / "import"
    shutil.rmtree(layout, ignore_errors=True)
    for number, name in enumerate(missing, start=1):
        yield f"image {number} of {len(missing)}: {name}"
        # Into one folder, so that shared layers are stored once. Uncompressed: it stays on this machine.
        node.run(*BUILDAH, "push", "--quiet", "--disable-compression", name, f"oci:{layout}:{name}", timeout=300)
    yield "unpacking them"
    archive = layout.with_suffix(".tar")
    node.run("tar", "--create", f"--file={archive}", "--directory", layout, ".", timeout=300)
    shutil.rmtree(layout)
    node.ctr("images", "import", archive, timeout=600)
    archive.unlink()
    (node.IMAGES / "brought.json").write_text(json.dumps(wanted))


def retag(reference: str, new: str) -> None:
    """Give an image on the node a second reference, as if it were a new version."""
    node.ctr("images", "tag", "--force", reference, new)
