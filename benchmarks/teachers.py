"""What soft labels of teachers are worth where nothing was trained: of each, and as `trainer soften` takes their mean.

`python -m benchmarks.teachers RUN RUN`: the six classes of DeepGlobe's held-out tiles (../shared/data), without biases.
Ten minutes on one core for a network of the size of DINOv2's ViT-S.
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
from trainer.data.sets import open_set
from trainer.finetune.soften import Teacher, soft_labels

SET, HEAD = "deepglobe-tiles", "deepglobe"
WATER, GREEN = 5, (2, 3, 4)
"""Codes of water, and of agriculture, rangeland and forest."""
STRIDE = 4
TEXT = "mIoU of the six classes, IoU of water, fields, grass and forest said to be water"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row a teacher, and one of the mean."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.teachers", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=f"run folder with a head {HEAD}")
    parser.add_argument(
        "--gsd",
        type=float,
        nargs="+",
        default=[0.5, 0.4],
        help="metres a pixel of the views, every second one mirrored",
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th tile")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    tiles = open_set(SET)
    zooms = [(tiles.description.gsd_m or 0.5) / gsd for gsd in arguments.gsd]
    teachers = [Teacher.of(run) for run in arguments.runs]
    counts = {teacher.name: Confusion(6) for teacher in teachers} | {"mean": Confusion(6)}
    for name in tiles.split("val")[:: arguments.every]:
        scene = tiles.read(name)
        found = [_six(teacher, scene.pixels, zooms) for teacher in teachers]
        for count, seen in zip(counts.values(), [*found, np.mean(found, axis=0)], strict=True):
            count.add(scene.labels, (seen.argmax(axis=0) + 1).astype(np.uint8))
    print(f"| teacher | {TEXT.replace(', ', ' | ', 2)} |\n|---|---|---|---|")
    for name, count in counts.items():
        matrix = count.counts
        wrong = sum(matrix[code, WATER] for code in GREEN) / sum(matrix[code].sum() for code in GREEN)
        print(f"| {name} | {count.scores().miou:.3f} | {float(iou_of(matrix)[WATER - 1]):.3f} | {wrong:.2%} |")


def _six(teacher: Teacher, pixels: NDArray[np.uint8], zooms: Sequence[float]) -> NDArray[np.float32]:
    """Probabilities of the six classes at the tile's own size, (6, H, W)."""
    first = sum(list(teacher.heads.values())[: list(teacher.heads).index(HEAD)])
    cells = torch.from_numpy(soft_labels(teacher, pixels, zooms, STRIDE)[first : first + 6].astype(np.float32))
    return F.interpolate(cells[None], size=pixels.shape[1:], mode="bilinear")[0].numpy()


if __name__ == "__main__":
    main()
