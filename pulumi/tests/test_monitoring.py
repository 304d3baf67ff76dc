"""The configuration of Prometheus and Alertmanager, checked by their own tools."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kinora_environment import config, render
from kinora_environment.place import namespace_name
from kinora_environment.render import Rendered


def data(rendered: Rendered, kind: str, name: str) -> dict[str, Any]:
    namespace = namespace_name(rendered.stack, "monitoring")
    (found,) = (
        each
        for each in rendered.objects
        if (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace")) == (kind, name, namespace)
    )
    return found


def check(tool: str, *words: str) -> None:
    program = shutil.which(tool)
    assert program, f"{tool} is missing: `make install`"
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def single(rendered: Callable[[str], Rendered]) -> Rendered:
    return rendered("dev")


def test_promtool_accepts_the_configuration_and_its_rules(single: Rendered, tmp_path: Path) -> None:
    for name, text in data(single, "ConfigMap", "prometheus-rules")["data"].items():
        (tmp_path / name).write_text(text)
    told = yaml.safe_load(data(single, "ConfigMap", "prometheus")["data"]["prometheus.yml"])
    told["rule_files"] = [str(tmp_path / Path(each).name) for each in told["rule_files"]]
    for job in told["scrape_configs"]:
        # Debian's promtool lacks Kubernetes service discovery: the test below covers that part.
        assert job.pop("kubernetes_sd_configs")
    (tmp_path / "prometheus.yaml").write_text(json.dumps(told))
    check("promtool", "check", "config", str(tmp_path / "prometheus.yaml"))


def test_prometheus_discovers_only_the_environment(single: Rendered) -> None:
    told = yaml.safe_load(data(single, "ConfigMap", "prometheus")["data"]["prometheus.yml"])
    for job in told["scrape_configs"]:
        for discovery in job["kubernetes_sd_configs"]:
            assert discovery["namespaces"]["names"]
            assert all(name.startswith("kinora-dev-") for name in discovery["namespaces"]["names"])


def test_alertmanager_reads_webhook_url_from_a_secret() -> None:
    given = render.configuration("dev")
    hook = config.Monitoring.model_validate({"alert_webhook": "https://chat.example/hooks/4711"})
    rendered = render.render("test", given.model_copy(update={"monitoring": hook}))
    told = yaml.safe_load(data(rendered, "ConfigMap", "alertmanager")["data"]["alertmanager.yml"])
    (receiver,) = told["receivers"]
    assert receiver["name"] == told["route"]["receiver"]
    assert set(receiver["webhook_configs"][0]) == {"url_file", "send_resolved"}
    for resource in rendered.resources:
        if "4711" in json.dumps(dict(resource.inputs)):
            assert (resource.type, "stringData" in resource.secret) == ("kubernetes:core/v1:Secret", True)


def test_grafana_can_be_disabled(single: Rendered) -> None:
    given = render.configuration("dev")
    without = given.model_copy(update={"monitoring": config.Monitoring(grafana=False)})
    rendered = render.render("dev", without)
    missing = {render.identity(each) for each in single.objects} - {render.identity(each) for each in rendered.objects}
    assert (
        missing == {render.identity(each) for each in single.objects if "grafana" in each["metadata"]["name"]} != set()
    )
    assert rendered.outputs["grafana"] == "not installed: `monitoring.grafana` is false"


def test_operator_mode_has_the_same_rules(rendered: Callable[[str], Rendered], single: Rendered) -> None:
    ours = {
        rule["alert"]
        for text in data(single, "ConfigMap", "prometheus-rules")["data"].values()
        for group in yaml.safe_load(text)["groups"]
        for rule in group["rules"]
    }
    theirs = {
        rule["alert"]
        for each in rendered("prod").objects
        if each["kind"] == "PrometheusRule"
        for group in each["spec"]["groups"]
        for rule in group["rules"]
    }
    assert ours == theirs != set()
