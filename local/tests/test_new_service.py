"""`make new-service`: the new service passes every check of the others, without further edits."""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "tags"
VIOLATIONS = """
import json, sys
from kinora_environment.policies import violations
print(json.dumps([sentence for each in json.load(sys.stdin) for sentence in violations(each)]))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout with a new service."""
    root = tmp_path_factory.mktemp("checkout")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, subprocess.check_output(listed, cwd=ROOT, text=True).split("\0")):
        if (ROOT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    (root / ".kinora").symlink_to(ROOT / ".kinora")
    copy_type_cache(root)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    said = run(root, sys.executable, "local/new_service.py", NAME)
    assert f"Created apps/{NAME}" in said
    return root


def copy_type_cache(root: Path) -> None:
    """Copy what `make types` has learnt about libraries, for which mypy needs 19 s of CPU, even while it is running."""
    for file in ROOT.glob(".mypy_cache/*/*.db"):
        copy = root / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)


def run(root: Path, *command: str, given: str = "", code: int = 0, **variables: str) -> str:
    """The output of a command in a checkout."""
    path = f"{ROOT}/.kinora/venv/bin:{ROOT}/.kinora/bin:/usr/bin:/bin"
    done = subprocess.run(
        command,
        cwd=root,
        env={"PATH": path, "HOME": str(root), "PYTHONPATH": f"{root}/apps/{NAME}/src", **variables},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_new_service_passes_lint_and_types(checkout: Path) -> None:
    run(checkout, "ruff", "check", f"apps/{NAME}", "local/parts.py")
    run(checkout, "ruff", "format", "--check", f"apps/{NAME}", "local/parts.py")
    run(checkout, "mypy", f"apps/{NAME}/src", f"apps/{NAME}/tests")


def test_new_service_passes_its_own_tests_and_those_of_processes(checkout: Path) -> None:
    run(checkout, "python", "-m", "pytest", "-q", f"apps/{NAME}")
    of_all = ["tests/test_deploy.py", "local/tests/test_processes.py"]
    which = f"{NAME} or is_a_process or has_ports or share_a_port"
    run(checkout, "python", "-m", "pytest", "-q", *of_all, "-k", which)


def test_new_service_is_built_and_deployed_in_every_environment(checkout: Path) -> None:
    assert f" {NAME} " in run(checkout, "make", "--no-print-directory", "--dry-run", "images", f"APP={NAME}")
    for stack in sorted((ROOT / "pulumi").glob("Pulumi.*.yaml")):
        deployed = json.loads(run(checkout, "python", "local/charts.py", stack.name.split(".")[1]))
        kinds = {each["kind"] for each in deployed[NAME]}
        assert {"Deployment", "Service", "ServiceAccount", "NetworkPolicy"} <= kinds
    python = str(ROOT / ".kinora" / "pulumi" / "bin" / "python")
    given = json.dumps(deployed[NAME])
    assert json.loads(run(checkout / "pulumi", python, "-c", VIOLATIONS, given=given, PYTHONPATH="")) == []


def test_new_service_is_part_of_the_mesh(checkout: Path) -> None:
    python = ROOT / ".kinora" / "pulumi" / "bin" / "python"
    if not python.exists():
        pytest.skip("the environments' packages are not installed: make pulumi")
    which = ["-k", "table_names or match_the_code or unlisted_paths or time_out_after"]
    run(checkout / "pulumi", str(python), "-m", "pytest", "-q", "tests/test_istio.py", *which, PYTHONPATH="")


@pytest.mark.parametrize("name", ["", "Tags", "my-tags", "t", "auth", "postgres", "kit", NAME])
def test_invalid_name_is_rejected_and_creates_nothing(checkout: Path, name: str) -> None:
    before = (checkout / "Procfile").read_text()
    said = run(checkout, sys.executable, "local/new_service.py", name, code=1)
    assert "Name it with" in said or "give it another name" in said
    assert (checkout / "Procfile").read_text() == before
