"""Labels of a set as class rasters, as `engines verify --labels` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from trainer.data.description import read_description
from trainer.data.sets import LabelledSet
from trainer.data.targets import HeadCodes
from trainer.errors import DataRefused


def write_label_rasters(labelled: LabelledSet, names: Sequence[str], out: Path, table: str | None = None) -> list[Path]:
    """Writes OUT/SET/NAME.png of each image, uint8 (h, w) of the class codes 1..K, and 0 where nothing is labelled.

    A raster that is there is replaced.

    Args:
        labelled: the set.
        names: of its images.
        out: folder, made where it is not there.
        table: set whose class table the codes are of, by the set's own translation; a label that allows several of its
            classes is 0. None: the set's own table.

    Returns:
        The files, in the order of the names.

    Raises:
        DataMissing: no image is called so, or the set has no labels.
        DataRefused: an image and its label do not fit, or a label value lies outside the class table.
        SettingsRefused: there is no such table, or the set does not say what its classes mean there.
    """
    codes = None
    if table is not None:
        codes = HeadCodes(table, read_description(table).classes).single_codes(labelled.description, table)
    # All are compared before the first is written.
    for name in names:
        labelled.label_path(name)
        labelled.size(name)
    paths = [out / labelled.name / f"{name.replace('/', '--')}.png" for name in names]
    if len(set(paths)) < len(paths):
        raise DataRefused(out, "two images would give one file", "write them to two folders")
    for name, path in zip(names, paths, strict=True):
        labels = labelled.read_labels(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        Image.fromarray(labels if codes is None else codes[labels]).save(partial, format="PNG")
        partial.replace(path)
    return paths
