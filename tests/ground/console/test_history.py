"""Curves of histories that are mixed, long, damaged, or of a board whose clock was not set."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.onboard.service import ROOT

pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

# After the packages that they need.
from ground.console import history  # noqa: E402
from ground.console.events import EventFile  # noqa: E402
from ground.console.history import HistoryFiles, NoHistory  # noqa: E402
from ground.console.index import MapIndex  # noqa: E402
from ground.console.satellite import Satellite  # noqa: E402
from ground.console.serve import read_ahead  # noqa: E402
from ground.console.state import Console  # noqa: E402

BEGIN_S = 1_780_000_000.0
RAIL = "power_w:VDD_IN.mean"


def write(
    folder: Path, seconds: Any, watts: Any, *, utc_s: Any = None, step_s: float = 60.0, epoch: int = 0,
    samples: Any = None,
) -> Path:  # fmt: skip
    """One file of `ground telemetry`: seconds of running, and the power in each row."""
    seconds = np.asarray(seconds, np.float64)
    ticks = (1000 * seconds).astype(np.int64)
    columns = {
        "tick": ticks, "utc_s": BEGIN_S + seconds if utc_s is None else np.asarray(utc_s, np.float64),
        RAIL: np.broadcast_to(np.asarray(watts, np.float64), seconds.shape),
        "power_w:VDD_IN.max": np.broadcast_to(np.asarray(watts, np.float64) + 1, seconds.shape),
        "work:busy.mean": (np.arange(len(seconds)) // 900 % 2).astype(np.float64),
        "temperature_c:tj.max": np.full(len(seconds), 50.0), "clock_hz:cpu.mean": np.full(len(seconds), 1e9),
    }  # fmt: skip
    if samples is not None:
        columns["samples"] = np.asarray(samples)
    history = folder / "history"
    history.mkdir(parents=True, exist_ok=True)
    path = history / f"{epoch:03d}-{ticks[0]:015d}-{ticks[-1]:015d}.parquet"
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    pq.write_table(table.replace_schema_metadata({"step_s": f"{step_s:g}"}), path)
    return path


def curves(folder: Path, *, most_rows: int = 200_000, **options: Any) -> dict[str, Any]:
    asked = {"begin_s": None, "end_s": None, "points": 100, "orbit_s": 3600.0} | options
    return HistoryFiles(folder, most_rows).curves(**asked)


def test_files_of_different_steps_have_the_energy_of_their_own_steps(tmp_path: Path) -> None:
    """Most rows are of one second, and still those of a minute are no gaps; a gap between seconds is one."""
    write(tmp_path, np.arange(0, 7200, 60.0), 10.0, step_s=60)
    write(tmp_path, np.arange(7200, 10800, 1.0), 10.0, step_s=1)
    write(tmp_path, np.arange(10830, 14400, 1.0), 10.0, step_s=1)
    found = curves(tmp_path)
    rail = found["rails"][0]
    # From the first row to the end of the last one, without the 30 s in which nothing was measured.
    measured = 14400 - 30
    assert rail["measured_s"] == pytest.approx(measured)
    assert rail["energy_j"] == pytest.approx(10.0 * measured)
    assert [orbit["energy_j"] for orbit in found["orbits"]] == pytest.approx([36_000, 36_000, 36_000, 35_700])


def test_rows_that_two_files_have_count_once(tmp_path: Path) -> None:
    """As pulls leave them that were cut before they were noted, or whose note was removed."""

    def total() -> tuple[int, float, float]:
        found = files.curves(None, None, 100, 3600.0)
        return found["rows"], found["rails"][0]["energy_j"], sum(orbit["energy_j"] for orbit in found["orbits"])

    files = HistoryFiles(tmp_path)
    write(tmp_path, np.arange(0, 100, 1.0), 10.0, step_s=1)
    assert total() == pytest.approx((100, 1000, 1000))
    write(tmp_path, np.arange(0, 150, 1.0), 10.0, step_s=1)
    assert total() == pytest.approx((150, 1500, 1500))
    write(tmp_path, np.arange(20, 400, 1.0), 10.0, step_s=1)
    write(tmp_path, np.arange(60, 360, 60.0), 10.0, step_s=60)
    assert total() == pytest.approx((400, 4000, 4000))
    write(tmp_path, np.arange(0, 100, 1.0), 10.0, step_s=1, epoch=1)  # another history, whose time begins again
    assert total() == pytest.approx((500, 5000, 5000))
    # What was read of a file depends on those before it.
    (tmp_path / "history" / "000-000000000000000-000000000149000.parquet").unlink()
    (tmp_path / "history" / "000-000000000000000-000000000099000.parquet").write_bytes(b"PAR1")
    assert total() == pytest.approx((480, 4800, 4800))


def test_a_gap_is_judged_by_the_files_own_step(tmp_path: Path) -> None:
    """Rows of a minute, of which one in ten is there: the usual distance of rows says nothing."""
    write(tmp_path, np.arange(0, 6000, 600.0), 10.0, step_s=60)
    assert curves(tmp_path)["rails"][0]["measured_s"] == 600


def test_a_rows_mean_counts_for_its_own_time_and_not_for_its_neighbours(tmp_path: Path) -> None:
    """A minute at 20 W and one at 6 W; the third has a tenth of its samples, so that it lasted 6 s."""
    write(tmp_path, [0.0, 60.0, 120.0], [20.0, 6.0, 10.0], samples=[600, 600, 60])
    rail = curves(tmp_path)["rails"][0]
    assert (rail["energy_j"], rail["measured_s"]) == pytest.approx((60 * 20 + 60 * 6 + 6 * 10, 126))


def test_a_row_that_the_next_one_cuts_short_counts_for_its_own_time(tmp_path: Path) -> None:
    """The service was started again 30 s into the second minute."""
    write(tmp_path, [0.0, 60.0, 90.0], [20.0, 6.0, 10.0])
    rail = curves(tmp_path)["rails"][0]
    assert (rail["energy_j"], rail["measured_s"]) == pytest.approx((60 * 20 + 30 * 6 + 60 * 10, 150))


def test_a_value_stands_for_the_rows_that_have_none_up_to_the_next_one(tmp_path: Path) -> None:
    """A rail that is measured more seldom than rows are written."""
    write(tmp_path, [0.0, 60.0, 120.0], [20.0, np.nan, 10.0])
    rail = curves(tmp_path)["rails"][0]
    assert (rail["energy_j"], rail["measured_s"]) == pytest.approx((120 * 20 + 60 * 10, 180))


def test_single_samples_are_joined_by_trapezoids(tmp_path: Path) -> None:
    """As `ground telemetry --step 0` leaves them, in two files."""
    for begin in (0, 3):
        path = tmp_path / "history" / f"000-{1000 * begin:015d}-{1000 * begin + 2000:015d}.parquet"
        path.parent.mkdir(exist_ok=True)
        seconds = np.arange(begin, begin + 3)
        columns = {"tick": 1000 * seconds, "utc_s": BEGIN_S + seconds, "power_w:VDD_IN": 10.0 * seconds}
        pq.write_table(pa.table(columns).replace_schema_metadata({"step_s": "0"}), path)
    rail = curves(tmp_path)["rails"][0]
    assert (rail["energy_j"], rail["measured_s"]) == pytest.approx((125, 5))


def test_means_are_by_time_and_not_by_rows(tmp_path: Path) -> None:
    write(tmp_path, np.arange(0, 3600, 60.0), 4.0, step_s=60)
    write(tmp_path, np.arange(3600, 7200, 1.0), 8.0, step_s=1)
    assert curves(tmp_path)["rails"][0]["mean_w"] == pytest.approx(6.0, rel=1e-3)
    assert curves(tmp_path, points=1)["power_w"]["VDD_IN"] == pytest.approx([6.0], rel=1e-3)


def test_rows_of_1970_lie_where_their_running_time_lies(tmp_path: Path) -> None:
    """A board starts without a clock, and sets it after ten minutes; the newest orbits are there."""
    seconds = np.arange(0, 36_000, 60.0)
    utc_s = np.where(seconds < 600, seconds, BEGIN_S + seconds)
    write(tmp_path, seconds, 10.0, utc_s=utc_s)
    late = np.arange(36_000, 39_600, 60.0)
    write(tmp_path, late, 10.0, utc_s=late - 36_000)  # and once more at the end
    found = curves(tmp_path)
    assert (found["from_s"], found["to_s"]) == (BEGIN_S, BEGIN_S + late[-1])
    assert found["clock_unset_rows"] == 10 + len(late)
    assert not found["clock_set_back"]
    assert None not in found["power_w"]["VDD_IN"]
    assert [orbit["begin_s"] for orbit in found["orbits"]] == [BEGIN_S + 3600 * orbit for orbit in range(11)]


def test_a_board_that_never_had_a_clock_still_has_curves(tmp_path: Path) -> None:
    seconds = np.arange(0, 3600, 60.0)
    write(tmp_path, seconds, 10.0, utc_s=seconds)
    found = curves(tmp_path)
    assert found["rails"][0]["measured_s"] == pytest.approx(3600)
    assert found["clock_unset_rows"] == 60


def test_of_more_orbits_than_are_shown_the_oldest_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, np.arange(0, 60 * 2100, 60.0), 10.0)
    orbits = curves(tmp_path, orbit_s=60.0)["orbits"]
    assert len(orbits) == 2000
    assert orbits[-1]["begin_s"] == BEGIN_S + 60 * 2099


@pytest.mark.parametrize("most_rows", [100, 1000, 10_000])
def test_a_history_that_is_thinned_keeps_energy_means_and_peaks(tmp_path: Path, most_rows: int) -> None:
    seconds = np.arange(0, 40_000, 1.0)
    watts = 10 + 5 * np.sin(seconds / 3000)
    watts[12_345] = 99.0
    for begin in range(0, len(seconds), 2000):
        write(tmp_path, seconds[begin : begin + 2000], watts[begin : begin + 2000], step_s=1)
    whole, thin = curves(tmp_path), curves(tmp_path, most_rows=most_rows)
    kept = HistoryFiles(tmp_path, most_rows)
    kept.curves(None, None, 100, 3600.0)
    assert sum(len(part) for parts in kept._read.values() for part in parts) <= most_rows
    assert thin["rows"] == whole["rows"] == 40_000
    for name in ("energy_j", "measured_s", "mean_w", "peak_w"):
        assert thin["rails"][0][name] == pytest.approx(whole["rails"][0][name], rel=1e-4), name
    assert whole["rails"][0]["peak_w"] == 100.0
    assert None not in thin["power_w"]["VDD_IN"]
    assert len(thin["time_s"]) <= 100


def test_a_short_span_has_bins_that_its_rows_fill(tmp_path: Path) -> None:
    """An hour of minutes in 600 bins would be sixty lone points."""
    write(tmp_path, np.arange(0, 86_400, 60.0), 10.0)
    found = curves(tmp_path, points=600, last_s=3600.0)
    assert found["time_s"][0] >= BEGIN_S + 86_400 - 3660 - 60
    assert len(found["time_s"]) >= 20
    assert None not in found["power_w"]["VDD_IN"]


def test_one_damaged_file_costs_its_own_rows(tmp_path: Path) -> None:
    write(tmp_path, np.arange(0, 3600, 60.0), 10.0)
    torn = write(tmp_path, np.arange(3600, 7200, 60.0), 10.0)
    good = torn.read_bytes()
    files = HistoryFiles(tmp_path)
    for text in (good[: len(good) // 2], good[:4] + bytes(len(good) - 8) + good[-4:], b""):
        torn.write_bytes(text)
        found = files.curves(None, None, 100, 3600.0)
        assert (found["rows"], len(found["unread"])) == (60, 1)
        assert torn.name in found["unread"][0]
    torn.write_bytes(good)
    assert files.curves(None, None, 100, 3600.0)["rows"] == 120
    for path in torn.parent.iterdir():
        path.write_bytes(b"PAR1")
    with pytest.raises(NoHistory, match="cannot be read as Parquet"):
        files.curves(None, None, 100, 3600.0)


MEMORY = """
import resource, sys
from pathlib import Path
from ground.console.history import HistoryFiles
import pyarrow.parquet
files = HistoryFiles(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for last in (None, 86400.0, 604800.0):
    found = files.curves(None, None, 600, 5700.0, last_s=last)
print(found["rows"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_long_history_of_seconds_takes_bounded_memory(tmp_path: Path) -> None:
    """1.2 million rows in one file, as somebody may have merged them: as arrays alone they would take 67 MB a copy."""
    write(tmp_path, np.arange(0, 1_200_000, 1.0), 10.0, step_s=1)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows, kilobytes = map(int, done.stdout.split())
    assert rows >= 604_800
    assert kilobytes < 200_000, resource.getpagesize()


def test_what_was_pulled_is_read_before_a_page_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 60.0 * np.arange(100), 10.0)
    files = HistoryFiles(tmp_path)
    look = Console(MapIndex(tmp_path), Satellite(None), EventFile(tmp_path), files)
    read_ahead(look)
    monkeypatch.setattr(history, "read_rows", lambda *_: pytest.fail("it is read again"))
    assert len(files.curves(None, None, 50, 5700.0)["time_s"]) > 0
    (tmp_path / "empty").mkdir()
    for none in (None, HistoryFiles(tmp_path / "empty")):
        read_ahead(Console(MapIndex(tmp_path), Satellite(None), EventFile(None), none))
