from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from telemetry.report import draw, figures_of, text_of
from telemetry.table import Table, TableError


def made(*, power: bool = True, gap_s: float = 0.0) -> Table:
    """200 s at 1 s: 100 of rest at 6 W, 100 of work at 19 W and 2.5 tiles a second."""
    at = np.arange(200.0)
    at[50:] += gap_s
    busy = (np.arange(200) >= 100).astype(float)
    columns = {"tick": (1000 * at).astype(np.int64), "utc_s": 1e9 + at, "samples": np.full(200, 10)}
    fields = {"work:busy": busy, "work:tiles_per_s": 2.5 * busy, "temperature_c:tj": 50 + 10 * busy}
    fields["throttle_state:gpu"] = np.where(np.arange(200) >= 190, 1.0, 0.0)
    if power:
        fields |= {"power_w:VDD_SOC": np.full(200, 2.0), "power_w:VDD_IN": 6 + 13 * busy}
    for name, mean in fields.items():
        wide = 0.5 if name.startswith("power") else 0.0
        columns |= {f"{name}.min": mean - wide, f"{name}.mean": mean, f"{name}.max": mean + wide}
    return Table(columns)


def test_files_that_overlap_count_each_row_once() -> None:
    whole = made()
    parts = [Table({name: values[part] for name, values in whole.columns.items()})
             for part in (slice(80, 200), slice(0, 120), slice(90, 110))]  # fmt: skip
    assert Table.joined(parts).columns["tick"].tolist() == whole.columns["tick"].tolist()
    assert figures_of(Table.joined(parts)) == figures_of(whole)


def test_histories_that_were_begun_anew_follow_one_another(tmp_path: Path) -> None:
    """Each begins its ticks from zero, so that rows of one are no repeats of another's."""
    table = made()
    for name, rows in (("001-{}-{}", 200), ("000-{}-{}", 120), ("000-{}-{}", 100)):
        part = {column: pa.array(values[:rows]) for column, values in table.columns.items()}
        ticks = part["tick"].to_pylist()
        pq.write_table(pa.table(part), tmp_path / f"{name.format(f'{ticks[0]:015d}', f'{ticks[-1]:015d}')}.parquet")
    back = Table.read_parquet(tmp_path)
    assert len(back) == 320
    assert (np.diff(back.columns["tick"]) > 0).all()
    whole, first = figures_of(table).rails[0], figures_of(back).rails[0]
    # 20 of the 100 s of work are in the first one; nothing is added between the two.
    assert first.energy_j == pytest.approx(99 * 6 + 12.5 + 19 * 19 + whole.energy_j)
    assert first.measured_s == 119 + 199


def test_the_numbers_are_those_computed_by_hand() -> None:
    figures = figures_of(made())
    first = figures.rails[0]
    assert (first.rail, figures.main) == ("VDD_IN", "VDD_IN")
    assert (first.idle_w, first.work_w, first.net_w, first.peak_w) == (6.0, 19.0, 13.0, 19.5)
    # 99 steps at 6 W, one from 6 to 19, 99 at 19.
    assert first.energy_j == pytest.approx(99 * 6 + 12.5 + 99 * 19)
    assert (first.measured_s, first.unmeasured_s) == (199.0, 0.0)
    assert figures.tiles == pytest.approx(99 * 2.5 + 1.25)
    assert figures.tiles_per_s == 2.5
    assert figures.joules_per_tile == pytest.approx(first.energy_j / (99 * 2.5 + 1.25))
    assert (figures.coldest_c, figures.hottest_c, figures.throttled_s) == (50.0, 60.0, 10.0)


def test_speed_at_work_leaves_the_pauses_within_a_row_out() -> None:
    """Rows of a minute in which the governor let 30 s be worked: 2.5 tiles a second at work are 1.25 a row."""
    at = np.arange(0.0, 600, 60)
    half = np.full(10, 0.5)
    columns = {"tick": (1000 * at).astype(np.int64), "utc_s": 1e9 + at, "samples": np.full(10, 600)}
    fields = {"work:busy": half, "work:tiles_per_s": 2.5 * half, "power_w:VDD_IN": np.full(10, 12.0)}
    columns |= {f"{name}{part}": mean for name, mean in fields.items() for part in (".min", ".mean", ".max")}
    figures = figures_of(Table(columns))
    assert figures.tiles_per_s == 2.5
    assert (figures.rails[0].idle_w, figures.rails[0].work_w) == (None, None)


def test_a_gap_is_left_out_and_said() -> None:
    first = figures_of(made(gap_s=30)).rails[0]
    assert first.energy_j == pytest.approx(98 * 6 + 12.5 + 99 * 19)
    assert first.unmeasured_s == 31.0


def test_a_calibrated_idle_wins_and_it_says_so() -> None:
    figures = figures_of(made(), idle_w=5.74)
    assert figures.rails[0].net_w == pytest.approx(13.26)
    assert figures.rails[1].idle_w == 2.0  # it was calibrated for the main rail
    assert "idle: calibrated" in text_of(figures)


def test_what_was_not_measured_is_said_in_words(tmp_path: Path) -> None:
    figures = figures_of(made(power=False))
    text = text_of(figures)
    assert "no power was measured" in text
    assert "joules a tile: not measured" in text
    assert " 0.00" not in text
    png, svg = draw(made(power=False), tmp_path / "x", figures)
    assert b"no power was measured" in svg.read_bytes() or png.stat().st_size > 1000


def test_pictures_are_whole_and_the_same_each_time(tmp_path: Path) -> None:
    table = made(gap_s=30)
    one = draw(table, tmp_path / "a", figures_of(table), paper=True)
    two = draw(table, tmp_path / "b", figures_of(table), paper=True)
    assert one[0].read_bytes().startswith(b"\x89PNG")
    assert one[1].read_bytes() == two[1].read_bytes()


def test_a_table_comes_back_from_parquet_and_pages_are_joined(tmp_path: Path) -> None:
    table = made()
    for number, (begin, end) in enumerate(((100, 200), (0, 100))):
        part = {name: pa.array(values[begin:end]) for name, values in table.columns.items()}
        if number == 0:
            part.pop("power_w:VDD_SOC.mean")
        pq.write_table(pa.table(part), tmp_path / f"{number}.parquet")
    back = Table.read_parquet(tmp_path)
    assert back.columns["tick"].tolist() == table.columns["tick"].tolist()
    assert back.mean("power_w:VDD_IN") == pytest.approx(table.mean("power_w:VDD_IN"))
    assert np.isnan(back.mean("power_w:VDD_SOC")).sum() == 100


def test_what_is_no_history_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"no .parquet file"):
        Table.read_parquet(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(TableError, match="cannot be read as Parquet"):
        Table.read_parquet(tmp_path / "x.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(TableError, match="no page of history"):
        Table.read_parquet(tmp_path / "x.parquet")
    with pytest.raises(TableError, match="no row"):
        figures_of(Table.joined([]))


def test_nulls_of_a_page_are_not_measured() -> None:
    table = Table.of_json({"tick": [0, 1000], "utc_s": [1.0, 2.0], "samples": [1, 1], "power_w:a.mean": [None, 2.0]})
    assert np.isnan(table.mean("power_w:a")[0])
    assert table.fields("power_w") == ["power_w:a"]
    assert table.step_s == 1.0
