from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from trainer.tiles.run import TileRequest, make_tiles
from trainer.tiles.settings import TileSettings
from trainer.training.checkpoint import read_average, read_facts
from trainer.training.record import read_record

Tiles = list[NDArray[np.uint8]]


@pytest.fixture
def config(tmp_path: Path, tiny: dict[str, Any], tiles: Tiles) -> Path:
    """A configuration file over shards of ten tiles, batches of four."""
    (tmp_path / "images").mkdir()
    for number, tile in enumerate(tiles):
        Image.fromarray(tile.transpose(1, 2, 0)).save(tmp_path / "images" / f"{number}.png")
    settings = TileSettings(size=72, shard_tiles=4, most_alike=-1)
    make_tiles(TileRequest((tmp_path / "images",), tmp_path / "tiles", settings))
    path = tmp_path / "distill.yaml"
    told = tiny | {"tiles": str(tmp_path / "tiles"), "stages": [{"until": 1.0, "crop": 64, "batch": 4}]}
    path.write_text(yaml.safe_dump(told))
    return path


def run(config: Path, folder: Path, *arguments: str, processes: int = 1) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "trainer.cli", "distill", "--config", str(config), "--run-folder", str(folder), *arguments]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_are_one_with_the_same_batch(config: Path, tmp_path: Path) -> None:
    run(config, tmp_path / "one")
    run(config, tmp_path / "two", "--devices", "2", processes=2)
    one, two = read_average(tmp_path / "one"), read_average(tmp_path / "two")
    assert one.keys() == two.keys()
    # A bias of keys changes no softmax: its gradient is rounding alone, which Adam makes as large as any other's.
    keys = {name for name in one if name.endswith(("in_proj_bias", "kv.bias"))}
    assert len(keys) < len(one) / 20
    for name, value in one.items():
        if name in keys:
            continue
        assert torch.allclose(two[name], value, rtol=1e-3, atol=1e-5), name
    assert read_facts(tmp_path / "two")["images"] == read_facts(tmp_path / "one")["images"] == 24
    rows = [read_record(tmp_path / name) for name in ("one", "two")]
    assert len(rows[0]) == len(rows[1]) == 6
    for first, second in zip(*rows, strict=True):
        for name in ("total", "student", "teacher", "alignment", "r"):
            assert float(second[name]) == pytest.approx(float(first[name]), rel=1e-4), name
        assert float(second["r2_sam"]) == pytest.approx(float(first["r2_sam"]), rel=1e-3, abs=1e-4)


def test_two_processes_go_on_from_one_process_checkpoint(config: Path, tmp_path: Path) -> None:
    """The state belongs to the run, not to how many processes made it."""
    run(config, tmp_path / "whole")
    run(config, tmp_path / "cut", "--max-steps", "3")
    run(config, tmp_path / "cut", "--devices", "2", processes=2)
    assert read_facts(tmp_path / "cut")["step"] == 6
    assert [row["step"] for row in read_record(tmp_path / "cut")] == ["1", "2", "3", "4", "5", "6"]
