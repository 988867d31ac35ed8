"""The commands of docs/products.md, from a posted scene to what changed, run as they are written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio

from ground import cli
from tests.onboard.service import ROOT, Served, running, write_scene

PAGE = ROOT / "docs" / "products.md"
ROW = re.compile(r"^\| ([a-z ]+) \| (.+?) \| ", re.MULTILINE)
COMMAND = re.compile(r"`((?:curl|ground|onboard) [^`]+)`")
SIDE = 100


def commands() -> dict[str, str]:
    """The command of each step of the page's table, as far as it has one."""
    text = PAGE.read_text(encoding="utf-8")
    return {step: found[1] for step, cell in ROW.findall(text) if (found := COMMAND.search(cell))}


def run(command: str, folder: Path, served: Served) -> str:
    """A command of the page against this service, with this checkout's programs."""
    here = command.replace("localhost:8000", served.url.removeprefix("http://"))
    here = re.sub(r"^(ground|onboard) ", rf"{sys.executable} -m \1.cli ", here)
    done = subprocess.run(
        here, shell=True, cwd=folder, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def write_later_scene(scene: Path, target: Path) -> None:
    """The same ground with a block of it changed."""
    with rasterio.open(scene) as file:
        pixels, profile = file.read(), file.profile
    pixels[:, 20:60, 30:80] = np.random.default_rng(9).integers(0, 256, (3, 40, 50), dtype=np.uint8)
    with rasterio.open(target, "w", **profile) as file:
        file.write(pixels)


def test_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    steps = commands()
    assert list(steps) == ["post a scene", "map it", "pull the map", "look", "other readers", "polygons", "change"]
    scene = write_scene(tmp_path / "scene.tif", SIDE)
    with running(tmp_path / "data") as served:
        first = json.loads(run(steps["post a scene"], tmp_path, served))["id"]
        write_later_scene(scene, tmp_path / "later.tif")
        second = json.loads(run(steps["post a scene"].replace("scene.tif", "later.tif"), tmp_path, served))["id"]
        for name in (first, second):
            served.wait_for(name, "mapped")
        run(steps["pull the map"], tmp_path, served)
        maps = tmp_path / "maps"
        items = list(pystac.Catalog.from_file(maps / "catalog.json").get_items(recursive=True))
        assert sorted(item.id for item in items) == [first, second]
        run(steps["other readers"], tmp_path, served)
        run(steps["polygons"], tmp_path, served)
        said = run(steps["change"].replace("BEFORE", first).replace("AFTER", second), tmp_path, served)
    assert (tmp_path / "exported" / f"{first}.tif").is_file()
    assert (tmp_path / "polygons" / f"{second}.parquet").is_file()
    changes = json.loads((tmp_path / "changes" / f"{first}-to-{second}.json").read_text())
    assert 0 < changes["pixels_changed"] <= 60 * 70  # the block, and what the tiny model sees around it
    assert changes["pixels_compared"] <= SIDE * SIDE
    assert "% changed" in said
    cli._parser().parse_args(steps["look"].split()[1:])  # it serves until it is stopped; its own tests run it
