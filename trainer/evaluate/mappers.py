"""From pixels of an image to its maps: by a run's weights, or by a packaged model and the onboard pipeline."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from engines.manifest import Manifest
from engines.open import open_engine
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.reader import SceneOptions
from trainer.config import FinetuneSettings
from trainer.data.description import read_description
from trainer.errors import SettingsRefused
from trainer.export.onnx import segmenter_of
from trainer.models.deploy import with_bias
from trainer.models.segmenter import Segmenter
from trainer.training.precision import fast_inference

Mapper = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.uint8]]]
"""Pixels uint8 (3, H, W) to codes 1..K uint8 (H, W) of each head, and its confidence x 255 by HEAD + CONFIDENCE."""
CONFIDENCE = " confidence"


def mapper_of_run(
    run: Path, tables: Mapping[str, str], bias: Mapping[str, Mapping[str, float]] | None = None
) -> Mapper:
    """A mapper that uses the averaged weights of a run: whole images, the most probable class of each pixel.

    Args:
        run: its folder.
        tables: the set whose class table each head of the places has.
        bias: logits added for classes of a head, by head and class.

    Raises:
        CheckpointRefused: it has none.
        SettingsRefused: as :func:`heads_of_run`, or a bias is for no head or class of the run.
    """
    settings, segmenter = segmenter_of(run)
    heads = heads_of_run(settings, run, tables)
    for head, added in (bias or {}).items():
        if head not in heads:
            raise SettingsRefused("--bias", f"{run} has no head {head!r}; there are {', '.join(heads)}")
        classes = class_names(settings.heads[head].classes_of if settings.heads else settings.data.set)
        with_bias(segmenter, added, classes, head if heads.index(head) else None)
    segmenter = segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return mapper_of_network(segmenter, heads, settings.model.student.grain)


def heads_of_run(settings: FinetuneSettings, run: Path, tables: Mapping[str, str]) -> list[str]:
    """Names of a run's heads, in its order; a run of one head has no name for it, and gets that of its class table.

    Args:
        settings: of the run.
        run: its folder, for messages.
        tables: the set whose class table each head of the places has.

    Raises:
        SettingsRefused: a head has other classes than the places' head of its name, or the only head those of none.
    """
    if not settings.heads:
        return [_head_of(class_names(settings.data.set), tables, run)]
    for head, item in settings.heads.items():
        own = class_names(item.classes_of)
        if head in tables and own != class_names(tables[head]):
            raise SettingsRefused(f"heads.{head}", f"{run}'s head of that name has the classes {', '.join(own)}")
    return list(settings.heads)


def mapper_of_network(segmenter: Segmenter, heads: list[str], grain: int) -> Mapper:
    """A mapper that uses a network in memory; images are padded to multiples of ``grain`` by edge replication."""

    @torch.inference_mode()
    def mapped(pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[np.uint8]]:
        height, width = pixels.shape[1:]
        padded = (height + -height % grain, width + -width % grain)
        maps = {}
        for head, values in zip(heads, padded_logits(segmenter, pixels, grain), strict=True):
            whole = F.interpolate(values, size=padded, mode="bilinear", align_corners=False)
            maps[head] = (whole[0, :, :height, :width].argmax(dim=0) + 1).byte().numpy()
        return maps

    return mapped


@torch.inference_mode()
def padded_logits(segmenter: Segmenter, pixels: NDArray[np.uint8], grain: int) -> list[Tensor]:
    """Logits of each head, float32 (1, K, H / stride, W / stride), of an image uint8 (3, H, W).

    H and W are padded to multiples of ``grain`` by edge replication, at the right and below, so that pixels keep their
    places.
    """
    height, width = pixels.shape[1:]
    image = torch.from_numpy(np.ascontiguousarray(pixels))[None].float()
    image = F.pad(image, (0, -width % grain, 0, -height % grain), mode="replicate")
    with fast_inference():
        logits = segmenter.all_logits(image.contiguous(memory_format=torch.channels_last))
    return [item.float() for item in logits]


@contextmanager
def mapper_of_model(
    folder: Path,
    head: str,
    *,
    threads: int | None = None,
    backend: str = "onnxruntime",
    heads: Sequence[str] = (),
) -> Iterator[Mapper]:
    """A mapper that uses a packaged model and the onboard pipeline; its engine is closed at the end of the context.

    Args:
        folder: of the model.
        head: name of the head that its classes belong to.
        threads: of the engine.
        backend: name of the backend.
        heads: the one head to open, of a model with heads.

    Raises:
        EngineError, OnboardError: as the pipeline raises them.
    """
    with open_engine(folder, heads=heads, backend=backend, threads=threads) as engine:

        def mapped(pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[np.uint8]]:
            with tempfile.TemporaryDirectory(prefix="places-") as made:
                scene = Path(made) / "scene.tif"
                _, height, width = pixels.shape
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NotGeoreferencedWarning)  # no georeference is needed
                    size = {"width": width, "height": height, "count": 3}
                    with rasterio.open(scene, "w", driver="GTiff", dtype="uint8", photometric="RGB", **size) as copy:
                        copy.write(pixels)
                    options = SceneOptions(collar=False)
                    request = MapRequest(
                        scene=scene, out=Path(made) / "maps", name="map", scene_options=options,
                        confidence=engine.manifest.output.confidence is not None,
                    )  # fmt: skip
                    summary = map_scene(request, engine)
                    files = {head: summary.map_path, head + CONFIDENCE: summary.confidence_path}
                    maps: dict[str, NDArray[np.uint8]] = {}
                    for name, path in files.items():
                        if path is not None:
                            with rasterio.open(path) as source:
                                maps[name] = source.read(1)
            return maps

        yield mapped


def head_of_model(folder: Path, heads: Mapping[str, str]) -> str:
    """The head whose class names a packaged model has.

    Raises:
        SettingsRefused: none of them.
    """
    return _head_of([item.name for item in Manifest.load(folder).classes], heads, folder)


def _head_of(names: Sequence[str], tables: Mapping[str, str], owner: Path) -> str:
    for head, table in tables.items():
        if class_names(table) == list(names):
            return head
    raise SettingsRefused(str(owner), f"its classes {', '.join(names)} are those of no head ({', '.join(tables)})")


def class_names(table: str) -> list[str]:
    """Of a set's class table, in the order of its codes."""
    return [item.name for item in read_description(table).classes]
