from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines import open as engines_open
from onboard import cli, doctor
from onboard.doctor import diagnose, render
from tests.telemetry.trees import orin_nx


def test_what_is_missing_says_why_and_what_to_do(tmp_path: Path) -> None:
    report = diagnose(root=tmp_path, disk=tmp_path / "not" / "yet")
    missing = {finding.name: finding.missing for finding in report.findings if not finding.found}
    assert {"ina3221", "rapl", "thermal"} <= set(missing)
    assert all("; " in text for text in missing.values())
    assert "missing: no INA3221 in sysfs" in render(report)


def test_a_damaged_model_is_a_finding_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    monkeypatch.setattr(doctor, "shipped_models", lambda: engines_open.shipped_models(tmp_path))
    monkeypatch.setattr(doctor, "default_model", lambda: engines_open.default_model(tmp_path))
    report = diagnose(root=tmp_path, disk=tmp_path)
    assert not report.can_map
    assert "cannot map" in render(report)
    assert any(finding.name == "broken" and "manifest.json" in finding.missing for finding in report.findings)


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {finding["topic"] for finding in found["findings"]} >= {"machine", "backend", "model", "measured", "disk"}


def findings(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    assert cli.main(["doctor", "--json"]) == 0
    found: list[dict[str, str]] = json.loads(capsys.readouterr().out)["findings"]
    return found


def test_it_measures_where_the_service_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONBOARD_TELEMETRY_ROOT", str(orin_nx(tmp_path / "board")))
    found = {(row["topic"], row["name"]): row["found"] for row in findings(capsys)}
    assert "VDD_IN" in found["measured", "ina3221"]
    assert found["measured", "root"].startswith(str(tmp_path / "board"))
    monkeypatch.setenv("ONBOARD_TELEMETRY_ROOT", str(tmp_path / "none"))
    missing = {row["name"]: row["missing"] for row in findings(capsys)}
    assert "correct ONBOARD_TELEMETRY_ROOT" in missing["root"]


def test_settings_that_cannot_be_read_are_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONBOARD_PORT", "many")
    missing = {row["name"]: row["missing"] for row in findings(capsys) if row["topic"] == "settings"}
    assert "ONBOARD_PORT is 'many'" in missing["service"]
