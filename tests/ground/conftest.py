"""A real service that holds maps, and a link to it that breaks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.open import open_engine
from onboard.mapping import run
from onboard.mapping.run import MapRequest, map_scene
from tests.onboard.service import Served, running, write_scene
from tests.tiny_model import write_model

MAPS, FEW = 50, 12


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of 50 maps, eight of them different."""
    folder = tmp_path_factory.mktemp("archive")
    model = write_model(folder / "model")
    with pytest.MonkeyPatch.context() as patch, open_engine(str(model), backend="onnxruntime") as engine:
        patch.setattr(run, "probe_scene", lambda *_: None)  # a process a scene: its own tests run it
        for seed in range(8):
            scene = write_scene(folder / f"scene-{seed}.tif", 420 + 20 * seed, seed=seed)
            map_scene(MapRequest(scene, folder / "made", name=f"made-{seed}"), engine)
    for number in range(MAPS):
        shutil.copytree(folder / "made" / f"made-{number % 8}", folder / "maps" / f"m{number:03d}")
    return folder / "maps"


@pytest.fixture(scope="session")
def archive(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first twelve of them."""
    folder = tmp_path_factory.mktemp("few")
    for number in range(FEW):
        shutil.copytree(many / f"m{number:03d}", folder / f"m{number:03d}")
    return folder


@pytest.fixture
def holding(archive: Path, tmp_path: Path) -> Iterator[Served]:
    """A service that has taken the twelve up; it does not look for damage itself, that is for the pass to find."""
    shutil.copytree(archive, tmp_path / "data" / "maps")
    with running(tmp_path / "data", ONBOARD_MAP_SCRUB_BYTES_PER_S="0") as served:
        yield served


@pytest.fixture
def holding_many(many: Path, tmp_path: Path) -> Iterator[Served]:
    """A service that has taken all 50 up."""
    shutil.copytree(many, tmp_path / "data" / "maps")
    with running(tmp_path / "data") as served:
        yield served
