"""The measurement of a narrower halo, on an engine whose answers depend on the tile's edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from benchmarks import halo
from benchmarks.reference import NEAR_PX
from engines.engine import Prediction, Tiles
from engines.testing import ConstantEngine

SIDE, EDGE = 128, 10


class EdgeEngine(ConstantEngine):
    """Says class 2 in the outer pixels of each tile, class 1 elsewhere, as a network that sees too little there."""

    def _predicted(self, tiles: Tiles) -> Prediction:
        classes = np.full((len(tiles), SIDE, SIDE), 2, np.uint8)
        classes[:, EDGE:-EDGE, EDGE:-EDGE] = 1
        return Prediction(classes, None)


def test_a_halo_wider_than_what_the_network_lacks_costs_nothing_and_a_narrower_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(halo, "open_engine", lambda *_, **__: EdgeEngine(code=1, tile_size=SIDE))
    scene = tmp_path / "scene.tif"
    size: dict[str, Any] = {"width": 260, "height": 250, "count": 3, "dtype": "uint8"}
    with rasterio.open(scene, "w", driver="GTiff", transform=Affine(1, 0, 500_000, 0, -1, 2_000_000), **size) as made:
        made.write(np.zeros((3, 250, 260), np.uint8))
    halo.main(["--scenes", str(scene), "--halos", "2", "4", "8", "16"])
    said = capsys.readouterr().out
    assert "scene.tif, halo 2: the scene is too small" in said  # it would need 252 rows
    assert "all, halo 2" not in said
    lines = {line.split(":")[0]: line for line in said.splitlines() if line.startswith("all")}
    for narrow in (4, 8):
        side, band, near = halo.side_of(narrow, SIDE), 2 * (EDGE - narrow), 2 * NEAR_PX
        # Two bands that cross, less where both maps say 2 at the square's own border.
        unlike = 2 * band * (side - 2 * EDGE) - band**2
        share = unlike / (2 * near * side - near**2)
        assert f"of a cut {share:.2%} unlike, elsewhere 0.00%" in lines[f"all, halo {narrow}"]
    assert "of a cut 0.00% unlike, elsewhere 0.00%" in lines["all, halo 16"]
