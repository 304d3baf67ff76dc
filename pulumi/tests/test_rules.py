"""Each alert has an owner, a runbook, and a promtool test that shows it silent and firing."""

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from kinora_environment.render import PROJECT

ROOT = PROJECT.parent
RULES = sorted((ROOT / "observability" / "rules").glob("*.yml"))
TESTS = sorted((ROOT / "observability" / "tests").glob("*.yml"))
ALERTS = [
    rule
    for file in RULES
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]


def promtool(*words: str) -> None:
    program = shutil.which("promtool")
    assert program, "promtool is missing: `make install`"
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", *map(str, RULES))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alert_unit_tests_pass(file: Any) -> None:
    promtool("test", "rules", str(file))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alerts_have_owner_runbook_and_both_tests(alert: dict[str, Any]) -> None:
    assert alert["labels"]["owner"] in ("platform", "services")
    assert alert["labels"]["severity"] in ("warning", "critical")
    page, _, entry = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), flags=re.MULTILINE)
    assert entry in [heading.lower() for heading in headings]
    cases = [
        case
        for file in TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == alert["alert"]
    ]
    assert any(case.get("exp_alerts") for case in cases), "never seen firing"
    assert any(not case.get("exp_alerts") for case in cases), "never seen silent"
