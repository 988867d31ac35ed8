"""GET /metrics of a real service, judged by Prometheus's own linter where it is installed, and on other boards."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.onboard.service import Served, running, until, write_scene
from tests.telemetry.trees import orin_nx, write

LIMIT = {"ONBOARD_MAX_MEAN_POWER_W": "500"}
COUNTER = "sys/class/powercap/intel-rapl:0/energy_uj"


def metrics(served: Served) -> str:
    with served.client() as client:
        return client.get("/metrics").text


def labels_of(text: str, name: str) -> list[dict[str, str]]:
    families = text_string_to_metric_families(text)
    return [sample.labels for family in families for sample in family.samples if sample.name == name]


def test_a_whole_exposition_is_faultless(tmp_path: Path) -> None:
    """Of a board that measures everything, after a scene: every family has samples."""
    board = orin_nx(tmp_path / "board")
    with running(tmp_path / "s" / "data", ONBOARD_TELEMETRY_ROOT=str(board), **LIMIT) as served:
        served.wait_for(served.post(write_scene(tmp_path / "scene.tif", 100))["id"], "mapped")
        until(lambda: "onboard_main_energy_joules_total{" in metrics(served), "no energy was counted")
        text = metrics(served)
    assert labels_of(text, "onboard_main_power_watts") == [{"source": "ina3221", "rail": "VDD_IN"}]
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith("."), family.name
        # Prometheus keeps the label for summaries, which have a sum and a count.
        assert family.type == "summary" or not any("quantile" in sample.labels for sample in family.samples)
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (Debian: prometheus); the exposition was parsed, not linted")
    linted = subprocess.run(
        [promtool, "check", "metrics"], check=False, input=text, capture_output=True, text=True, timeout=60
    )
    assert (linted.returncode, linted.stderr) == (0, "")


def test_the_main_rail_has_one_name_on_every_machine(tmp_path: Path) -> None:
    """A PC counts its processor's package; dashboard and alerts ask for onboard_main_... and need no rail's name."""
    zone = {"name": "package-0\n", "energy_uj": "1000000\n", "max_energy_range_uj": "262143328850\n"}
    board = write(tmp_path / "pc", {f"sys/class/powercap/intel-rapl:0/{name}": text for name, text in zone.items()})
    counter, joules = board / COUNTER, iter(range(2, 100_000))

    def told() -> bool:
        fresh = counter.with_suffix(".new")
        fresh.write_text(f"{next(joules)}000000\n")
        fresh.replace(counter)
        return "onboard_main_power_watts{" in metrics(served)

    with running(tmp_path / "s" / "data", ONBOARD_TELEMETRY_ROOT=str(board)) as served:
        until(told, "no power was measured")
        text = metrics(served)
    assert labels_of(text, "onboard_main_power_watts") == [{"source": "rapl", "rail": "package-0"}]
    assert labels_of(text, "onboard_main_energy_joules_total") == [{"source": "rapl", "rail": "package-0"}]
