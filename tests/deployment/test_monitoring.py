"""Dashboard, alerts and Prometheus' configuration against the metrics of the code."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamer.metrics import Metrics
from taggen.slots import SlotTable
from tests import prometheus
from tests.deployment.contract import ROOT

FOLDER = ROOT / "monitoring"
GROUPS = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
PANELS: list[dict[str, Any]] = [
    panel
    for panel in json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    if panel["type"] != "row"
]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
GUIDE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
NAME = re.compile(r"\b(?:streamer|process)_\w+")


def families() -> dict[str, str]:
    """Name -> kind of every metric that a worker has."""
    metrics = Metrics()
    metrics.watch_lag(list)
    metrics.watch_slots(SlotTable(1, 1))
    return {family.name: family.type for family in metrics.registry.collect()}


def samples() -> set[str]:
    """What a query may name: the metrics with the endings that their kind has in Prometheus."""
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"], "gauge": [""]}
    return {name + ending for name, kind in families().items() for ending in endings[kind]}


@pytest.mark.parametrize("expression", [*QUERIES, *(rule["expr"] for rule in RULES)])
def test_every_metric_exists(expression: str) -> None:
    """Each query of a panel or an alert names metrics that the worker exposes."""
    named = set(NAME.findall(expression))
    assert named or "up{" in expression
    assert named - samples() == set()


def test_every_metric_is_documented() -> None:
    """docs/operations.md lists the worker's metrics with their kind, and no others."""
    rows = re.findall(r"^\| `(streamer_\w+)` \| (\w+) \|", GUIDE, re.MULTILINE)
    own = {name: kind for name, kind in families().items() if name.startswith("streamer_")}
    assert dict(rows) == own


def test_every_metric_is_shown() -> None:
    """None is counted for nobody: each is in a panel."""
    shown = {name for query in QUERIES for name in NAME.findall(query)}
    own = {name for name in families() if name.startswith("streamer_")}
    assert {name for name in own if not any(one.startswith(name) for one in shown)} == set()


def test_panels_are_told_apart() -> None:
    """Each has a number and a place of its own, a title and a description."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    places = [tuple(sorted(panel["gridPos"].items())) for panel in PANELS]
    assert len(set(places)) == len(places)
    assert all(panel["title"] and panel["description"] for panel in PANELS)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_has_a_runbook(rule: dict[str, Any]) -> None:
    """Its link leads to a heading of the guide."""
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = {heading.lower() for heading in re.findall(r"^#+ (\w+)$", GUIDE, re.MULTILINE)}
    assert (ROOT / file).is_file()
    assert anchor == rule["alert"].lower()
    assert anchor in headings
    assert rule["labels"]["severity"] in ("critical", "warning")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool, where there is one."""
    with prometheus.required():
        tool = prometheus.program("promtool")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)


def test_prometheus_takes_its_configuration() -> None:
    """And the rules that it names."""
    told = promtool("check", "config", FOLDER / "prometheus.yml")
    assert told.returncode == 0, told.stdout + told.stderr


def test_alerts_fire_when_they_should() -> None:
    """By promtool: each alert has a case that wakes somebody and one that does not."""
    told = promtool("test", "rules", FOLDER / "alerts_test.yml")
    assert told.returncode == 0, told.stdout + told.stderr
    cases = yaml.safe_load((FOLDER / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    for rule in RULES:
        outcomes = {bool(check.get("exp_alerts")) for check in checks if check["alertname"] == rule["alert"]}
        assert outcomes == {True, False}, rule["alert"]
