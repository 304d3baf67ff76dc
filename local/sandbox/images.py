"""Brings the images that buildah keeps into the node's containerd: those that it does not have yet, in one archive."""

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
"""How the references of the services' images begin. All versions of them are brought: git says which one runs."""


def references() -> list[str]:
    """The images of all that runs beside the services, in the versions that run now."""
    # Not with the options of the make that may have called this: one of them has it print more.
    make = ("env", "--unset=MAKEFLAGS", "make", "--silent", f"--directory={ROOT}", f"--file={HERE / 'images.mk'}")
    return node.run(*make, "references").split()


def built() -> dict[str, str]:
    """The images that were built and that pods may name: reference -> id."""
    listed = json.loads(node.run(*BUILDAH, "images", "--json"))
    found = {name: each["id"] for each in listed for name in each.get("names") or []}
    beside = references()
    return {name: each for name, each in found.items() if name.startswith(SERVICES) or name in beside}


def imported() -> dict[str, str]:
    """What the node has of them, as this module noted it: reference -> id."""
    file = node.IMAGES / "brought.json"
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    return known


def bring() -> Iterator[str]:
    """Import what is missing or was built anew; yields a word for each that is on its way."""
    wanted, there = built(), imported()
    missing = [name for name, each in wanted.items() if there.get(name) != each]
    if not missing:
        return
    layout = node.STATE / "import"
    shutil.rmtree(layout, ignore_errors=True)
    for number, name in enumerate(missing, start=1):
        yield f"image {number} of {len(missing)}: {name}"
        # Into one folder, where layers that several share stand once. Without compression: it goes nowhere.
        node.run(*BUILDAH, "push", "--quiet", "--disable-compression", name, f"oci:{layout}:{name}", timeout=300)
    yield "unpacking them"
    archive = layout.with_suffix(".tar")
    node.run("tar", "--create", f"--file={archive}", "--directory", layout, ".", timeout=300)
    shutil.rmtree(layout)
    node.ctr("images", "import", archive, timeout=600)
    archive.unlink()
    (node.IMAGES / "brought.json").write_text(json.dumps(wanted))


def retag(reference: str, new: str) -> None:
    """Give an image of the node a second name, as a new version would have."""
    node.ctr("images", "tag", "--force", reference, new)
