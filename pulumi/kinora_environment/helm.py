"""Renders charts like Pulumi's Kubernetes provider, without the provider: for rendering and tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kinora_environment.upstream import Unavailable

BIN = Path(__file__).resolve().parents[2] / ".kinora" / "bin"


def program(name: str) -> str:
    """The path of a program that `make tools` builds.

    Raises:
        Unavailable: if it is neither built nor on the PATH.
    """
    found = shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise Unavailable(f"{name} is missing: `make tools`")
    return found


def template(json_opts: str, charts: Path) -> list[dict[str, Any]]:
    """The objects of a chart that has a copy in ``charts``.

    ``json_opts``: the options that `pulumi_kubernetes.helm.v3.Chart` passes to the provider; the chart's repository is
    ignored.

    Raises:
        Unavailable: if helm or the copy of the chart is missing.
    """
    return [each for each in yaml.load_all(_rendered(json_opts, charts), yaml.CSafeLoader) if each]


@cache
def _rendered(json_opts: str, charts: Path) -> str:
    given = {key: value for key, value in json.loads(json_opts).items() if value is not None}
    chart = charts / given["chart"]
    if not (chart / "Chart.yaml").exists():
        raise Unavailable(f"The chart {given['chart']} is not in {charts}: `make tools`")
    command = [program("helm"), "template", given["release_name"], str(chart), "--values=-"]
    command += [f"--namespace={given['namespace']}"] if "namespace" in given else []
    command += [] if given.get("skip_crd_rendering") else ["--include-crds"]
    command += [] if given.get("include_test_hook_resources") else ["--skip-tests"]
    command += [f"--kube-version={given['kube_version']}"] if "kube_version" in given else []
    command += [f"--api-versions={each}" for each in given.get("api_versions", [])]
    done = subprocess.run(
        command, input=json.dumps(given.get("values", {})), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"helm cannot render {given['chart']}: {done.stderr.strip()}")
    return done.stdout
