"""Quality of a tool's map: differing pixels near tile borders and elsewhere, with confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from benchmarks.peers.scenes import BenchScene
from benchmarks.peers.tools import TOOLS
from benchmarks.reference import block_counts, difference, near_mask, reference_classes, shares
from benchmarks.twin import Twin
from engines.metrics import Confusion
from onboard.scene.grid import Grid

OVERLAP = 256
REFERENCE_STEP = 224
"""A little more than three quarters of overlap. With steps of 256 the reference had tiles where the peers' tiles are,
and divided the ground into the windows of the network's attention, 256 pixels, as they do: it favoured them. Multiples
of 224 go through all eight phases that its strides of 32 leave."""
OURS = ("onboard", "onboard-default", "onboard-auto")


@dataclass
class Judge:
    """Of one scene's maps; counts of those judged lie in ``folder``, so that any two can be compared later."""

    scene: BenchScene
    twin: Twin
    folder: Path
    _expected: NDArray[np.uint8] | None = field(default=None, repr=False)

    def quality(self, tool: str, mapped: Path) -> dict[str, Any]:
        """Shares of pixels unlike the reference, near the tool's tile borders and elsewhere; mIoU where labelled."""
        part = self.scene.judged
        with rasterio.open(mapped) as source:
            # A map of another size cannot be laid over the reference: it is told in the table and not judged.
            if (source.height, source.width) != self.scene.size():
                return {"wrong": f"the map has {source.width} x {source.height} pixels"}
            classes = source.read(1)
        expected = self._reference()
        predicted = classes[part.row : part.row + part.height, part.col : part.col + part.width]
        inner = [
            [line - first for line in axis if 0 < line < length]
            for axis, first, length in zip(
                tile_lines(tool, self.twin, self.scene.size()), (part.row, part.col), self.scene.size(), strict=True
            )
        ]
        counts = block_counts(predicted, expected, near_mask(*expected.shape, *inner))
        self._counts_of(tool).parent.mkdir(parents=True, exist_ok=True)
        # Kept block by block: intervals resample the same blocks for both tools of a pair.
        np.save(self._counts_of(tool), counts)
        near, elsewhere = shares(counts)
        figures: dict[str, Any] = {
            "near": near, "elsewhere": elsewhere, "unlike": float((predicted != expected).mean()),
            "empty": float((predicted == 0).mean()),
        }  # fmt: skip
        if self.scene.labels is not None:
            with rasterio.open(self.scene.labels) as source:
                labels = source.read(1)
            hits, best = Confusion(self.twin.classes), Confusion(self.twin.classes)
            hits.add(labels, predicted)
            best.add(labels, expected)
            figures |= {"miou": hits.scores().miou, "reference_miou": best.scores().miou}
        return figures

    def differences(self) -> dict[str, dict[str, Any]]:
        """Of each of ours from each other tool that overlaps, in points: "near" and "seam", with 95 % intervals."""
        table: dict[str, dict[str, Any]] = {}
        for ours in OURS:
            for other, tool in TOOLS.items():
                paths = self._counts_of(ours), self._counts_of(other)
                # Without overlap nothing is meant to be seamless: these rows stand for speed.
                if tool.own or tool.fastest or not all(path.exists() for path in paths):
                    continue
                table.setdefault(ours, {})[other] = difference(*(np.load(path) for path in paths))
        return table

    def _reference(self) -> NDArray[np.uint8]:
        if self._expected is None:
            digest = f"{self.scene.path.stem}-{self.twin.manifest.model.sha256[:12]}"
            # Minutes of inference: kept, by all that it depends on.
            path = self.folder / f"reference-{digest}-{REFERENCE_STEP}.npy"
            if not path.exists():
                pixels = self.scene.pixels()
                np.save(path, reference_classes(self.twin, pixels, self.scene.judged, step=REFERENCE_STEP))
            codes = np.asarray([item.code for item in self.twin.manifest.classes], np.uint8)
            self._expected = codes[np.load(path)]
        return self._expected

    def _counts_of(self, tool: str) -> Path:
        return self.folder / "counts" / f"{self.scene.path.stem}-{self.twin.manifest.model.sha256[:12]}-{tool}.npy"


def tile_lines(name: str, twin: Twin, size: tuple[int, int]) -> list[list[int]]:
    """Rows and columns of a scene (height, width) where the tool's tiles begin, end or are cut."""
    tool = TOOLS[name]
    if not tool.own:
        overlap = 0 if tool.fastest else OVERLAP
        step = twin.size - overlap
        return [
            [line for place in range(step, length, step) for line in (place, place + overlap // 2, place + overlap)]
            for length in size
        ]
    halo = OVERLAP // 2 if tool.halo is None else twin.halo if tool.halo == -1 else tool.halo  # -1: the model's
    grid = Grid(size[1], size[0], tile_size=twin.size, halo=halo)
    rows = [grid[row * grid.columns] for row in range(grid.rows)]
    columns = [grid[column] for column in range(grid.columns)]
    return [
        [line for tile in rows for line in (tile.source.row, tile.source.row + twin.size, tile.core.row)],
        [line for tile in columns for line in (tile.source.col, tile.source.col + twin.size, tile.core.col)],
    ]
