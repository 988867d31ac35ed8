from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from telemetry.history import FLUSH_S, History, Level, Reader

LEVELS = (Level(0.0, 20), Level(1.0, 100), Level(10.0, 400), Level(60.0, 7200))


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def filled(path: Path, seconds: float, clock: Clock, *, hz: float = 5.0) -> None:
    history = History(path, LEVELS, clock, lambda: 1e9 + clock.now)
    begin = clock.now
    while clock.now - begin < seconds:
        history.add({"power_w:VDD_IN": 10 + (clock.now - begin) % 2, "temperature_c:tj": 50.0})
        clock.now += 1 / hz
    history.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry" / "history.sqlite"


def test_every_step_has_least_mean_and_most(path: Path) -> None:
    filled(path, 100, Clock())
    page = Reader(path, LEVELS).query(step_s=10)
    assert page.step_s == 10
    assert page.columns["tick"].tolist() == list(range(0, 100_000, 10_000))
    assert page.columns["power_w:VDD_IN.min"] == pytest.approx([10.0] * 10, abs=1e-3)
    assert page.columns["power_w:VDD_IN.max"] == pytest.approx([11.8] * 10, abs=1e-3)
    assert page.columns["power_w:VDD_IN.mean"] == pytest.approx([10.9] * 10, abs=1e-3)
    assert page.columns["samples"].tolist() == [50] * 10
    assert set(page.columns) == {"tick", "utc_s", "samples"} | {
        f"{field}.{part}" for field in ("power_w:VDD_IN", "temperature_c:tj") for part in ("min", "mean", "max")
    }


@pytest.mark.parametrize("odd", ["100%41", "a?b", "a#b"])
def test_a_folder_may_have_any_name(tmp_path: Path, odd: str) -> None:
    path = tmp_path / odd / "history.sqlite"
    filled(path, 20, Clock())
    assert len(Reader(path, LEVELS).query(step_s=10).columns["tick"]) == 2


def test_the_last_seconds_are_there_at_full_rate(path: Path) -> None:
    filled(path, 100, Clock())
    page = Reader(path, LEVELS).query(since=-10_000, step_s=0)
    assert page.step_s == 0
    assert len(page.columns["tick"]) == 50
    assert np.diff(page.columns["tick"]) == pytest.approx(200, abs=1)
    assert page.columns["power_w:VDD_IN"].min() >= 10


def test_what_is_older_than_a_level_comes_from_a_coarser_one(path: Path) -> None:
    filled(path, 600, Clock())
    reader = Reader(path, LEVELS)
    assert reader.query(step_s=1).step_s == 60
    assert reader.query(since=-300_000, step_s=1).step_s == 10
    assert reader.query(since=-50_000, step_s=1).step_s == 1
    assert reader.query(since=-50_000, step_s=25).step_s == 10


def test_pages_follow_without_overlap_and_the_end_is_where_the_next_pull_begins(path: Path) -> None:
    clock = Clock()
    filled(path, 90, clock)
    reader = Reader(path, LEVELS)
    ticks: list[int] = []
    since: int | None = -60_000
    while since is not None:
        page = reader.query(since=since, step_s=1, limit=7)
        assert len(page.columns["tick"]) <= 7
        ticks += page.columns["tick"].tolist()
        since = page.next
    assert ticks == sorted(set(ticks))
    assert len(ticks) in (59, 60)
    filled(path, 30, clock)
    new = reader.query(since=ticks[-1], step_s=1).columns["tick"].tolist()
    assert len(new) in (30, 31)
    assert new[0] > ticks[-1]


def test_fields_are_chosen_by_name_or_quantity(path: Path) -> None:
    filled(path, 30, Clock())
    reader = Reader(path, LEVELS)
    assert "temperature_c:tj.mean" not in reader.query(step_s=1, fields=["power_w"]).columns
    assert "power_w:VDD_IN.mean" not in reader.query(step_s=1, fields=["temperature_c:tj"]).columns


def test_what_was_not_measured_is_nan_and_a_gap_has_no_rows(path: Path) -> None:
    clock = Clock()
    history = History(path, LEVELS, clock)
    for second in range(40):
        values = {"temperature_c:tj": 50.0}
        if second % 4:
            values["power_w:VDD_IN"] = 5.0
        history.add(values)
        clock.now += 1 if second != 20 else 9
    history.close()
    columns = Reader(path, LEVELS).query(step_s=1).columns
    assert np.isnan(columns["power_w:VDD_IN.mean"]).sum() == 10
    assert np.nanmin(columns["power_w:VDD_IN.mean"]) == 5.0
    assert max(np.diff(columns["tick"])) == 9000


def test_space_is_bounded(path: Path) -> None:
    clock = Clock()
    sizes = []
    for _ in range(6):
        filled(path, 600, clock, hz=2)
        sizes.append(path.stat().st_size)
    assert sizes[-1] < 1.3 * sizes[1]


def test_a_damaged_file_is_put_aside(path: Path) -> None:
    filled(path, 30, Clock())
    path.write_bytes(b"no database at all" * 100)
    filled(path, 30, Clock())
    assert path.with_name("history.sqlite.damaged").exists()
    assert len(Reader(path, LEVELS).query(step_s=1).columns["tick"]) == 30


def test_no_history_yet_is_an_empty_page(path: Path) -> None:
    page = Reader(path).query()
    assert (len(page.columns["tick"]), page.next, page.now) == (0, None, 0)


WRITER = """
import sys
from pathlib import Path
from telemetry import history
history.FLUSH_S = 0.0
one = history.History(Path(sys.argv[1]))
number = 0
while True:
    one.add({"count": float(number)})
    number += 1
    if number == 500:
        print("writing", flush=True)
"""


def test_a_kill_costs_no_more_than_the_last_flush_and_ticks_go_on_rising(path: Path) -> None:
    last: int | None = None
    before = -1
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        page = Reader(path).query(since=last, step_s=0, limit=100_000)
        counts = page.columns["count"]
        assert len(counts) >= 499
        assert np.diff(counts).tolist() == [1.0] * (len(counts) - 1)
        assert page.columns["tick"][0] > before
        before = last = int(page.columns["tick"][-1])


def test_rows_wait_for_the_flush(path: Path) -> None:
    clock = Clock()
    history = History(path, LEVELS, clock)
    history.add({"a": 1.0})
    assert len(Reader(path, LEVELS).query(since=-1, step_s=0).columns["tick"]) == 0
    clock.now += FLUSH_S
    history.add({"a": 1.0})
    assert len(Reader(path, LEVELS).query(since=-1, step_s=0).columns["tick"]) >= 1
    history.close()


def out_of_its_log(path: Path) -> None:
    """What the log holds is read from there, and heals the file at the next checkpoint."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def damaged(path: Path) -> None:
    out_of_its_log(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


def overwritten(path: Path) -> None:
    out_of_its_log(path)
    path.write_bytes(b"no database at all" * 2000)


def gone(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"another file")


@pytest.mark.parametrize("harm", [damaged, overwritten, gone, replaced])
def test_a_file_damaged_while_it_is_written_is_put_aside_and_begun_anew(
    path: Path, harm: Callable[[Path], None]
) -> None:
    clock = Clock()
    history = History(path, LEVELS, clock)

    def run(seconds: int) -> None:
        for _ in range(seconds):
            history.add({"power_w:VDD_IN": 10.0})
            clock.now += 1

    run(200)
    before = Reader(path, LEVELS).query(step_s=1).now
    harm(path)
    for step_s in (0, 1, 10, 60):  # a question, while it is damaged, is answered
        page = Reader(path, LEVELS).query(step_s=step_s)
        assert not page.problem or len(page.columns["tick"]) == 0
    run(100)
    history.flush()
    (renewal,) = history.renewals
    assert "begun anew" in renewal
    assert history.problem == ""
    page = Reader(path, LEVELS).query(step_s=1)
    assert page.problem == ""
    assert len(page.columns["tick"]) >= 70
    assert page.columns["tick"][0] > before
    assert harm is gone or path.with_name("history.sqlite.damaged").exists()
    history.close()


def test_a_row_that_is_none_is_no_error_of_the_reader(path: Path) -> None:
    clock = Clock()
    filled(path, 60, clock)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE rows SET data = x'0102030405' WHERE level = 1")
        db.commit()
    page = Reader(path, LEVELS).query(step_s=1)
    assert "damaged" in page.problem
    history = History(path, LEVELS, clock)
    history.flush()
    assert len(history.renewals) == 1
    history.close()


def test_a_reader_that_was_wrong_costs_no_history(path: Path) -> None:
    clock = Clock()
    filled(path, 60, clock)
    path.with_name("history.sqlite.stumbled").write_text("database disk image is malformed")
    history = History(path, LEVELS, clock)
    history.flush()
    assert history.renewals == []
    history.close()
    assert len(Reader(path, LEVELS).query(step_s=1).columns["tick"]) >= 30
