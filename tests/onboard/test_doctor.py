from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines import open as engines_open
from onboard import cli, doctor
from onboard.doctor import diagnose, render


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
