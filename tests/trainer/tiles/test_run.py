from __future__ import annotations

import gc
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import webdataset
from PIL import Image
from rasterio.transform import Affine

from onboard.errors import StorageError
from onboard.scene.grid import Window
from trainer.cli import main
from trainer.errors import DataRefused
from trainer.tiles.run import TileRequest, make_tiles
from trainer.tiles.run_folder import RunFolder, locked_run_folder
from trainer.tiles.settings import TileSettings
from trainer.tiles.shard_reader import ShardDataset
from trainer.tiles.sources import opened, size_of

SETTINGS = TileSettings(size=64, shard_tiles=4, most_alike=0)


def blobs(seed: int, height: int, width: int) -> np.ndarray:
    """Uint8 (height, width, 3): coarse squares, so that no two tiles look alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


@pytest.fixture
def imagery(tmp_path: Path) -> Path:
    """A GeoTIFF half without data, three pictures, one of them blank, one too small, and a broken file."""
    folder = tmp_path / "imagery"
    folder.mkdir()
    pixels = blobs(0, 192, 256)
    pixels[:, :128] = 0
    with rasterio.open(
        folder / "a.tif", "w", driver="GTiff", width=256, height=192, count=3, dtype="uint8", nodata=0,
        crs="EPSG:32640", transform=Affine(0.5, 0, 300_000, 0, -0.5, 2_800_000),
    ) as target:  # fmt: skip
        target.write(pixels.transpose(2, 0, 1))
    Image.fromarray(blobs(1, 200, 130)).save(folder / "b.png")
    Image.fromarray(np.full((64, 128, 3), 90, np.uint8)).save(folder / "c.png")
    Image.fromarray(blobs(2, 40, 40)).save(folder / "d.jpg")
    (folder / "e.jpg").write_bytes(b"\xff\xd8\xff broken")
    return folder


def made(imagery: Path, out: Path, settings: TileSettings = SETTINGS) -> dict[str, bytes]:
    make_tiles(TileRequest((imagery,), out, settings))
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_tiles_are_kept_or_dropped_for_a_reason_that_is_told(imagery: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = make_tiles(TileRequest((imagery,), out, SETTINGS))
    assert report.tally.kept == 6 + 6  # the right half of a.tif; three rows of two in b.png
    assert dict(report.tally.dropped) == {"no data": 6, "blank": 2, "smaller than a tile": 1, "cannot be read": 1}
    assert "e.jpg: cannot be decoded" in report.summary()
    text = (out / "report.md").read_text()
    assert "| no data | 6 |" in text
    with Image.open(out / "contact.png") as sheet:
        assert sheet.size[0] > 1000
    assert not (out / ".work").exists()


def test_the_index_says_where_each_tile_lay(imagery: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_tiles(TileRequest((imagery,), out, SETTINGS))
    rows = pq.read_table(out / "index.parquet").to_pylist()
    assert [row["key"] for row in rows] == [f"{number:09d}" for number in range(12)]
    first = rows[0]
    assert (Path(first["source"]).name, first["col"], first["row"]) == ("a.tif", 128, 0)
    assert first["gsd_m"] == pytest.approx(0.5, rel=1e-3)  # on the ellipsoid
    assert rows[-1]["gsd_m"] is None
    shelf = ShardDataset(out)
    with rasterio.open(imagery / "a.tif") as source:
        truth = source.read()[:, :64, 128:192]
    assert np.abs(shelf[0].astype(int) - truth).mean() < 12  # JPEG, whose colours are of half the resolution
    assert first["mean"] == pytest.approx(truth.mean(axis=(1, 2)).tolist(), abs=1e-2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its last file open
def test_webdataset_reads_what_the_shelf_reads(imagery: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_tiles(TileRequest((imagery,), out, SETTINGS))
    shards = [str(path) for path in sorted(out.glob("*.tar"))]
    read = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("jpg", "json"))
    shelf = ShardDataset(out)
    assert len(read) == len(shelf) == 12
    for (pixels, facts), tile in zip(read, shelf, strict=True):
        assert (pixels.transpose(2, 0, 1) == tile).all()
        assert facts["width"] == 64
    gc.collect()  # here, and not in the next test


def test_a_killed_run_ends_as_one_that_was_not(imagery: Path, tmp_path: Path) -> None:
    for number in range(12):
        Image.fromarray(blobs(10 + number, 640, 640)).save(imagery / f"f{number}.png")
    whole = made(imagery, tmp_path / "whole")
    command = [sys.executable, "-m", "trainer.cli", "tiles", str(imagery), "--out", str(tmp_path / "cut"), "--size",
               "64", "--shard-tiles", "4", "--most-alike", "0", "--quiet"]  # fmt: skip
    rng, kills = random.Random(1), 0
    while kills < 4:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        shards = len(list((tmp_path / "cut").glob("*.tar")))
        while process.poll() is None and len(list((tmp_path / "cut").glob("*.tar"))) < shards + 3 + rng.randrange(40):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        killed = process.wait() == -signal.SIGKILL
        if not killed:
            break
        kills += 1
    assert kills > 0
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "cut").iterdir()} == whole


def test_a_finished_folder_is_left_alone_and_other_settings_are_refused(imagery: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = made(imagery, out)
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert make_tiles(TileRequest((imagery,), out, SETTINGS)).tally.kept == 12
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times
    with pytest.raises(DataRefused, match="tiles of other settings or sources"):
        make_tiles(TileRequest((imagery,), out, TileSettings(size=32)))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_what_a_run_left_that_was_killed_at_its_very_end_goes_with_the_next(
    imagery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = made(imagery, tmp_path / "whole"), tmp_path / "out"

    def killed(_: RunFolder) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "clear", killed)
        made(imagery, out)
    assert (out / ".work").is_dir()
    with locked_run_folder(out):  # another process is still at it: its notes are let be
        assert make_tiles(TileRequest((imagery,), out, SETTINGS)).tally.kept == 12
        assert (out / ".work" / "run.json").is_file()
    assert made(imagery, out) == whole


@pytest.mark.parametrize("inside", ["tiles", "."])
def test_what_a_run_writes_into_a_folder_of_sources_is_no_source(imagery: Path, inside: str) -> None:
    out = imagery / inside
    first = make_tiles(TileRequest((imagery,), out, SETTINGS))
    assert (out / "contact.png").is_file()
    again = make_tiles(TileRequest((imagery,), out, SETTINGS))
    assert again.files == first.files
    assert again.tally.kept == first.tally.kept


def test_sources_below_the_folder_of_the_tiles_are_sources(imagery: Path, tmp_path: Path) -> None:
    assert make_tiles(TileRequest((imagery,), tmp_path, SETTINGS)).tally.kept
    assert make_tiles(TileRequest((imagery,), tmp_path, SETTINGS)).tally.kept


def test_a_name_that_is_not_utf_8_is_told_with_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "imagery", tmp_path / "tiles"
    folder.mkdir()
    Image.fromarray(blobs(1, 64, 64)).save(folder / "a.png")
    (folder / "a.png").rename(os.fsdecode(bytes(folder) + b"/stra\xdfe.png"))
    Path(os.fsdecode(bytes(folder) + b"/\xdf.tif")).write_bytes(b"II*\0 broken")
    command = ["tiles", str(folder), "--out", str(out), "--size", "64", "--quiet"]
    assert main(command) == 0
    assert main(command) == 0
    assert "\\xdf.tif: " in capsys.readouterr().out
    assert "stra\\xdfe.png" in (out / "report.md").read_text()
    assert pq.read_table(out / "index.parquet").column("source").to_pylist() == [f"{folder}/stra\\xdfe.png"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_damaged_note_is_named_with_what_to_do(
    imagery: Path, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiles"
    made(imagery, out)
    (out / "tiles.json").write_bytes(content)
    assert main(["tiles", str(imagery), "--out", str(out), "--size", "64", "--quiet"]) == 2
    told = capsys.readouterr().err
    assert f"{out}/tiles.json: damaged" in told
    assert "start afresh" in told
    assert told.count("\n") == 1


def test_a_full_disk_says_so_and_the_same_command_goes_on(imagery: Path, tmp_path: Path) -> None:
    whole = made(imagery, tmp_path / "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))  # writes beyond it fail, as on a full disk
    try:
        with pytest.raises(StorageError):
            make_tiles(TileRequest((imagery,), tmp_path / "out", SETTINGS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "out").glob("*.tar"))
    assert made(imagery, tmp_path / "out") == whole


def test_progress_ends_at_its_whole_though_sources_are_damaged(
    imagery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rasterio.open(
        imagery / "a.tif", "w", driver="GTiff", width=6400, height=640, count=3, dtype="uint8", compress="deflate",
        crs="EPSG:32640", transform=Affine(0.5, 0, 300_000, 0, -0.5, 2_800_000),
    ) as target:  # fmt: skip
        target.write(blobs(3, 640, 6400).transpose(2, 0, 1))
    monkeypatch.setattr(
        "trainer.tiles.run.opened", lambda path: opened(imagery / "e.jpg" if path.name == "a.tif" else path)
    )
    told: list[tuple[int, int]] = []
    report = make_tiles(TileRequest((imagery,), tmp_path / "out", SETTINGS), lambda *counts: told.append(counts))
    assert report.tally.dropped["cannot be read"] >= 2
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_source_that_is_not_there_is_refused_before_anything_is_written(
    imagery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["tiles", str(imagery), str(tmp_path / "typo"), "--out", str(out), "--quiet"]) == 2
    assert capsys.readouterr().err.endswith("typo: no such file or folder; give one that is there\n")
    assert not out.exists()


def test_nothing_to_cut_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiles", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith("no GeoTIFF, JPEG or PNG in it; give files, or folders that hold some")
    assert main(["tiles", str(tmp_path), "--out", str(tmp_path / "out"), "--size", "7"]) == 2
    assert "--size is 7, it must be 16 to 16384" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []  # noqa: PTH208 -- nothing at all


def test_tiles_that_are_all_dropped_are_refused_with_the_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "blank"
    folder.mkdir()
    Image.fromarray(np.full((64, 128, 3), 90, np.uint8)).save(folder / "c.png")
    Image.fromarray(blobs(2, 40, 40)).save(folder / "d.jpg")
    for _ in range(2):  # a folder that is done says the same
        assert main(["tiles", str(folder), "--out", str(tmp_path / "out"), "--size", "64", "--quiet"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "no tile was kept (" in said
        assert ": 1" in said
        assert "see report.md" in said
    assert (tmp_path / "out" / "report.md").is_file()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pictures_are_turned_as_they_are_shown_and_those_of_16_bits_are_refused(tmp_path: Path) -> None:
    wide = blobs(4, 64, 128)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(wide).save(tmp_path / "turned.png", exif=exif)
    assert size_of(tmp_path / "turned.png") == (64, 128)
    with opened(tmp_path / "turned.png") as imagery:
        assert (imagery.width, imagery.height) == (64, 128)
        assert np.array_equal(imagery.read(Window(0, 0, 64, 128)).pixels, np.rot90(wide, -1).transpose(2, 0, 1))
    deep = wide.transpose(2, 0, 1).astype(np.uint16) * 8
    with rasterio.open(tmp_path / "deep.png", "w", driver="PNG", width=128, height=64, count=3, dtype="uint16") as file:
        file.write(deep)
    with pytest.raises(DataRefused, match="16 bits"), opened(tmp_path / "deep.png"):
        pass


def test_real_scenes_are_cut_by_one_stretch_and_duplicates_found(shared_data: Path, tmp_path: Path) -> None:
    names = ("ramp__test_img.tif", "rio-alpha__dop20c.tif")
    found = [path for path in (shared_data / "geotiffs").iterdir() if path.name.startswith(names[0][:12])]
    report = make_tiles(TileRequest((*found, shared_data / "ucmerced" / "beach"), tmp_path, TileSettings(size=256)))
    assert report.tally.dropped["near-duplicate"] >= 4  # the same beach again and again
    assert report.tally.kept > 90
    told = json.loads((tmp_path / "tiles.json").read_text())
    assert len(told["sources"]) == len(found) + 100
