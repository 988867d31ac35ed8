"""A process killed at any durable step, or at any instant, loses nothing: the same command gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.onboard.mapping.mapper import GROUP

MAPPER = Path(__file__).with_name("mapper.py")
ROOT = Path(__file__).resolve().parents[3]
WIDTH, HEIGHT = 330, 260


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    pixels = np.random.default_rng(3).integers(1, 6, (3, HEIGHT, WIDTH), dtype=np.uint8)
    profile = {"driver": "GTiff", "width": WIDTH, "height": HEIGHT, "count": 3, "dtype": "uint8", "crs": "EPSG:32640"}
    with rasterio.open(path, "w", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 2.8e6), **profile) as target:
        target.write(pixels)
    return path


def start(scene: Path, out: Path, die_at: int = -1) -> subprocess.Popen[str]:
    command = [sys.executable, str(MAPPER), str(scene), str(out), str(die_at)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, int]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    inferred, steps = out.split()
    return int(inferred), int(steps)


def digest(out: Path) -> str:
    """Of the map, and of what its item says of the tiles' familiarity, which the journal keeps."""
    familiarity = json.loads((out / "scene" / "map.json").read_text())["properties"]["onboard:familiarity"]
    assert familiarity["lowest"] > 0
    return hashlib.sha256((out / "scene" / "map.tif").read_bytes() + json.dumps(familiarity).encode()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int, int]:
    out = tmp_path_factory.mktemp("undisturbed")
    tiles, steps = finish(start(scene, out))
    return digest(out), tiles, steps


def no_partial_product(out: Path) -> None:
    """What is listed (every folder not hidden) is whole."""
    for folder in out.iterdir() if out.exists() else []:
        if not folder.name.startswith("."):
            assert {path.name for path in folder.iterdir()} == {"map.tif", "map.json", "quicklook.webp"}


def test_dying_at_every_durable_step(scene: Path, undisturbed: tuple[str, int, int], tmp_path: Path) -> None:
    expected, tiles, steps = undisturbed
    assert steps > 20
    for die_at in range(1, steps + 1):
        out = tmp_path / str(die_at)
        process = start(scene, out, die_at)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, f"step {die_at} was not reached"
        no_partial_product(out)
        again, _ = finish(start(scene, out))
        assert digest(out) == expected, f"killed at step {die_at}"
        assert again <= tiles
        assert not (out / ".onboard").exists(), "work is cleared after publication"


def test_a_kill_costs_one_group_at_most(scene: Path, undisturbed: tuple[str, int, int], tmp_path: Path) -> None:
    """Dying at ever later steps of the same work, the tiles computed beyond the first time stay bounded by groups."""
    expected, tiles, _ = undisturbed
    out = tmp_path / "out"
    # The steps before the canvas exists repeat at each start, so each start gets a little further than the last.
    for die_at in range(8, 14):
        process = start(scene, out, die_at)
        process.communicate(timeout=60)
    inferred, _ = finish(start(scene, out))
    assert digest(out) == expected
    assert inferred <= tiles - 2 * GROUP, "work committed before the kills is not done again"


def test_dying_at_random_instants(scene: Path, undisturbed: tuple[str, int, int], tmp_path: Path) -> None:
    expected, _, _ = undisturbed
    draw = random.Random(11)
    out = tmp_path / "out"
    begin = time.monotonic()
    finish(start(scene, tmp_path / "timed"))
    whole = time.monotonic() - begin
    for _ in range(12):
        process = start(scene, out)
        try:
            process.wait(draw.uniform(0.2, 1.0) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        no_partial_product(out)
    finish(start(scene, out))
    assert digest(out) == expected
