"""Generate code from the contracts: Python from the protos, JSON Schemas from the events.

Run by ``make generate``; the results are committed, and a test fails when they differ.
"""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from kinora_kit.events import Payload

ROOT = Path(__file__).parent
PROTOS = ROOT / "protos"
PYTHON = ROOT / "src"
SCHEMAS = ROOT / "schemas" / "events"
OWNERS = ("auth", "media", "video")


def python_from_protos(target: Path) -> None:
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    outputs = [
        *(f"--{kind}_out={target}" for kind in ("python", "grpc_python")),
        *(f"--{kind}_out=quiet:{target}" for kind in ("mypy", "mypy_grpc")),
    ]
    # The plugins are installed next to this interpreter, whatever the PATH.
    scripts = Path(sys.executable).parent
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    # In a separate process: protoc forks for each plugin, and gRPC warns on stderr when a process with open channels or
    # servers forks.
    protoc = [sys.executable, "-m", "grpc_tools.protoc"]
    if subprocess.run([*protoc, f"-I{PROTOS}", *plugins, *outputs, *files], check=False).returncode:
        sys.exit("protoc failed")


def payloads(owner: str) -> list[type[Payload]]:
    """The event types that ``kinora.events.<owner>`` defines."""
    module = importlib.import_module(f"kinora.events.{owner}")
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Payload) and "type" in vars(value)
    ]


def schemas_from_events(target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for owner in OWNERS:
        for payload in payloads(owner):
            schema = json.dumps(payload.model_json_schema(), indent=2, sort_keys=True)
            (target / f"{payload.type}.json").write_text(schema + "\n", encoding="utf-8")


if __name__ == "__main__":
    python_from_protos(PYTHON)
    schemas_from_events(SCHEMAS)
