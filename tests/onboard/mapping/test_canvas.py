from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from onboard.errors import OptionsRefused, StorageError
from onboard.mapping.canvas import GROUP_SECONDS, GROUP_TILES, Canvas
from onboard.mapping.journal import HeadRecord, TileRecord
from onboard.scene.grid import Window
from tests.full_disk import files_of_at_most

IDENTITY = {"scene": "abc"}


def opened(folder: Path, **options: object) -> Canvas:
    return Canvas(folder, options.pop("identity", IDENTITY), width=10, height=6, **options)  # type: ignore[arg-type]


def test_written_cores_stand_where_they_belong(tmp_path: Path) -> None:
    with opened(tmp_path / "c") as canvas:
        canvas.write(Window(col=2, row=1, width=3, height=2), np.full((2, 3), 7, np.uint8))
        canvas.write(Window(col=0, row=5, width=10, height=1), np.full((1, 10), 3, np.uint8))
        pixels = canvas.classes.read(0, 6)
    expected = np.zeros((6, 10), np.uint8)
    expected[1:3, 2:5] = 7
    expected[5] = 3
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("where", [Window(0, 2, 10, 4), Window(3, 2, 4, 4)])
def test_a_raster_that_was_shortened_is_told_and_mended_by_the_next_run(tmp_path: Path, where: Window) -> None:
    with opened(tmp_path / "c") as canvas:
        os.truncate(tmp_path / "c" / "classes.raw", 35)
        assert canvas.classes.read(1, 2).shape == (2, 10)
        with pytest.raises(StorageError, match=r"classes\.raw: was shortened: .* run the same command again"):
            canvas.classes.read_window(where)
        with pytest.raises(StorageError, match="was shortened"):
            canvas.classes.read(0, 6)
    with opened(tmp_path / "c") as canvas:
        assert canvas.classes.read_window(where).shape == (where.height, where.width)


@pytest.mark.parametrize("where", [Window(0, 2, 10, 4), Window(3, 2, 4, 4)])
def test_pixels_that_do_not_all_reach_the_file_are_told(tmp_path: Path, where: Window) -> None:
    """Of the write that the limit cuts, the system takes the beginning and gives no error."""
    with opened(tmp_path / "c") as canvas, files_of_at_most(35), pytest.raises(StorageError, match="cannot write"):
        canvas.write(where, np.full((where.height, where.width), 7, np.uint8))


@pytest.mark.parametrize("where", [Window(0, 1, 10, 3), Window(2, 1, 5, 3)])
def test_reads_and_writes_go_on_where_the_system_takes_fewer_bytes_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Window
) -> None:
    """As Linux does beyond 2 GiB, and where a signal comes."""
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:4], at))
    monkeypatch.setattr(os, "preadv", lambda file, buffers, at: preadv(file, [buffers[0][:3]], at))
    pixels = np.arange(1, 1 + where.width * where.height, dtype=np.uint8).reshape(where.height, where.width)
    with opened(tmp_path / "c") as canvas:
        canvas.write(where, pixels)
        assert np.array_equal(canvas.classes.read_window(where), pixels)
        assert np.count_nonzero(canvas.classes.read(0, 6)) == pixels.size


def test_finished_tiles_survive_closing_and_other_identities_do_not(tmp_path: Path) -> None:
    with opened(tmp_path / "c") as canvas:
        canvas.write(Window(col=0, row=0, width=10, height=6), np.full((6, 10), 9, np.uint8))
        canvas.finish([0, 1])
    with opened(tmp_path / "c") as canvas:
        assert canvas.finished == {0, 1}
        assert canvas.classes.read(0, 6).min() == 9
    with opened(tmp_path / "c", identity={"scene": "other"}) as canvas:
        assert canvas.finished == frozenset()
        assert canvas.classes.read(0, 6).max() == 0, "pixels of other work must be gone"


def test_a_missing_raster_starts_afresh_even_with_a_journal(tmp_path: Path) -> None:
    with opened(tmp_path / "c") as canvas:
        canvas.finish([0])
    (tmp_path / "c" / "classes.raw").unlink()
    with opened(tmp_path / "c") as canvas:
        assert canvas.finished == frozenset()


def test_confidence_is_averaged_over_valid_pixels_of_every_run(tmp_path: Path) -> None:
    with opened(tmp_path / "c") as canvas:
        assert canvas.mean_confidence() is None
        canvas.finish([0, 1], {0: TileRecord((HeadRecord(10, 2550),))})  # tile 1 has no data at all
    with opened(tmp_path / "c") as canvas:
        canvas.finish([2, 3], {2: TileRecord((HeadRecord(20, 2550),)), 3: TileRecord((HeadRecord(10, 0),))})
        assert canvas.mean_confidence() == pytest.approx(0.5)
        canvas.forget([0])
        assert canvas.mean_confidence() == pytest.approx(1 / 3)


def test_groups_are_committed_by_count_and_by_time(tmp_path: Path) -> None:
    now = [0.0]
    with opened(tmp_path / "c", clock=lambda: now[0]) as canvas:
        for tile in range(GROUP_TILES - 1):
            canvas.finish([tile])
        assert not canvas.finished
        canvas.finish([GROUP_TILES - 1])
        assert len(canvas.finished) == GROUP_TILES
        canvas.finish([100])
        assert 100 not in canvas.finished
        now[0] += GROUP_SECONDS
        canvas.finish([101])
        assert canvas.finished >= {100, 101}


def test_pixels_are_synced_before_their_tile_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = os.fdatasync
    with opened(tmp_path / "c", confidence=True) as canvas:
        names = {path.stat().st_ino: path.name for path in (tmp_path / "c").iterdir()}

        def recorded(descriptor: int) -> None:
            order.append(names[os.fstat(descriptor).st_ino])
            real(descriptor)

        monkeypatch.setattr(os, "fdatasync", recorded)
        canvas.finish([0])
        canvas.commit()
    assert order == ["classes.raw", "confidence.raw", "journal"]


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with opened(tmp_path / "c"), pytest.raises(OptionsRefused, match="another process"):
        opened(tmp_path / "c")
    opened(tmp_path / "c").close()


def test_a_full_disk_is_found_before_the_first_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _offset: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="disk is full; make room"):
        opened(tmp_path / "c")
