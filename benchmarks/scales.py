"""Accuracy against ground resolution: `python -m benchmarks.scales [dubai] [tokyo]`.

dubai: labelled scenes of unstated resolution, coarser and finer by known factors, mapped as they are and at the size
of the delivered pixels, counted on the delivered grid. Where the first figure falls below the second, the model's range
(`gsd_range_m` in its manifest) should end.

tokyo: georeferenced tiles of 0.5 m, finer by interpolation and coarser by averages, mapped as they are and at the
resolution that the model is made for; both against the map of the same ground as delivered, and against the labels.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import warnings
from pathlib import Path
from typing import cast

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from benchmarks.resolution import MadeFor
from engines.engine import Engine
from engines.metrics import Confusion
from engines.open import open_engine
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.probe import Probes
from onboard.scene.reader import SceneOptions
from onboard.scene.resolution import ResolutionOptions
from trainer.data.description import read_description
from trainer.data.sets import open_set
from trainer.data.targets import HeadCodes
from trainer.evaluate.places import PlaceCount

FACTORS = (0.35, 0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0)
"""Pixel sizes, of the scene's own."""
TOKYO_M = (0.5, 0.25, 0.125, 1.0)
"""Pixel sizes in metres; the first is that of the tiles as delivered."""
Codes = NDArray[np.uint8]


class Mapper:
    """Maps of scenes with larger or smaller pixels, on the delivered grid."""

    def __init__(self, engine: Engine, probes: Probes, gsd_m: float) -> None:
        self.classes, self.gsd_m = engine.manifest.classes, gsd_m
        self._engine, self._probes = cast("Engine", MadeFor(engine, gsd_m)), probes

    def codes(self, scene: Path, factor: float, gsd_m: float) -> Codes:
        """Of the scene in pixels larger by a factor, told to be so many metres wide; (height, width) as delivered."""
        with tempfile.TemporaryDirectory(prefix="scales-") as made:
            remade = remake(scene, Path(made) / "scene.tif", factor)
            request = MapRequest(
                remade, Path(made) / "maps", scene_options=SceneOptions(collar=False),
                resolution=ResolutionOptions(gsd_m=gsd_m),
            )  # fmt: skip
            summary = map_scene(request, self._engine, judge=self._probes.judge)
            with rasterio.open(scene) as source, rasterio.open(summary.map_path) as mapped:
                # Nearest: codes of classes cannot be averaged, and all sizes are counted on one grid.
                codes: Codes = mapped.read(1, out_shape=source.shape, resampling=Resampling.nearest)
        return codes


def main() -> None:
    """Parses and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scales", description=__doc__)
    # The empty list among the choices: argparse holds the default of nargs="*" to them as well.
    parser.add_argument("tables", nargs="*", choices=[[], "dubai", "tokyo"], default=[], help="both by default")
    parser.add_argument("--model", help="shipped name or folder (default: the shipped default)")
    parser.add_argument("--scenes", nargs="+", default=["scene_3", "scene_5"], help="of Dubai")
    parser.add_argument("--factors", nargs="+", type=float, default=list(FACTORS))
    parser.add_argument("--made-for", type=float, help="metres (default: the manifest's)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    with open_engine(arguments.model) as engine, Probes() as probes:
        gsd_m = arguments.made_for or engine.manifest.gsd_m
        if gsd_m is None:
            parser.error(f"{engine.manifest.name} does not say what it is made for; give --made-for METRES")
        mapper = Mapper(engine, probes, gsd_m)
        if not arguments.tables or "dubai" in arguments.tables:
            dubai(mapper, arguments.scenes, arguments.factors)
        if not arguments.tables or "tokyo" in arguments.tables:
            tokyo(mapper)


def dubai(mapper: Mapper, names: list[str], factors: list[float]) -> None:
    """Mean IoU of each scene at each pixel size, mapped as it is and as resampled to the delivered size."""
    labelled = open_set("dubai")
    print("mIoU; pixel size, of the scene's own" + "".join(f"{name + way:>19}" for name in names
                                                        for way in (" as it is", " resampled")))  # fmt: skip
    for factor in factors:
        figures = []
        for name in names:
            truth = labelled.read_labels(name)
            # Told to have the model's own pixel size, a scene is mapped as it is; told the true one, it is resampled.
            for gsd_m in (mapper.gsd_m, mapper.gsd_m * factor):
                confusion = Confusion(len(mapper.classes))
                confusion.add(truth, mapper.codes(labelled.image_path(name), factor, gsd_m))
                figures.append(confusion.scores().miou)
        print(f"{factor:>36g}" + "".join(f"{value:>19.3f}" for value in figures), flush=True)


def tokyo(mapper: Mapper) -> None:
    """Agreement with the map of the delivered tiles, and mIoU, at each pixel size."""
    labelled, table = open_set("tokyo"), HeadCodes("landcover", read_description("dubai").classes)
    names = labelled.split("val")
    print(f"{len(names)} tiles of Tokyo; the model is made for {mapper.gsd_m:g} m")
    print("pixels, m            way   as the map of 0.5 m    mIoU")
    for way in ("as it is", "resampled"):
        native: dict[str, Codes] = {}
        for gsd_m in TOKYO_M:
            count, same = PlaceCount(labelled, table, "dubai"), []
            for name in names:
                resolution_m = mapper.gsd_m if way == "as it is" else gsd_m
                codes = mapper.codes(labelled.image_path(name), gsd_m / TOKYO_M[0], resolution_m)
                count.add(labelled.read_labels(name), codes)
                # The first size is that of the tiles as delivered: its map is what the others are held to.
                same.append(float((codes == native.setdefault(name, codes)).mean()))
            print(f"{gsd_m:>9g} {way:>14} {math.fsum(same) / len(same):>22.3f} "
                  f"{count.scores('Tokyo', len(names)).figure:>7.3f}", flush=True)  # fmt: skip


def remake(scene: Path, target: Path, factor: float) -> Path:
    """Writes a scene anew with pixels larger by a factor: averages where larger, cubics where smaller, both GDAL's."""
    with rasterio.open(scene) as source:
        shape = (round(source.height / factor), round(source.width / factor))
        # A sensor with larger pixels sees their mean; for smaller ones nothing is known, and cubic is smooth.
        way = Resampling.average if factor > 1 else Resampling.cubic
        pixels = source.read(out_shape=(source.count, *shape), resampling=way)
        place = source.transform * rasterio.Affine.scale(source.width / shape[1], source.height / shape[0])
        keys = {"width": shape[1], "height": shape[0], "count": source.count, "dtype": "uint8", "tiled": True}
        georeference = {} if source.crs is None else {"crs": source.crs, "transform": place}
        with rasterio.open(target, "w", driver="GTiff", photometric="RGB", **keys, **georeference) as copy:
            copy.write(pixels)
    return target


if __name__ == "__main__":
    main()
