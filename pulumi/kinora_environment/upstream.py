"""Upstream files that an environment uses unchanged, each with URL and checksum.

They are fetched once into `.kinora/upstream`, from the URL or from an existing copy with the right checksum.
`python -m kinora_environment.upstream` fetches them all.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import yaml

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "pulumi" / "upstream.yaml"
FETCHED = ROOT / ".kinora" / "upstream"
COPIES = (ROOT.parent / "shared" / "crds", FETCHED)
"""Where to look for copies: beside the checkout, and what `make tools` extracts from Go modules."""
TIMEOUT_SECONDS = 30


class Unavailable(pulumi.RunError):
    """Says what could not be fetched, and what to do about it."""


@dataclass(frozen=True)
class Upstream:
    """A set of files from one version of a project."""

    name: str
    version: str
    url: str
    """The URL of the folder with all files."""
    copies: Sequence[str]
    """Folders that may contain a copy, below each of ``COPIES``."""
    files: Mapping[str, str]
    """Name -> SHA-256."""


@cache
def listed(path: Path = LIST) -> Mapping[str, Upstream]:
    given = yaml.safe_load(path.read_text())
    return {
        name: Upstream(
            name=name,
            version=each["version"],
            url=each["url"].format(version=each["version"]),
            copies=[copy.format(version=each["version"]) for copy in each["copies"]],
            files=each["files"],
        )
        for name, each in given.items()
    }


def names() -> list[str]:
    return list(listed())


def files(name: str) -> list[Path]:
    """The local files of a set, with verified checksums.

    Raises:
        Unavailable: if one can neither be found nor fetched.
    """
    chosen = listed()[name]
    return [obtain(chosen, file, FETCHED, COPIES)[0] for file in chosen.files]


def obtain(chosen: Upstream, file: str, into: Path, copies: Sequence[Path]) -> tuple[Path, str]:
    """One file of a set, and its origin."""
    expected = chosen.files[file]
    target = into / chosen.name / file
    if _matches(target, expected):
        return target, "was there"
    for candidate in (place / copy / file for place in copies for copy in chosen.copies):
        if _matches(candidate, expected):
            _write(target, candidate.read_bytes())
            return target, f"copied from {candidate.parent}"
    url = f"{chosen.url}/{file}"
    content = _fetch(url, target)
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise Unavailable(
            f"{url} has changed: its SHA-256 is {found}, and upstream.yaml says {expected}."
            f" It was discarded. Find out why it changed before you change upstream.yaml."
        )
    _write(target, content)
    return target, f"fetched from {url}"


def _matches(file: Path, expected: str) -> bool:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() == expected
    except FileNotFoundError:
        return False


def _fetch(url: str, target: Path) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - ours, in upstream.yaml
            content: bytes = response.read()
            return content
    except (OSError, HTTPException) as error:
        raise Unavailable(
            f"{url} cannot be fetched ({error}). Without a network, fetch it elsewhere and put it at {target}."
        ) from None


def _write(target: Path, content: bytes) -> None:
    """Atomically, so that concurrent readers and writers never see a partial file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as partial:
        try:
            partial.write(content)
            partial.close()
            Path(partial.name).replace(target)
        except BaseException:
            Path(partial.name).unlink()
            raise


def custom_resource_definitions(name: str, opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
    """Register the definitions of a set, for custom resources to depend on.

    A definition belongs to the cluster, and every environment may register it. It is kept when an environment is
    destroyed, because deleting it would delete all resources of its kind, including those of other environments. The
    last update wins.
    """
    return [
        k8s.apiextensions.v1.CustomResourceDefinition(
            manifest["metadata"]["name"],
            metadata={
                **manifest["metadata"],
                "annotations": {**manifest["metadata"].get("annotations", {}), "pulumi.com/patchForce": "true"},
            },
            spec=manifest["spec"],
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(retain_on_delete=True)),
        )
        for manifest in manifests(name)
    ]


@cache
def manifests(name: str) -> list[dict[str, Any]]:
    """The objects in the files of a set; do not change them."""
    # The C loader: some definitions are megabytes, which take the Python loader seconds.
    return [each for file in files(name) for each in yaml.load_all(file.read_text(), yaml.CSafeLoader) if each]


def main() -> None:
    failures = []
    for chosen in listed().values():
        for file in chosen.files:
            try:
                _, how = obtain(chosen, file, FETCHED, COPIES)
                print(f"{chosen.name}/{file} {how}")
            except Unavailable as failure:
                failures.append(str(failure))
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
