import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Checkout:
    """A separate checkout in a temporary folder, with local/ and a replaceable Procfile."""

    root: Path

    def python(self, code: str) -> None:
        self.run(sys.executable, "-c", code)

    def run(self, *command: str, code: int = 0, variables: dict[str, str] | None = None) -> str:
        """The output of a command, which must exit with ``code``. It inherits almost no variables."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        outcome = subprocess.run(
            command,
            cwd=self.root / "local",
            env={"PATH": path, "HOME": str(self.root), **(variables or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert outcome.returncode == code, outcome.stdout
        return outcome.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    shutil.copytree(ROOT / "local", tmp_path / "local", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    shutil.copy(ROOT / "Procfile", tmp_path)
    return Checkout(tmp_path)
