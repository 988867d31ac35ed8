from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from telemetry.report import _curve, draw, figures_of, text_of
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
    assert first.energy_j == pytest.approx(100 * 6 + 20 * 19 + whole.energy_j)
    assert first.measured_s == 120 + 200


def test_the_numbers_are_those_computed_by_hand() -> None:
    figures = figures_of(made())
    first = figures.rails[0]
    assert (first.rail, figures.main) == ("VDD_IN", "VDD_IN")
    assert (first.idle_w, first.work_w, first.net_w, first.peak_w) == (6.0, 19.0, 13.0, 19.5)
    # A row holds the mean over its second: 100 of them at 6 W, 100 at 19.
    assert first.energy_j == pytest.approx(100 * 6 + 100 * 19)
    assert (figures.seconds, first.measured_s, first.unmeasured_s) == (200.0, 200.0, 0.0)
    assert figures.tiles == pytest.approx(100 * 2.5)
    assert figures.tiles_per_s == 2.5
    assert figures.joules_per_tile == pytest.approx(first.energy_j / 250)
    assert (figures.coldest_c, figures.hottest_c, figures.throttled_s) == (50.0, 60.0, 10.0)


def rows_of(step_s: float, samples: list[int], **fields: list[float]) -> Table:
    """Rows of means, one behind the other, of so many samples each."""
    at = step_s * np.arange(len(samples))
    columns = {"tick": (1000 * at).astype(np.int64), "utc_s": 1e9 + at, "samples": np.array(samples)}
    names = {"rate": "work:tiles_per_s", "busy": "work:busy", "watts": "power_w:VDD_IN"}
    parts = (".min", ".mean", ".max")
    columns |= {f"{names[name]}{part}": np.array(values) for name, values in fields.items() for part in parts}
    return Table(columns)


def test_the_tiles_of_the_first_and_the_last_row_count_in_full() -> None:
    """16 tiles in the first of two rows of a minute."""
    figures = figures_of(rows_of(60, [600, 600], rate=[16 / 60, 0.0], busy=[0.5, 0.0], watts=[12.0, 6.0]))
    assert figures.tiles == pytest.approx(16)
    assert figures.seconds == 120
    assert figures.rails[0].energy_j == pytest.approx(60 * (12 + 6))
    assert figures.tiles_per_s == pytest.approx(16 / 30)


def test_a_row_in_which_the_service_ended_counts_for_its_samples() -> None:
    """A tenth of a minute: its mean is one over 6 s."""
    figures = figures_of(rows_of(60, [600, 600, 60], rate=[0.5, 0.5, 0.5], busy=[1.0] * 3, watts=[10.0] * 3))
    assert figures.tiles == pytest.approx(63)
    assert (figures.seconds, figures.rails[0].measured_s, figures.rails[0].unmeasured_s) == (126, 126, 0)


def test_a_single_row_has_the_length_that_its_source_says() -> None:
    one = rows_of(60, [600], rate=[0.5], busy=[1.0], watts=[10.0]).with_step(60.0)
    assert (figures_of(one).tiles, figures_of(one).rails[0].energy_j) == (30, 600)


def test_rows_of_two_steps_count_each_for_its_own(tmp_path: Path) -> None:
    parts = [rows_of(60, [600] * 10, watts=[10.0] * 10).with_step(60.0)]
    seconds = rows_of(1, [10] * 100, watts=[10.0] * 100).with_step(1.0)
    parts.append(Table({**seconds.columns, "tick": seconds.columns["tick"] + 600_000}))
    for number, part in enumerate(parts):
        columns = {name: pa.array(values) for name, values in part.columns.items() if name != "step_s"}
        table = pa.table(columns).replace_schema_metadata({"step_s": f"{60 if number == 0 else 1}"})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    assert figures_of(Table.read_parquet(tmp_path)).rails[0].energy_j == pytest.approx(7000)


def test_single_samples_of_power_are_joined_by_trapezoids_and_those_of_work_count_for_the_time_before() -> None:
    at = np.arange(5.0)
    columns = {"tick": (1000 * at).astype(np.int64), "utc_s": 1e9 + at, "samples": np.ones(5, np.int64)}
    columns |= {"power_w:VDD_IN": 10 * at, "work:tiles_per_s": np.array([0.0, 2.0, 2.0, 2.0, 2.0])}
    figures = figures_of(Table(columns))
    assert figures.rails[0].energy_j == pytest.approx(80)
    assert figures.tiles == pytest.approx(8)
    assert figures.seconds == 4


def test_a_row_of_means_is_drawn_as_a_level_up_to_its_end() -> None:
    """No slope from the rate of one minute to the rest of the next one, and none over a gap."""
    table = rows_of(60, [600] * 4, rate=[0.25, 0.0, 0.0, 0.5])
    x, _, mean, _ = _curve(table, 60.0, "work:tiles_per_s")
    assert x.tolist() == [0, 1, 1, 2, 2, 3, 3, 4]
    assert mean.tolist() == [0.25, 0.25, 0, 0, 0, 0, 0.5, 0.5]
    ticks = table.columns["tick"].copy()
    ticks[2:] += 600_000
    x, _, mean, _ = _curve(Table({**table.columns, "tick": ticks}), 60.0, "work:tiles_per_s")
    assert x.tolist() == [0, 1, 1, 2, 7, 12, 13, 13, 14]
    assert np.isnan(mean[4])
    assert mean[3] == mean[5] == 0


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
    assert first.energy_j == pytest.approx(100 * 6 + 100 * 19)
    assert first.unmeasured_s == 30.0


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
