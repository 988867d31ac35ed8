"""Pictures of the reconstructed hidden patches, one row per tile."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from trainer.distill.network import Reconstructed


def reconstruction_picture(shown: Reconstructed, path: Path, *, title: str) -> None:
    """Writes input, masked, and every side's reconstruction of each tile."""
    columns = {"input": shown.whole, "masked": shown.masked}
    sides = sorted(shown.filled, key=lambda name: name == "student")  # teachers first, as they are read
    columns |= {name: shown.filled[name] for name in sides}
    rows = len(shown.whole)
    figure = Figure(figsize=(2.6 * len(columns), 2.6 * rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    for number, (name, images) in enumerate(columns.items(), start=1):
        for row in range(rows):
            axes = figure.add_subplot(rows, len(columns), row * len(columns) + number)
            axes.imshow(images[row].permute(1, 2, 0).byte().cpu().numpy(), interpolation="nearest")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(name, fontsize=9)
    figure.savefig(path, dpi=110)
