"""Accuracy against ground resolution: at which pixel sizes a model holds. `python -m benchmarks.scales [dubai] [tokyo]`.

dubai: labelled scenes of unstated resolution, coarser and finer by known factors, mapped as they are and counted on
their own grid. Where the figure falls, the model's range (`gsd_range_m` in its manifest) ends.

tokyo: georeferenced tiles of 0.5 m, finer by interpolation and coarser by averages, mapped as they are and at the
resolution that the model is made for; both against the map of the same ground as delivered, and against the labels.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from engines.engine import Engine
from engines.metrics import Confusion
from engines.open import open_engine
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.reader import SceneOptions
from trainer.data.sets import LabelledSet, open_set

FACTORS = (0.35, 0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0)
"""Pixel sizes, of the scene's own."""
Codes = NDArray[np.uint8]


def main() -> None:
    """Parses and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scales", description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[[], "dubai", "tokyo"], default=[], help="both by default")
    parser.add_argument("--model", help="shipped name or folder (default: the shipped default)")
    parser.add_argument("--scenes", nargs="+", default=["scene_3", "scene_5"], help="of Dubai")
    parser.add_argument("--factors", nargs="+", type=float, default=list(FACTORS))
    arguments = parser.parse_args()
    with open_engine(arguments.model) as engine:
        if not arguments.tables or "dubai" in arguments.tables:
            dubai(engine, arguments.scenes, arguments.factors)


def dubai(engine: Engine, names: list[str], factors: list[float]) -> None:
    """mIoU of each scene at each pixel size, mapped as it is."""
    labelled = open_set("dubai")
    print("pixel size, of the scene's own" + "".join(f"{name:>10}" for name in names))
    for factor in factors:
        row = [_miou(labelled, name, _mapped(engine, labelled.image_path(name), factor), engine) for name in names]
        print(f"{factor:>30g}" + "".join(f"{value:>10.3f}" for value in row), flush=True)


def _mapped(engine: Engine, scene: Path, factor: float, request: MapRequest | None = None) -> Codes:
    """The map of a scene whose pixels are larger by a factor, brought back to the scene's own grid."""
    with tempfile.TemporaryDirectory(prefix="scales-") as made:
        remade = remake(scene, Path(made) / "scene.tif", factor)
        plain = SceneOptions(collar=False)
        summary = map_scene(MapRequest(remade, Path(made) / "maps", scene_options=plain), engine)
        with warnings.catch_warnings(), rasterio.open(scene) as source, rasterio.open(summary.map_path) as codes:
            found: Codes = codes.read(1, out_shape=source.shape, resampling=Resampling.nearest)
    return found


def remake(scene: Path, target: Path, factor: float) -> Path:
    """Writes a scene anew with pixels larger by a factor: averages where larger, cubics where smaller, both GDAL's."""
    with warnings.catch_warnings(), rasterio.open(scene) as source:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        shape = (round(source.height / factor), round(source.width / factor))
        way = Resampling.average if factor > 1 else Resampling.cubic
        pixels = source.read(out_shape=(source.count, *shape), resampling=way)
        place = source.transform * rasterio.Affine.scale(source.width / shape[1], source.height / shape[0])
        keys = {"width": shape[1], "height": shape[0], "count": source.count, "dtype": "uint8", "tiled": True}
        georeference = {} if source.crs is None else {"crs": source.crs, "transform": place}
        with rasterio.open(target, "w", driver="GTiff", photometric="RGB", **keys, **georeference) as copy:
            copy.write(pixels)
    return target


def _miou(labelled: LabelledSet, name: str, codes: Codes, engine: Engine) -> float:
    confusion = Confusion(len(engine.manifest.classes))
    confusion.add(labelled.read_labels(name), codes)
    return confusion.scores().miou


if __name__ == "__main__":
    main()
