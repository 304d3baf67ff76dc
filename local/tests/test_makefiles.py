"""Dry runs of the makefiles on a fresh machine: nothing is installed or built here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import doctor
import pytest

if TYPE_CHECKING:
    from conftest import Checkout

# Dry runs of all targets start about a hundred processes, which takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
MAKEFILES = sorted(ROOT.glob("local/**/*.mk"))
INCLUDED = set(re.findall(r"^include (\S+)$", "".join(file.read_text() for file in MAKEFILES), re.MULTILINE))
TARGETS = {
    name: re.findall(r"^([a-z-]+):(?!=)", file.read_text(), re.MULTILINE)
    for file in [ROOT / "Makefile", *MAKEFILES]
    if (name := str(file.relative_to(ROOT))) not in INCLUDED
}
# The tables of local/doctor.py whose packages each target installs.
TABLES = {
    "install": {"install"},
    "demo": {"install"},
    "lint": {"install"},
    "images": {"images"},
    "cluster-up": {"install", "images", "cluster"},
    "test-docker": {"install", "images", "docker"},
}


@pytest.fixture
def fresh(checkout: Checkout) -> Checkout:
    """This checkout, with nothing built yet."""
    for path in ROOT.iterdir():
        if path.name not in (".git", ".kinora", "local", "Procfile"):
            (checkout.root / path.name).symlink_to(path)
    return checkout


def dry_run(checkout: Checkout, *words: str) -> str:
    return checkout.run("make", "--directory=..", "--dry-run", *words)


def hide_packages(checkout: Checkout, *missing: str) -> None:
    """Make the checkout's doctor report exactly these packages as missing."""
    file = checkout.root / "local" / "doctor.py"
    text = file.read_text()
    for package, program in {each for table in doctor.PACKAGES_FOR.values() for each in table.items()}:
        line = f'"{package}": "{program}"'
        assert line in text
        text = text.replace(line, f'"{package}": "{"no-such-program" if package in missing else "sh"}"')
    file.write_text(text)


@pytest.mark.parametrize("makefile", TARGETS)
def test_make_uses_no_variable_before_it_is_set(makefile: str, fresh: Checkout) -> None:
    hide_packages(fresh, "redis-server")
    said = dry_run(fresh, "--warn-undefined-variables", f"--file={makefile}", *TARGETS[makefile])
    assert "warning: undefined variable" not in said


@pytest.mark.parametrize(
    ("table", "package"), [(name, each) for name, of in doctor.PACKAGES_FOR.items() for each in of]
)
def test_doctor_names_the_package_that_is_missing(table: str, package: str, checkout: Checkout) -> None:
    hide_packages(checkout, package)
    assert checkout.run("python3", "doctor.py", "--missing-packages", table).split() == [package]


@pytest.mark.parametrize("verb", TABLES)
def test_make_installs_every_missing_package(verb: str, fresh: Checkout) -> None:
    wanted = {package for table in TABLES[verb] for package in doctor.PACKAGES_FOR[table]}
    hide_packages(fresh, *wanted)
    installed = re.findall(r"apt-get install --yes --no-install-recommends ([^;]*);", dry_run(fresh, verb))
    assert set(" ".join(installed).split()) == wanted


@pytest.mark.parametrize("verb", ["install", "cluster-up"])
def test_make_installs_no_present_package(verb: str, fresh: Checkout) -> None:
    hide_packages(fresh)
    assert "apt-get" not in dry_run(fresh, verb)
