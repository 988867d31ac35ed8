"""What a model's familiarity can separate.

`python -m benchmarks.familiarity MODEL --in-turn SET:NAMES --known SET:NAMES` prints the AUROC of each kind of strange
imagery against tiles of known places, and draws histograms.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from benchmarks.strange_imagery import (
    GROSS,
    Case,
    coarser,
    made_cases,
    own_photographs,
    photographs,
    real_cases,
)
from engines.heads_graph import graph_of
from engines.manifest import FamiliarityCase, Manifest
from engines.open import manifest_path
from trainer.data.sets import data_root
from trainer.export.card import write_card
from trainer.familiarity.fit import held_out_in_turn
from trainer.familiarity.graph import feature_names, only_familiarity, scale_in
from trainer.familiarity.imagery import CellReader, Images, Pixels, tiles_of_images
from trainer.familiarity.statistics import Floats, auroc

BASE_TILES = 12
"""Known tiles that spoilt ones are made of, and tiles of each other place."""


class Meter:
    """The familiarity of tiles by a packaged model, without the rest of its graph.

    Args:
        folder: of the model.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, Manifest.load(folder)
        self.model = onnx.load_from_string(graph_of(self.manifest, folder))
        options = onnxruntime.SessionOptions()
        # ONNX Runtime has threads of its own and does not look at OMP_NUM_THREADS. 0: as many as it likes.
        options.intra_op_num_threads = options.inter_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        # Only what leads to the familiarity: the decoder is not run.
        content = only_familiarity(self.model).SerializeToString()
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def read(self, tiles: Iterable[Pixels]) -> Floats:
        """Float32 (N,)."""
        name = self.manifest.input.name
        values: Floats = np.concatenate([self._session.run(None, {name: tile[np.newaxis]})[0] for tile in tiles])
        return values

    def tiles(self, images: Images, most: int) -> list[Pixels]:
        """Up to so many of the images, cut as in flight."""
        side, halo = self.manifest.input.tile_size, self.manifest.halo
        return list(tiles_of_images(images, side=side, halo=halo, most=most))

    def held_out_in_turn(self, given: Sequence[Images], most: int) -> Floats:
        """Of each image's tiles by statistics of the others, on the model's scale."""
        reader = CellReader(self.model, feature_names(self.model, self.manifest.input.tile_size))
        side, halo = self.manifest.input.tile_size, self.manifest.halo
        cells = [
            [reader.read_all(replace(images, names=(name,)), side=side, halo=halo, most=most) for name in images.names]
            for images in given
        ]
        return scale_in(self.model).familiarity(held_out_in_turn(cells).tile_distances())


@dataclass(frozen=True)
class Row:
    """Figures of one kind of imagery."""

    case: Case
    values: Floats
    auroc: float
    unfamiliar: float

    def as_entry(self) -> FamiliarityCase:
        """For the manifest."""
        return FamiliarityCase(
            name=self.case.name, tiles=len(self.values), auroc=round(self.auroc, 4),
            unfamiliar=round(self.unfamiliar, 4),
        )  # fmt: skip


def proof(meter: Meter, threshold: float, known: Floats, cases: Iterable[Case]) -> list[Row]:
    """Each case against known tiles; printed as it comes."""
    print("| imagery | tiles | AUROC | below the threshold | median |\n|---|---|---|---|---|")
    rows = []
    for case in cases:
        values = meter.read(case.tiles)
        row = Row(case, values, auroc(values, known), float((values < threshold).mean()))
        print(
            f"| {case.name} | {len(values)} | {row.auroc:.3f} | {row.unfamiliar:.0%} | {np.median(values):.4f} |",
            flush=True,
        )
        rows.append(row)
    return rows


def all_cases(
    meter: Meter, known: Sequence[Pixels], images: Sequence[Images], photos: Sequence[Path]
) -> Iterable[Case]:
    """Gross ones first."""
    side, halo = meter.manifest.input.tile_size, meter.manifest.halo
    yield from made_cases(known)
    yield coarser(images, side=side, halo=halo, most=BASE_TILES)
    pictures = photographs(photos, side)
    if pictures is not None:
        yield pictures
    yield from real_cases(data_root(), side=side, halo=halo, most=BASE_TILES)


def draw(rows: Sequence[Row], known: Floats, threshold: float, target: Path, title: str) -> None:
    """Histograms of the figures, one line a kind of imagery."""
    import matplotlib as mpl

    # Before pyplot is imported: else it may look for a display.
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = [("known places, held out", known, "#2a6f4e"), *((row.case.name, row.values, _colour(row)) for row in rows)]
    figure, axes = plt.subplots(len(shown), 1, figsize=(8, 0.42 * len(shown) + 1), sharex=True)
    # By orders of magnitude: the threshold lies at 0.02.
    bins = np.geomspace(1e-4, 1, 61)
    for axis, (name, values, colour) in zip(axes, shown, strict=True):
        axis.hist(np.clip(values, 1e-4, 1), bins=bins, color=colour)
        axis.axvline(threshold, color="black", linewidth=1)
        axis.set(xscale="log", xlim=(1e-4, 1.05), yticks=[])
        axis.text(-0.01, 0.3, name, transform=axis.transAxes, ha="right", fontsize=8)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    axes[-1].set_xlabel("familiarity (line: threshold)")
    axes[0].set_title(title, fontsize=10)
    figure.savefig(target, dpi=110, bbox_inches="tight")
    plt.close(figure)


def _colour(row: Row) -> str:
    return {"known": "#2a6f4e", GROSS: "#b23a3a"}.get(row.case.group, "#c98a2b")


def main() -> None:
    """The proof."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.familiarity", description=__doc__)
    parser.add_argument("model", help="shipped name or model folder")
    parser.add_argument("--in-turn", nargs="+", default=[], metavar="SET:NAMES", help="fitted on; held out in turn")
    parser.add_argument("--known", nargs="+", default=[], metavar="SET:NAMES", help="known places not fitted on")
    parser.add_argument("--most", type=int, default=40, help="tiles of each")
    parser.add_argument("--photos", nargs="*", type=Path, default=[], help="more pictures of no ground")
    parser.add_argument("--picture", type=Path, help="write histograms here")
    parser.add_argument("--record", action="store_true", help="write the figures into the manifest and the card")
    options = parser.parse_args()
    meter = Meter(manifest_path(options.model).parent)
    facts = meter.manifest.familiarity
    if facts is None:
        parser.exit(2, f"{options.model} gives no familiarity: trainer familiarity {options.model} --fit ...\n")
    turned, places = ([Images.parsed(text) for text in given] for given in (options.in_turn, options.known))
    values = [meter.held_out_in_turn(turned, options.most)] if turned else []
    seen = [tile for images in places for tile in meter.tiles(images, options.most)]
    values += [meter.read(seen)] if seen else []
    for name, value in zip(["in turn"] * bool(turned) + ["known"], values, strict=False):
        below = (value < facts.threshold).mean()
        print(f"{name}: {len(value)} tiles, {below:.1%} below, median {np.median(value):.3f}")
    known = np.concatenate(values)
    base = [tile for images in [*turned, *places] for tile in meter.tiles(images, BASE_TILES)]
    # Evenly over all places: the first ones would else be all that there is.
    base = [base[int(place)] for place in np.linspace(0, len(base) - 1, min(BASE_TILES, len(base))).round()]
    photos = [*own_photographs(), *options.photos]
    rows = proof(meter, facts.threshold, known, all_cases(meter, base, [*turned, *places], photos))
    if options.picture:
        draw(rows, known, facts.threshold, options.picture, f"{meter.manifest.name} {meter.manifest.version}")
    if options.record:
        update = {"familiarity": facts.model_copy(update={"cases": tuple(row.as_entry() for row in rows)})}
        # Card and manifest together, so that they cannot differ.
        changed = meter.manifest.model_copy(update=update)
        changed.save(meter.folder)
        write_card(changed, meter.folder)


if __name__ == "__main__":
    main()
