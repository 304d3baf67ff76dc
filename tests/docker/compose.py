"""Runs docker-compose.yml through the shell and the docker command."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environment import ROOT

UP_SECONDS = 600
"""For a busy machine; an idle one takes a minute."""
README = (ROOT / "README.md").read_text().partition("\n### Docker\n")[2].partition("\n### ")[0]
"""The section on Docker."""
COMMANDS = re.findall(r"^    (.+)$", README, re.MULTILINE)
figures: list[str] = []
"""Measurements, printed after the tests."""


@dataclass(frozen=True)
class Compose:
    folder: Path
    """Contains docker-compose.yml and .env."""
    environment: dict[str, str]

    def shell(self, command: str) -> str:
        """The command's output. Raises AssertionError with the output if it fails."""
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=UP_SECONDS + 60,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}{done.stderr[-5000:]}"
        return done.stdout

    def docker(self, *arguments: str) -> str:
        return subprocess.run(
            ["docker", *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    def images(self) -> set[str]:
        return set(self.docker("compose", "--profile=tools", "config", "--images").split())

    def containers(self) -> dict[str, dict[str, Any]]:
        """`docker inspect` of each service's container."""
        names = self.docker("compose", "ps", "--all", "--quiet").split()
        found = json.loads(self.docker("inspect", *names))
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}

    def unhealthy(self) -> dict[str, str]:
        """The services that should run but are not healthy, and their state."""
        return {
            name: each["State"]["Status"] + " " + each["State"].get("Health", {}).get("Status", "")
            for name, each in self.containers().items()
            if each["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
            and each["State"].get("Health", {}).get("Status") != "healthy"
        }

    def await_health(self) -> None:
        deadline = time.monotonic() + UP_SECONDS
        while bad := self.unhealthy():
            assert time.monotonic() < deadline, bad
            time.sleep(0.5)
