"""The environment variables of a process: local/env/<process>.env, with this machine's secrets filled in.

Standard library only: it runs before the virtual environment exists.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parent.parent
MADE = ROOT / ".kinora"
SECRETS = MADE / "secrets.env"
FILES = ROOT / "local" / "env"

# The only inherited variables; all others are in the process's file.
INHERITED = ("HOME", "LANG", "TZ")


def parse(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def load(process: str) -> dict[str, str]:
    """The variables of one process. SystemExit with a message if its file or a secret is missing."""
    file = FILES / f"{process}.env"
    if not file.exists():
        raise SystemExit(f"with-env: local/env/{process}.env does not exist")
    known = parse(SECRETS.read_text()) if SECRETS.exists() else {}
    try:
        return {name: Template(value).substitute(known) for name, value in parse(file.read_text()).items()}
    except KeyError as missing:
        raise SystemExit(
            f"with-env: local/env/{process}.env needs the secret {missing.args[0]}, which is not in"
            " .kinora/secrets.env; `make up` generates it"
        ) from None


def environment(process: str | None) -> dict[str, str]:
    """The whole environment of one process; without a name, only the common variables."""
    path = [str(MADE / "venv" / "bin"), str(MADE / "bin"), os.environ.get("PATH", os.defpath)]
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {"PATH": os.pathsep.join(path), **inherited, **(load(process) if process else {})}


def generate_secrets() -> None:
    """Generate a random value for each ${NAME} in local/env; existing values never change."""
    wanted = {
        name
        for file in FILES.glob("*.env")
        for value in parse(file.read_text()).values()
        for name in Template(value).get_identifiers()
    }
    known = parse(SECRETS.read_text()) if SECRETS.exists() else {}
    missing = sorted(wanted - known.keys())
    if not missing:
        return
    known |= {name: secrets.token_urlsafe(32) for name in missing}
    MADE.mkdir(exist_ok=True)
    # Written to a temporary file and renamed, so that an interruption never loses the secrets of existing stores.
    partial = SECRETS.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in sorted(known.items()))
    partial.replace(SECRETS)
