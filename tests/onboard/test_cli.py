"""`onboard process` as people call it: exit codes, one line of error, what is printed, what is left behind."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import engines.open
from engines.testing import IdentityEngine
from onboard import cli, progress
from onboard.scene.probe import Probes

REFUSED = {
    "byte_buggy_packbits.tif", "byte_truncated.tif", "byte_zstd_corrupted.tif", "complex_float32.tif", "corrupt.tif",
    "corrupted_deflate_singlestrip.tif", "corrupted_gtiff_tags.tif", "excessive-memory-TIFFFillTile.tif",
    "huge-number-strips.tif", "huge4GB.tif", "huge_raster_with_ovr_huge_block.tif", "hugeblocksize.tif",
    "lzw_corrupted.tif", "many_blocks_truncated.tif", "missing_tilebytecounts_and_offsets.tif", "rpc.vrt",
    "tiff_dos_strip_chop.tif", "tiled_bad_offset.tif", "toomanyblocks.tif", "uint16_3band.vrt", "uint33.tif",
    "unknown_compression.tif", "unsupported_codec_unknown.tif",
}  # fmt: skip


@pytest.fixture
def free_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """`onboard process` with an engine that gives the first band back, clipped to its five classes."""
    monkeypatch.setattr(engines.open, "open_engine", lambda *_, **__: IdentityEngine(tile_size=256, confidence=True))


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "harbour.tif"
    keys: dict[str, Any] = {"driver": "GTiff", "width": 700, "height": 300, "count": 3, "dtype": "uint8"}
    with rasterio.open(
        path, "w", crs="EPSG:32640", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 2.8e6), **keys
    ) as target:
        target.write(np.random.default_rng(0).integers(1, 6, (3, 300, 700), dtype=np.uint8))
    return path


def process(*words: str | Path) -> int:
    return cli.main(["process", *map(str, words)])


@pytest.mark.usefixtures("free_engine")
def test_each_odd_file_gives_a_map_or_one_line_and_nothing_left(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((shared_data / "odd_tiffs").iterdir()):
        out = tmp_path / path.name
        code = process(path, "--out", out, "--quiet")
        printed, error = capsys.readouterr()
        assert printed == ""
        if path.name in REFUSED:
            assert code == 2, path.name
            assert error.startswith("onboard: ")
            assert error.count("\n") == 1, error
            assert path.name in error
            assert not out.exists(), f"{path.name} left {list(out.rglob('*'))}"
        else:
            assert (code, error) == (0, ""), path.name
            assert {item.name for item in (out / path.stem).iterdir()} == {"map.tif", "map.json", "quicklook.webp"}
            assert [item.name for item in out.iterdir()] == [path.stem]


@pytest.fixture
def unnamed(tmp_path: Path) -> Path:
    """Three 16-bit bands that nothing names, with a black border."""
    path = tmp_path / "unnamed.tif"
    keys: dict[str, Any] = {"driver": "GTiff", "width": 300, "height": 300, "count": 3, "dtype": "uint16"}
    pixels = np.random.default_rng(0).integers(200, 900, (3, 300, 300), dtype=np.uint16)
    pixels[:, :, :40] = 0
    place = {"crs": "EPSG:32640", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 2.8e6)}
    with rasterio.open(path, "w", **keys, **place) as target:
        target.write(pixels)
        target.update_tags(TIFFTAG_DATETIME="04.05.2021, noon")
    return path


@pytest.mark.usefixtures("free_engine")
def test_what_was_assumed_is_printed_and_stands_in_the_item(
    unnamed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert process(unnamed, "--out", tmp_path / "maps") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("onboard: assumed: ")]
    assert [line.partition("; say otherwise with ")[2] for line in lines] == [
        "--bands 3,2,1 (if it begins with blue)",
        "--no-collar",
    ]
    properties = json.loads((tmp_path / "maps" / "unnamed" / "map.json").read_text())["properties"]
    assert [row["about"] for row in properties["onboard:assumptions"]] == ["bands", "collar"]
    assert properties["onboard:no_data_pixels"] == 40 * 300
    assert "time cannot be read: '04.05.2021, noon'" in properties["onboard:datetime_is"]
    options = ("--bands", "3,2,1", "--no-collar", "--nodata", "none", "--no-alpha", "--json", "--name", "said")
    assert process(unnamed, "--out", tmp_path / "maps", *options) == 0
    printed, error = capsys.readouterr()
    summary = json.loads(printed)
    assert (error, summary["assumptions"], summary["no_data_share"]) == ("", [], 0)


@pytest.mark.usefixtures("free_engine")
@pytest.mark.parametrize("command", ["process", "batch"])
def test_quiet_is_quiet_about_assumptions_and_readers_warnings(unnamed: Path, tmp_path: Path, command: str) -> None:
    """In a process of its own: pytest takes the warnings that GDAL's reader logs."""
    code = (
        "import logging, sys, engines.open\n"
        "from engines.testing import IdentityEngine\n"
        "from onboard import cli\n"
        "engines.open.open_engine = lambda *_, **__: IdentityEngine(tile_size=256)\n"
        "import onboard.scene.reader as reader\n"
        "whole = reader.open_page\n"
        "def loud(*asked):\n"
        "    logging.getLogger('rasterio._env').warning('CPLE_AppWarning: odd tag')\n"
        "    return whole(*asked)\n"
        "reader.open_page = loud\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    words = [command, os.fspath(unnamed), "--out", os.fspath(tmp_path / "maps"), "--quiet"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.usefixtures("free_engine")
def test_json_is_one_object_and_nothing_else(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert process(scene, "--out", tmp_path / "maps", "--json", "--confidence") == 0
    printed, error = capsys.readouterr()
    assert error == ""
    summary = json.loads(printed)
    assert Path(summary["map_path"]).stat().st_size == summary["map_bytes"]
    assert Path(summary["confidence_path"]).is_file()
    assert sum(summary["class_shares"].values()) + summary["no_data_share"] == pytest.approx(1)
    assert summary["tiles"] == 8


@pytest.mark.usefixtures("free_engine")
def test_the_summary_says_where_everything_is_and_a_second_run_has_nothing_to_do(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for state in (r"8 tiles, [\d.,]+ tiles/s while mapping, [\d.]+ s in all", "already mapped, nothing to do, "):
        assert process(scene, "--out", tmp_path / "maps", "--no-collar") == 0
        printed = capsys.readouterr().out
        for file in ("map.tif", "map.json", "quicklook.webp"):
            assert str(tmp_path / "maps" / "harbour" / file) in printed
        assert re.search(f"work +{state}", printed)
        assert "(no data)" in printed


@pytest.mark.usefixtures("free_engine")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bands", "3,2"], "bands"),
        (["--bands", "4,2,1"], "4"),
        (["--sieve", "-3"], "--sieve is -3"),
        (["--batch", "0"], "--batch is 0"),
        (["--halo", "128"], "halo"),
        (["--name", "../up"], "--name"),
        (["--stretch", "98,2"], "percentiles"),
    ],
)
def test_options_that_cannot_be_met_are_one_line(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert process(scene, "--out", tmp_path / "maps", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize("words", [["--bands", "red"], ["--stretch", "2"], ["--sieve", "few"], ["--colour"]])
def test_words_that_cannot_be_parsed_are_one_line(
    scene: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        process(scene, *words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_model_is_one_line(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert process(scene, "--out", tmp_path / "maps", "--model", "no-such-model") == 2
    error = capsys.readouterr().err
    assert "no-such-model" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "maps").exists()


@pytest.mark.usefixtures("free_engine")
def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no such file"):
        cli.main(["--debug", "process", str(tmp_path / "missing.tif")])


@pytest.mark.usefixtures("free_engine")
def test_an_interrupt_is_no_traceback(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Probes, "judge", interrupted)
    assert process(scene, "--out", tmp_path / "maps") == 130
    assert "the same command continues" in capsys.readouterr().err


def test_the_shipped_model_maps_in_a_process_of_its_own_and_goes_on_after_an_interrupt(tmp_path: Path) -> None:
    scene = tmp_path / "land.tif"
    make = [sys.executable, "-m", "trainer.data.landscape", "--out", str(scene), "--size", "1700", "--seed", "3"]
    subprocess.run(make, check=True, capture_output=True)
    # A shell that runs the tests in the background makes its children deaf to SIGINT.
    hearing = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{hearing}; import sys; from onboard.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "process", str(scene), "--out", str(tmp_path / "maps")]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "maps" / ".onboard" / "land" / "canvas" / "journal"
    deadline = time.monotonic() + 120
    while not journal.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    _, error = first.communicate(timeout=120)
    assert first.returncode == 130, error
    assert error.strip().splitlines()[-1].startswith("onboard: interrupted")
    second = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    summary = json.loads(second.stdout)
    assert summary["tiles"] == 4
    assert second.stderr == ""
    assert not (tmp_path / "maps" / ".onboard").exists()


def test_a_terminal_gets_a_bar() -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    held = os.dup(slave)  # once its last end is closed, what was written to a terminal cannot be read any more
    with os.fdopen(slave, "w") as terminal, progress.progress_for(terminal, quiet=False) as update:
        assert update is not None
        update(1, 4)
        update(4, 4)
    shown = ""
    while "0/4" not in shown:  # the kernel hands over what was written in pieces
        assert select.select([master], [], [], 30)[0], f"only this was shown: {shown!r}"
        shown += os.read(master, 1 << 16).decode()
    os.close(held)
    os.close(master)


def test_a_pipe_gets_lines_and_only_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 10.0, 11.0, 25.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with progress.progress_for(stream, quiet=False) as update:
        assert update is not None
        for done in range(1, 5):
            update(done, 4)
    assert stream.getvalue() == "2 of 4 tiles, 10 s\n4 of 4 tiles, 25 s\n"


def test_quiet_has_no_progress() -> None:
    with progress.progress_for(io.StringIO(), quiet=True) as update:
        assert update is None
