"""What one network answers when it sees more of a place: a table of docs/decisions/0010.

`python -m benchmarks.views RUN`: on the held-out tiles of DeepGlobe (../shared/data), at 0.7 m, by PyTorch. Minutes
on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from engines.metrics import Confusion, iou_of
from trainer.data.mosaics import Grid, neighbours
from trainer.data.sets import LabelledSet, open_set
from trainer.export.onnx import segmenter_of
from trainer.training.precision import fast_inference

AT_M, TILE = 0.7, 320
WATER = 5
"""Code of DeepGlobe; water of the head of land cover is channel 3."""
CHANNEL = 3
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-1, -2))
Probabilities = list[NDArray[np.float32]]
"""Of each head, (K, H, W) at the image's own size; sums over views, since only the largest counts."""


class Network:
    """A run's network; ``gsd_m`` is that of the images."""

    def __init__(self, run: Path, gsd_m: float) -> None:
        _, segmenter = segmenter_of(run)
        self._segmenter = segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._gsd_m, self._grain = gsd_m, segmenter.settings.student.grain

    @torch.inference_mode()
    def seen(
        self, pixels: NDArray[np.uint8], at_m: float = AT_M, flips: Sequence[tuple[int, ...]] = FLIPS[:1]
    ) -> Probabilities:
        """Probabilities of uint8 (3, H, W), read at a ground resolution, summed over mirrored views."""
        size = pixels.shape[1:]
        image = torch.from_numpy(np.ascontiguousarray(pixels))[None].float()
        read = [max(1, round(side * self._gsd_m / at_m)) for side in size]
        image = F.interpolate(image, size=read, mode="bilinear", align_corners=False, antialias=True)
        image = F.pad(image, (0, -read[1] % self._grain, 0, -read[0] % self._grain), mode="replicate")
        total: list[torch.Tensor] = []
        for flip in flips:
            with fast_inference():
                view = image.flip(flip).contiguous(memory_format=torch.channels_last)
                logits = self._segmenter.all_logits(view)
            whole = [F.interpolate(item.float().flip(flip), size=image.shape[2:], mode="bilinear") for item in logits]
            found = [item.softmax(dim=1) for item in whole]
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        own = [item[:, :, : read[0], : read[1]] for item in total]
        return [F.interpolate(item, size=size, mode="bilinear")[0].numpy() for item in own]


class Tally:
    """Counts of one way to look: the six classes, and water by the head of land cover."""

    def __init__(self) -> None:
        self.six, self.water = Confusion(6), Confusion(2)

    def add(self, labels: NDArray[np.uint8], probabilities: Probabilities) -> None:
        """Counts one tile."""
        cover, six = probabilities
        self.six.add(labels, (six.argmax(axis=0) + 1).astype(np.uint8))
        is_water = cover.argmax(axis=0) == CHANNEL
        self.water.add(np.where(labels, 1 + (labels == WATER), 0).astype(np.uint8), (1 + is_water).astype(np.uint8))

    @property
    def water_iou(self) -> float:
        """IoU of water."""
        return float(iou_of(self.water.counts)[1])


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.views", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of a finetuning with both heads")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    tiles = open_set("deepglobe-tiles")
    network = Network(arguments.run, tiles.description.gsd_m or AT_M)
    ways = {name: Tally() for name in ("alone", "flips", "flips and scales", "neighbours", "neighbours, flips, scales")}
    grids = neighbours(tiles, tiles.split("val"))
    for grid in grids:
        _look(network, tiles, grid, ways)
    print(f"{sum(map(len, grids))} tiles, {len(grids)} groups of neighbours, read at {AT_M} m\n")
    print("| view | six classes | water |\n|---|---|---|")
    for name, tally in ways.items():
        print(f"| {name} | {tally.six.scores().miou:.3f} | {tally.water_iou:.3f} |")


def _look(network: Network, tiles: LabelledSet, grid: Grid, ways: dict[str, Tally]) -> None:
    """All ways for the tiles of one group."""
    rows, columns = (1 + max(place[axis] for place in grid) for axis in (0, 1))
    whole = np.zeros((3, rows * TILE, columns * TILE), dtype=np.uint8)
    read = {place: tiles.read(name) for place, name in grid.items()}
    for place, tile in read.items():
        whole[(slice(None), *_part(place))] = tile.pixels
    beside = {"neighbours": network.seen(whole)}
    fine, coarse = network.seen(whole, flips=FLIPS), network.seen(whole, 1.0, FLIPS)
    beside["neighbours, flips, scales"] = [a + b for a, b in zip(fine, coarse, strict=True)]
    for place, tile in read.items():
        alone, flips = network.seen(tile.pixels), network.seen(tile.pixels, flips=FLIPS)
        scales = [network.seen(tile.pixels, at_m, FLIPS) for at_m in (0.5, 1.0)]
        views = {"alone": alone, "flips": flips}
        views["flips and scales"] = [sum(parts, flips[head]) for head, parts in enumerate(zip(*scales, strict=True))]
        views |= {name: [item[(slice(None), *_part(place))] for item in both] for name, both in beside.items()}
        for name, probabilities in views.items():
            ways[name].add(tile.labels, probabilities)


def _part(place: tuple[int, int]) -> tuple[slice, slice]:
    return tuple(slice(at * TILE, (at + 1) * TILE) for at in place)  # type: ignore[return-value]


if __name__ == "__main__":
    main()
