"""Water of DeepGlobe with a bias on its logit, on tiles that training saw and on those held out (docs/decisions/0010).

`python -m benchmarks.water RUN`: by PyTorch, from ../shared/data. IoU depends on how much water there is: the table
gives the shares too. Minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from trainer.evaluate.biases import PlaceLogits, read_logits
from trainer.evaluate.places import PlacesSettings

HEAD, SET, CLASS = "landcover", "deepglobe-tiles", "water"
GREEN = ("agriculture", "rangeland", "forest")
BIASES = (0.5, 0.0, -0.25, -0.5, -0.75, -0.9, -1.0, -1.5)
SPLITS = (("train", 6), ("val", 1))
"""Split of the set, and N where every N-th image is taken: a sixth of the training split is 608 tiles."""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one table a split."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.water", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of a finetuning")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    for split, every in SPLITS:
        place = {"name": split, "set": SET, "split": split, "head": HEAD, "classes": [CLASS]}
        settings = PlacesSettings.model_validate({"places": [place], "heads": {HEAD: "dubai"}})
        (read,) = read_logits(settings, arguments.run, HEAD, every=every)
        print(f"split {split}, {read.images} tiles\n")
        print("| bias | IoU of water | of it found | of fields, grass and forest said to be water |\n|---|---|---|---|")
        for bias in BIASES:
            print(_row(read, bias))
        print(f"\n{_share(read):.3f} pixels of water for one of fields, grass and forest\n")


def _row(read: PlaceLogits, bias: float) -> str:
    names = [item.name for item in read.count.codes.classes]
    scores = read.scores(np.array([bias if name == CLASS else 0.0 for name in names], dtype=np.float32))
    pixels = _pixels(read)
    wrong = sum(scores.said[name][CLASS] * pixels[name] for name in GREEN) / sum(pixels[name] for name in GREEN)
    return f"| {bias:g} | {scores.iou[CLASS]:.3f} | {scores.said[CLASS][CLASS]:.1%} | {wrong:.2%} |"


def _share(read: PlaceLogits) -> float:
    pixels = _pixels(read)
    return pixels[CLASS] / sum(pixels[name] for name in GREEN)


def _pixels(read: PlaceLogits) -> dict[str, int]:
    counted = np.bincount(read.labels, minlength=len(read.count.own) + 1)
    return {item.name: int(counted[code]) for code, item in enumerate(read.count.own, start=1)}


if __name__ == "__main__":
    main()
