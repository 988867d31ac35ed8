from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from engines import open as engines_open
from onboard import cli, doctor
from onboard.doctor import diagnose, render
from tests.telemetry.trees import orin_nx, write

RAPL = {"name": "package-0\n", "energy_uj": "000000000000\n", "max_energy_range_uj": "262143328850\n"}


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


def test_a_counter_of_joules_is_not_asked_twice_at_once(tmp_path: Path) -> None:
    """It counts in steps of a millisecond: between two reads in a row it stands still, and the power would be 0 W."""
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    write(tmp_path, {f"{zone.relative_to(tmp_path)}/{name}": text for name, text in RAPL.items()})
    stop = threading.Event()

    def count() -> None:
        begin = time.monotonic()
        with (zone / "energy_uj").open("r+b") as file:
            while not stop.wait(0.001):
                # 20 W, in steps of a millisecond and always as long.
                file.seek(0)
                file.write(b"%012d\n" % (20_000 * int(1e3 * (time.monotonic() - begin))))
                file.flush()

    counting = threading.Thread(target=count)
    counting.start()
    try:
        (power,) = (row.found for row in diagnose(root=tmp_path).findings if row.name == "power")
    finally:
        stop.set()
        counting.join()
    assert 10 < float(power.partition(" W by rapl")[0]) < 40


def test_cores_are_those_that_engines_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has fewer by its quota than by affinity."""
    monkeypatch.setattr(doctor, "usable_cores", lambda: 3)
    processor = next(row.found for row in diagnose(root=tmp_path).findings if row.name == "processor")
    assert "3 cores usable" in processor


def test_a_folder_below_one_that_is_closed_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, to whom nothing is closed."""
    closed, exists = tmp_path / "closed", Path.exists

    def asked(path: Path) -> bool:
        if closed in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    closed.mkdir()
    monkeypatch.setattr(Path, "exists", asked)
    names = [row.name for row in diagnose(root=tmp_path, disk=closed / "maps" / "new").findings if row.topic == "disk"]
    assert names[0] == str(closed / "maps" / "new")
