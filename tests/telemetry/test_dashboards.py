"""Dashboard and alert rules name only metrics that the service gives."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"\bonboard_[a-z_]+")
LABEL = re.compile(r"\{[^}]*\}")


def given() -> set[str]:
    """Names as they stand in the source of the exposition; counters get their suffix."""
    text = (ROOT / "onboard/api/metrics.py").read_text()
    names = set(re.findall(r'"(onboard_[a-z_]+)"', text))
    counters = set(re.findall(r'(?:CounterMetricFamily|_counter)\(\s*"(onboard_[a-z_]+)"', text))
    return (names - counters) | {f"{name}_total" for name in counters}


def named(expression: str) -> set[str]:
    return set(NAME.findall(LABEL.sub("", expression)))


def test_every_panel_asks_for_what_there_is() -> None:
    dashboard = json.loads((ROOT / "docs/grafana/onboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(asked) > 10
    for expression in asked:
        assert named(expression), expression
        assert named(expression) <= given(), expression


def test_every_alert_asks_for_what_there_is() -> None:
    rules = yaml.safe_load((ROOT / "docs/grafana/alerts.yaml").read_text())["groups"][0]["rules"]
    assert len(rules) > 5
    for rule in rules:
        assert named(rule["expr"]) <= given(), rule["expr"]
        assert rule["annotations"]["summary"]


def test_no_panel_and_no_alert_names_a_rail_of_one_board() -> None:
    for file in ("onboard.json", "alerts.yaml"):
        text = (ROOT / "docs/grafana" / file).read_text()
        assert not re.search(r"VDD_|VIN_SYS|POM_5V|package-0", text), file


def test_alerts_fire_for_any_main_rail_and_each_satellite_by_itself() -> None:
    """Prometheus's own test of rules; it also takes the dashboard's expression of joules a tile."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    tests = Path(__file__).with_name("alerts.yaml")
    dashboard = json.loads((ROOT / "docs/grafana/onboard.json").read_text())
    asked = {target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}
    cases = yaml.safe_load(tests.read_text())["tests"]
    assert {case["expr"] for test in cases for case in test["promql_expr_test"]} <= asked
    ran = subprocess.run(
        [promtool, "test", "rules", str(tests)], check=False, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_panel_s_expression_is_one(tmp_path: Path) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    dashboard = json.loads((ROOT / "docs/grafana/onboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(asked)]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    ran = subprocess.run(
        [promtool, "check", "rules", str(file)], check=False, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
