"""Create a service: its folder in apps/ from local/new-service, and an entry in each file that lists processes.

Images, releases, databases and tests are discovered from its folder. `make new-service`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from string import Template

from environment import MADE, ROOT, parse
from parts import PARTS

TEMPLATE = ROOT / "local" / "new-service"
PORTS = range(8101, 8200)

# file -> position and text of the new entry. These files list all processes of a machine, and the mesh's timeouts.
ENTRIES = {
    "Procfile": (r"\Z", "$name: local/with-env $name -- python -m $module.main\n"),
    "local/parts.py": (
        r"(?<=\n)(?=\}\n\n\ndef is_job)",
        '    "$name": Part("$name service", ($port,), Service($port)),\n',
    ),
    "observability/prometheus.yml": (
        r"(?=  - job_name: tusd\n)",
        '  - job_name: $name\n    static_configs: [{ targets: ["127.0.0.1:$port"] }]\n',
    ),
    "istio/values.yaml": (r"(?=  tusd:\n    http: )", "  $name:\n    http: $port\n    timeoutSeconds: 12\n"),
    "docker-compose.yml": (
        r"(?<=\n)(?=  # With the same options as local/tusd\.\n)",
        "  $name:\n"
        "    <<: *service\n"
        "    image: ghcr.io/kinora-platform/kinora-$name:0.1.0\n"
        "    build: { context: ., args: { APP: $name } }\n"
        '    environment: { KINORA_HTTP_HOST: 0.0.0.0, KINORA_HTTP_PORT: "$port" }\n\n',
    ),
}


class Refused(Exception):
    """Says what to do instead."""


def new_service(root: Path, name: str) -> str:
    """Create it in a checkout; returns the next steps.

    Raises:
        Refused: nothing was created; the message says why.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]{1,19}", name):
        raise Refused("Name it with 2 to 20 lower-case letters and digits: make new-service NAME=likes")
    if (root / "apps" / name).exists() or name in PARTS or name in ("kit", "environment"):
        raise Refused(f"{name} already exists; give it another name.")
    values = {"name": name, "module": f"kinora_{name}", "title": name.capitalize(), "port": str(_free_port(root))}
    changed = {root / file: _with_entry(root / file, *entry, values) for file, entry in ENTRIES.items()}
    for template in sorted(TEMPLATE.rglob("*.tmpl")):
        path = (
            str(template.relative_to(TEMPLATE)).removesuffix(".tmpl").replace("src/package", f"src/{values['module']}")
        )
        changed[root / "apps" / name / path] = Template(template.read_text()).substitute(values)
    for stack in sorted((root / "pulumi").glob("Pulumi.*.yaml")):
        environment = stack.name.split(".")[1]
        changed[root / "apps" / name / "deploy" / "envs" / environment / "version.yaml"] = "version: 0.1.0\n"
    changed[root / "local" / "env" / f"{name}.env"] = f"KINORA_HTTP_PORT={values['port']}\n"
    for file, text in changed.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for words in (["check", "--fix", "--select=I"], ["format"]):  # the order of imports depends on the name
        subprocess.run([MADE / "venv" / "bin" / "ruff", *words, "--quiet", root / "apps" / name], cwd=root, check=True)
    return (
        f"Created apps/{name}; it listens on port {values['port']}. `make up S={name}` runs it,"
        f" `pytest apps/{name}` tests it, `make images APP={name}` builds it. It has an entry in"
        f" {', '.join(ENTRIES)}.\n"
        "Once pushed, it is rolled out in every environment that has a folder in its deploy/envs: delete those of"
        f" environments that it is not ready for. Nobody may call it yet; apps/{name}/README.md says how to allow that."
    )


def _free_port(root: Path) -> int:
    """The lowest free port above those reserved for the planned services."""
    taken = {port for part in PARTS.values() for port in part.ports}
    for file in (root / "local" / "env").glob("*.env"):
        taken |= {int(value) for key, value in parse(file.read_text()).items() if key.endswith("_PORT")}
    return min(port for port in PORTS if port not in taken and port > 8105)


def _with_entry(file: Path, where: str, entry: str, values: dict[str, str]) -> str:
    """The text of a file with the entry added."""
    text = file.read_text()
    if len(re.findall(where, text)) != 1:
        raise Refused(f"{file.name} has changed: update ENTRIES in local/new_service.py.")
    return re.sub(where, lambda _: Template(entry).substitute(values), text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="new-service", description=__doc__)
    parser.add_argument("name")
    try:
        print(new_service(ROOT, parser.parse_args().name))
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
