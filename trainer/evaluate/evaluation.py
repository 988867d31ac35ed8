"""Accuracy of a packaged model on whole images, mapped by the onboard pipeline."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterWindow
from tqdm import tqdm

from engines.engine import Engine
from engines.manifest import Evaluation, Manifest
from engines.metrics import Confusion, Scores
from engines.open import open_engine
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.grid import Window
from onboard.scene.resolution import ResolutionOptions
from trainer.data.description import SetDescription
from trainer.data.rasters import is_tiff, read_pixels
from trainer.data.sets import LabelledSet
from trainer.errors import SettingsRefused
from trainer.evaluate.bootstrap import BLOCK


@dataclass(frozen=True)
class Evaluated:
    """Counts of an evaluation.

    Attributes:
        description: of the set.
        images: scores by image name.
        confusion: of all their pixels together.
        blocks: int64 (n, K + 1, K + 1), matrices of the blocks of 512 pixels that hold labels.
    """

    description: SetDescription
    images: Mapping[str, Scores]
    confusion: Confusion
    blocks: NDArray[np.int64]

    @property
    def pooled(self) -> Scores:
        """Scores over all pixels together, not the mean over images."""
        return self.confusion.scores()


def evaluate(
    models: Iterable[tuple[Path, Sequence[str]]],
    labelled: LabelledSet,
    *,
    threads: int | None = None,
    heads: Sequence[str] = (),
) -> Evaluated:
    """Maps whole images of a labelled set and counts every labelled pixel.

    Args:
        models: (model folder, names of the images it maps); more than one where images are held out in turn, each
            mapped by the model that has not seen it.
        labelled: the set; its classes must be the models'.
        threads: of the engine.
        heads: the head of models with heads; their first with none.

    Raises:
        SettingsRefused: a model has other classes than the set, or two of them map one image.
        SettingRefused: a model has no such head.
        DataMissing, DataRefused: as the set raises them.
        EngineError, OnboardError: as the pipeline raises them.
    """
    models = list(models)
    twice = [name for name, times in Counter(name for _, names in models for name in names).items() if times > 1]
    if twice:
        # Its pixels would count twice, and one of the two models has learnt from it.
        raise SettingsRefused("--fold", f"image {twice[0]} is given for two models; name each image once")
    for folder, names in models:
        _check_classes(Manifest.load(folder).with_heads(heads), labelled, folder)
        for name in names:
            labelled.size(name)  # reports a missing file before hours of mapping
    scores: dict[str, Scores] = {}
    blocks: list[NDArray[np.int64]] = []
    with tqdm(total=sum(len(names) for _, names in models), unit="image", disable=None) as progress:
        for folder, names in models:
            # The reference backend: figures must not depend on which runtimes are installed.
            with open_engine(folder, heads=heads, backend="onnxruntime", threads=threads) as engine:
                for name in names:
                    counts = np.stack(list(_counted(name, labelled, engine)))
                    scores[name] = _confusion(counts).scores()
                    # Row 0 counts unlabelled pixels. Blocks without labels would only thin the resampling.
                    blocks.append(counts[counts[:, 1:].any(axis=(1, 2))])
                    progress.update()
    together = np.concatenate(blocks) if blocks else np.zeros((0, *[len(labelled.classes) + 1] * 2), dtype=np.int64)
    return Evaluated(labelled.description, scores, _confusion(together), together)


def has_labels(labelled: LabelledSet, names: Iterable[str]) -> bool:
    """Whether any pixel of the images is labelled; stops at the first labelled one."""
    return any(truth.any() for name in names for _, truth in _strips(labelled, name))


def _confusion(blocks: NDArray[np.int64]) -> Confusion:
    return Confusion(blocks.shape[-1] - 1, blocks.sum(axis=0))


def _counted(name: str, labelled: LabelledSet, engine: Engine) -> Iterator[NDArray[np.int64]]:
    """Matrices of the blocks of one image, row by row."""
    classes = len(labelled.classes)
    with tempfile.TemporaryDirectory(prefix="evaluate-") as made:
        image = _as_geotiff(labelled.image_path(name), Path(made) / "scene.tif")
        # Images of different folders may share a file name, and maps lie in one folder.
        # On the labels' grid, whatever resolution the model reads it at.
        request = MapRequest(image, Path(made) / "maps", name="map", resolution=ResolutionOptions(grid="scene"))
        summary = map_scene(request, engine)
        # By strips, so that large scenes are compared in bounded memory.
        for window, truth in _strips(labelled, name):
            mapped = _read_map(summary.map_path, window)
            for left in range(0, window.width, BLOCK):
                block = Confusion(classes)
                block.add(truth[:, left : left + BLOCK], mapped[:, left : left + BLOCK])
                yield block.counts


def _strips(labelled: LabelledSet, name: str) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    """Labels of an image by strips a block high; only formats without windows are held whole."""
    height, width = labelled.size(name)
    whole = None if is_tiff(labelled.label_path(name)) else labelled.read_labels(name)
    for top in range(0, height, BLOCK):
        window = Window(0, top, width, min(BLOCK, height - top))
        yield window, labelled.read_labels(name, window) if whole is None else whole[window.rows]


def _as_geotiff(image: Path, target: Path) -> Path:
    """The image itself if it is a GeoTIFF, else a GeoTIFF copy, the only format of the onboard pipeline."""
    if is_tiff(image):
        return image
    pixels = read_pixels(image)
    _, height, width = pixels.shape
    with _unplaced(), rasterio.open(
        target, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8", photometric="RGB",
        tiled=True, blockxsize=256, blockysize=256,
    ) as copy:  # fmt: skip
        copy.write(pixels)
    return target


def _read_map(path: Path, window: Window) -> NDArray[np.uint8]:
    place = RasterWindow(window.col, window.row, window.width, window.height)
    with _unplaced(), rasterio.open(path, driver="GTiff") as source:
        band: NDArray[np.uint8] = source.read(1, window=place)
    return band


@contextmanager
def _unplaced() -> Iterator[None]:
    """A scene whose georeference is ignored, since it is compared pixel by pixel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def evaluation_row(scores: Scores, description: SetDescription, *, split: str, notes: str = "") -> Evaluation:
    """Scores as a row of the manifest."""
    names = [item.name for item in description.classes]
    return Evaluation(
        data_set=description.title,
        split=split,
        per_class_iou={
            name: None if math.isnan(iou) else round(float(iou), 4) for name, iou in zip(names, scores.iou, strict=True)
        },
        miou=round(scores.miou, 4),
        oa=round(scores.overall_accuracy, 4),
        mf1=round(scores.mf1, 4),
        notes=notes,
    )


def with_evaluation(manifest: Manifest, row: Evaluation) -> Manifest:
    """The manifest with this row; it replaces an earlier row of the same data set and split."""
    others = [old for old in manifest.evaluation if (old.data_set, old.split) != (row.data_set, row.split)]
    return manifest.model_copy(update={"evaluation": (*others, row)})


def _check_classes(manifest: Manifest, labelled: LabelledSet, folder: Path) -> None:
    given = [(item.code, item.name) for item in manifest.classes]
    wanted = [(item.code, item.name) for item in labelled.classes]
    if given != wanted:
        raise SettingsRefused(str(folder), f"its classes are {given}, those of {labelled.name} are {wanted}")
