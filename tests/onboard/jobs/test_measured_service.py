"""Power and heat through the whole service: real processes on the made file tree of an Orin NX."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from tests.onboard.service import ROOT, Served, running, until, write_scene
from tests.telemetry.trees import OC, orin_nx, set_power, write

THROTTLE = "sys/class/thermal/cooling_device1/cur_state"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return orin_nx(tmp_path / "board")


@pytest.fixture
def served(tmp_path: Path, board: Path) -> Iterator[Served]:
    with running(tmp_path / "data", ONBOARD_TELEMETRY_ROOT=str(board), ONBOARD_SAMPLE_HZ="20") as served:
        until(lambda: power_of(served)["power_w"] is not None, "no power is measured")
        yield served


def telemetry(served: Served) -> dict[str, Any]:
    with served.client() as client:
        told: dict[str, Any] = client.get("/telemetry").json()
    return told


def power_of(served: Served) -> dict[str, Any]:
    power: dict[str, Any] = telemetry(served)["power"]
    return power


def kinds(served: Served) -> list[str]:
    with served.ledger() as ledger:
        return [event.kind for event in ledger.events.page(limit=1000)]


def onboard(served: Served, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line with the service's own settings."""
    import os

    told = {"ONBOARD_DATA_DIR": str(served.data), **served.environment}
    command = [sys.executable, "-m", "onboard.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | told, capture_output=True, text=True, check=False)


def test_a_map_says_what_it_cost(tmp_path: Path, board: Path) -> None:
    slow = {"FAULT": "slow:0.02", "FAULT_STATE": str(tmp_path / "openings")}
    told = {"ONBOARD_TELEMETRY_ROOT": str(board), **slow}
    with running(tmp_path / "data", "tests.onboard.faulty", **told) as served:
        until(lambda: power_of(served)["power_w"] is not None, "no power is measured")
        _check_cost(served, tmp_path)


def _check_cost(served: Served, tmp_path: Path) -> None:
    calibrated = onboard(served, "calibrate", "--seconds", "1", "--json")
    assert calibrated.returncode == 0, calibrated.stderr
    assert json.loads(calibrated.stdout)["idle_w"]["power_w:VDD_IN"] == pytest.approx(19.0, abs=1e-3)
    posted = served.post(write_scene(tmp_path / "scene.tif", 300))
    served.wait_for(posted["id"], "mapped")
    with served.client() as client:
        (item,) = client.get("/maps").json()["features"]
        scene = client.get(f"/scenes/{posted['id']}").json()
    told = item["properties"]
    energy = told["onboard:energy"]
    assert energy["rail"] == "VDD_IN"
    # A constant 19 W: whatever the time was, energy is 19 times it.
    assert energy["mean_power_w"] == pytest.approx(19.0, abs=5e-3)
    assert told["onboard:energy_j"] == pytest.approx(19.0 * energy["measured_s"], abs=0.3)
    assert energy["measured_s"] > 0
    assert energy["joules_per_tile"] == pytest.approx(told["onboard:energy_j"] / told["onboard:tiles"], rel=0.01)
    # 300 x 300 pixels of 2 m.
    assert energy["joules_per_km2"] == pytest.approx(told["onboard:energy_j"] / 0.36, rel=0.01)
    assert energy["net_power_w"] == pytest.approx(0.0, abs=5e-3)
    assert told["onboard:temperature_c"] == {"least": 48.5, "most": 48.5}
    assert told["onboard:tiles_per_s"] > 0
    assert scene["energy_j"] == pytest.approx(told["onboard:energy_j"], abs=30)


def test_without_a_source_a_map_says_so(tmp_path: Path) -> None:
    with running(tmp_path / "data", ONBOARD_TELEMETRY_ROOT=str(tmp_path / "nothing")) as served:
        posted = served.post(write_scene(tmp_path / "scene.tif", 100))
        served.wait_for(posted["id"], "mapped")
        until(lambda: telemetry(served)["sources"], "nothing was heard of the sources")
        told = telemetry(served)
        calibrated = onboard(served, "calibrate", "--seconds", "0.2")
        with served.client() as client:
            (item,) = client.get("/maps").json()["features"]
            assert "onboard_power_watts{" not in client.get("/metrics").text
    assert item["properties"]["onboard:energy_j"] is None
    assert item["properties"]["onboard:energy_missing"].startswith("no power was measured: ")
    assert told["power"]["power_w"] is None
    assert "no INA3221 in sysfs" in told["power"]["reason"]
    assert {one["quantity"] for one in told["readings"] if one["value"] is None} >= {"power_w", "temperature_c"}
    assert calibrated.returncode == 2
    assert "no source of power was found" in calibrated.stderr


def test_snapshot_metrics_and_stream_agree(served: Served, board: Path) -> None:
    set_power(board, 12.5)
    until(lambda: power_of(served)["power_w"] == pytest.approx(12.5, abs=1e-3), "the change was not seen")
    told = telemetry(served)
    assert told["power"]["mode"] == "25W"
    assert told["power"]["hottest_c"] == 48.5
    assert {one["unit"] for one in told["readings"] if one["quantity"] == "power_w"} == {"W"}
    assert all(one["at"] and (one["value"] is not None or one["reason"]) for one in told["readings"])
    assert told["sources"]["ina3221"] == ""
    assert "rapl" in told["sources"]
    with served.client() as client:
        plain = client.get("/metrics").text
        accept = {"Accept": "application/openmetrics-text"}
        strict = list(openmetrics_families(client.get("/metrics", headers=accept).text))  # type: ignore[no-untyped-call]
        with client.stream("GET", "/telemetry/stream", params={"every_s": 0.2, "count": 3}) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert len(events) == 3
    assert events[0]["power"]["rail"] == "VDD_IN"
    families = {family.name: family for family in text_string_to_metric_families(plain)}
    wanted = {"onboard_power_watts", "onboard_energy_joules", "onboard_governor_state"}
    assert {family.name for family in strict} >= wanted
    watts = {sample.labels["rail"]: sample.value for sample in families["onboard_power_watts"].samples}
    assert watts["VDD_IN"] == pytest.approx(12.5, abs=1e-3)
    (joules,) = (s.value for s in families["onboard_energy_joules"].samples if s.labels.get("rail") == "VDD_IN")
    assert joules > 0


def test_only_so_many_streams_at_once(tmp_path: Path, board: Path) -> None:
    settings = {"ONBOARD_TELEMETRY_ROOT": str(board), "ONBOARD_MAX_STREAMS": "1"}
    with running(tmp_path / "data", **settings) as served, served.client() as client:
        with client.stream("GET", "/telemetry/stream") as first:
            lines = first.iter_lines()
            assert next(lines)
            assert client.get("/telemetry/stream", params={"count": 1}).status_code == 429
        until(
            lambda: client.get("/telemetry/stream", params={"count": 1}).status_code == 200,
            "the place of a stream that ended was not given back",
        )


def test_a_replayed_trace_integrates_to_the_joules_computed_by_hand(served: Served, board: Path) -> None:
    """A ramp, a step and a rest, held against the history's own samples."""
    from telemetry.history import Reader
    from telemetry.report import figures_of
    from telemetry.table import Table

    before = next(rail for rail in power_of(served)["rails"] if rail["rail"] == "VDD_IN")
    stop = threading.Event()

    def play() -> None:
        watts = 5.0
        while not stop.wait(0.05):
            watts = 5.0 if watts > 30 else watts + 0.5
            set_power(board, watts)

    thread = threading.Thread(target=play)
    thread.start()
    until(lambda: power_of(served)["rails"][0]["measured_s"] > before["measured_s"] + 4, "no time passes")
    stop.set()
    thread.join()
    served.stop()
    with_history = Reader(served.data / "telemetry" / "history.sqlite").query(step_s=0, limit=100_000)
    table = Table(with_history.columns)
    there = np.isfinite(table.mean("power_w:VDD_IN"))  # the chip has a new value less often than rows are written
    watts, seconds = table.mean("power_w:VDD_IN")[there], table.seconds[there]
    spans = [float(later - earlier) for earlier, later in itertools.pairwise(seconds)]
    near = 3 * max(sorted(spans)[len(spans) // 2], table.step_s)  # beyond that is a gap: a busy machine has some
    areas = [(watts[i] + watts[i + 1]) / 2 * span for i, span in enumerate(spans) if span <= near]
    by_hand = sum(areas)
    (rail,) = (one for one in figures_of(table).rails if one.rail == "VDD_IN")
    assert rail.energy_j == pytest.approx(by_hand)
    assert len(areas) > len(spans) / 2
    assert watts.max() > 29
    assert rail.peak_w == watts.max()


def test_history_outlives_the_service_and_a_pass_pulls_what_is_new(served: Served, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    dest, rows = tmp_path / "ground", list[int]()

    def pull() -> dict[str, Any]:
        command = [sys.executable, "-m", "ground.cli", "telemetry", served.url, "--dest", str(dest), "--step", "1s"]
        done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        rows.append(told["rows"])
        return told

    until(lambda: power_of(served)["rails"][0]["measured_s"] > 3, "no time passes")
    served.stop()
    served.start()
    assert pull()["rows"] >= 3
    with served.ledger() as ledger:
        sequence = ledger.events.log("warning", "testing", "something happened")
    assert pull()["events"] == 1
    with served.client() as client:
        assert client.get("/events").json()["acknowledged"] >= sequence
        csv = client.get("/telemetry/history", params={"step": 1, "format": "csv", "fields": "power_w:VDD_IN"})
        assert client.get("/telemetry/history", params={"step": -1}).status_code == 422
    lines = csv.text.splitlines()
    assert lines[0] == "tick,utc_s,samples,power_w:VDD_IN.min,power_w:VDD_IN.mean,power_w:VDD_IN.max"
    assert lines[1].endswith(",19.0,19.0,19.0")
    served.stop()
    served.start()
    until(lambda: pull()["rows"], "no second comes after the restart")
    files = sorted((dest / "history").glob("*.parquet"))
    ticks = [tick for path in files for tick in pq.read_table(path)["tick"].to_pylist()]
    assert ticks == sorted(set(ticks))
    assert len(ticks) == sum(rows)
    events = [json.loads(line)["sequence"] for line in (dest / "events.jsonl").read_text().splitlines()]
    assert events == sorted(set(events))
    assert sequence in events
    reported = onboard(served, "report", str(dest), "--out", str(tmp_path / "power"), "--json")
    assert reported.returncode == 0, reported.stderr
    assert json.loads(reported.stdout)["rails"][0]["mean_w"] == pytest.approx(19.0)
    assert (tmp_path / "power.png").read_bytes().startswith(b"\x89PNG")
    by_url = onboard(served, "report", served.url, "--out", str(tmp_path / "live"))
    assert by_url.returncode == 0, by_url.stderr
    assert "VDD_IN" in by_url.stdout


def test_throttling_over_current_and_lost_sources_are_events(served: Served, board: Path) -> None:
    write(board, {THROTTLE: "1\n", OC + "oc2_event_cnt": "3\n"})
    until(lambda: {"throttling-began", "over-current"} <= set(kinds(served)), "no event of throttling or over-current")
    assert telemetry(served)["power"]["throttling"]
    (folder,) = board.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*")
    for path in folder.glob("*_input"):
        path.write_text("garbled\n")
    until(lambda: "source-lost" in kinds(served), "the loss was not told")
    lost = power_of(served)
    assert lost["power_w"] is None
    orin_nx(board)
    until(lambda: {"source-found", "throttling-ended"} <= set(kinds(served)), "the return was not told")


def test_a_sampling_process_that_is_killed_comes_back(served: Served) -> None:
    served.kill("sampling")
    until(lambda: "sampling-died" in kinds(served), "its death was not told")
    until(lambda: power_of(served)["reason"] == "", "it did not come back")


def test_the_governor_holds_work_back_and_says_why(tmp_path: Path, board: Path) -> None:
    limits = {"ONBOARD_MAX_TEMPERATURE_C": "45", "ONBOARD_MIN_DUTY_PERIOD_S": "1"}
    with running(tmp_path / "data", ONBOARD_TELEMETRY_ROOT=str(board), **limits) as served:
        until(lambda: power_of(served)["hottest_c"] == 48.5, "no heat is measured")
        posted = served.post(write_scene(tmp_path / "scene.tif", 600))
        until(lambda: telemetry(served)["governor"]["state"] == "hot", "the governor does not stop the work")
        assert "over 45 °C" in telemetry(served)["governor"]["why"]
        assert "governor-hot" in kinds(served)
        with served.client() as client:
            assert 'onboard_governor_state{onboard_governor_state="hot"} 1.0' in client.get("/metrics").text
        for zone in board.glob("sys/class/thermal/thermal_zone*/temp"):
            zone.write_text("30000\n")
        served.wait_for(posted["id"], "mapped")
        assert "governor-free" in kinds(served)


def test_events_are_acknowledged_by_the_ground_only(served: Served) -> None:
    with served.client() as client:
        known = client.get("/events").json()["acknowledged"]
        future = client.post("/events/acknowledged", json={"until": 10**15}).json()["until"]
        assert known <= future < 10**15
        assert client.post("/events/acknowledged", json={"until": 0}).json()["until"] == future
        assert isinstance(client, httpx.Client)


def test_without_a_place_for_history_measuring_goes_on(tmp_path: Path, board: Path) -> None:
    (tmp_path / "data" / "telemetry" / "history.sqlite").mkdir(parents=True)
    with running(tmp_path / "data", ONBOARD_TELEMETRY_ROOT=str(board)) as served:
        until(lambda: power_of(served)["power_w"] is not None, "no power is measured")
        assert "history-off" in kinds(served)
        with served.client() as client:
            assert client.get("/telemetry/history").json()["columns"]["tick"] == []
