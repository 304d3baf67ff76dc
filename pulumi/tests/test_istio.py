"""What istio/ lets pass, for how long and how often: as rendered for an environment, and as Istio's own analysis sees it."""

import json
from pathlib import Path
from typing import Any

import yaml

from kinora_environment import helm
from kinora_environment.place import namespace_name

ROOT = Path(__file__).resolve().parents[2]
VALUES: dict[str, Any] = yaml.safe_load((ROOT / "istio" / "values.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = VALUES["services"]

Manifest = dict[str, Any]


# --- what there is ---------------------------------------------------------------------------------------------------


def policies(environment: str = "test", **values: Any) -> list[Manifest]:
    """What Argo CD rolls out from istio/."""
    given = {"environment": environment, "publicUrl": f"https://{environment}.example", **values}
    return helm.template(json.dumps({"chart": "istio", "release_name": "istio", "values": given}), ROOT)


def stand_ins(environment: str = "test") -> list[Manifest]:
    """The services as the gateway and each other see them, as long as there is no chart for them."""
    apps, gateway = namespace_name(environment, "apps"), namespace_name(environment, "gateway")
    found = [*_service(apps, name, SERVICES[name]) for name in ()]
    return found
