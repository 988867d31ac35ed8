"""Dashboard and alert rules name only metrics that the service gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

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
