"""Makes the pictures of README and docs: `make pictures`.

A scene of Dubai (CC0) beside its map, a place where the map is wrong beside what the labels say, and a made landscape
beside its map; and the quicklook of that scene as the mapper writes it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterWindow

from benchmarks.telemetry import draw_governor
from engines.manifest import ClassInfo
from engines.open import open_engine
from onboard.mapping.quicklook import QUICKLOOK
from onboard.mapping.run import MapRequest, map_scene
from trainer.data.landscape import write_landscape

_HEIGHT = 420
_GAP = 12
SHOWN = RasterWindow(900, 300, 1000, 1000)
FAILURE = RasterWindow(0, 1100, 700, 700)
"""Parts of Dubai's scene 1, which no training saw: pixels (left, top, width, height)."""


def main() -> None:
    """Parses and writes the pictures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real scenes")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw_governor(arguments.out / "governor.png")
    dubai = arguments.data / "dubai"
    with tempfile.TemporaryDirectory() as folder, open_engine(None) as engine:
        work, classes = Path(folder), tuple(engine.manifest.classes)
        scene = dubai / "scenes" / "scene_1.tif"
        summary = map_scene(MapRequest(scene, work / "maps"), engine)
        codes, colours = summary.map_path, colours_of(classes)
        shutil.copyfile(summary.folder / QUICKLOOK, arguments.out / QUICKLOOK)
        whole = [_imagery(scene, SHOWN), _classes(codes, SHOWN, colours)]
        _beside(whole, classes).save(arguments.out / "scene-and-map.jpg", quality=88)
        wrong = [
            _imagery(scene, FAILURE), _classes(codes, FAILURE, colours),
            _classes(dubai / "labels" / "scene_1.tif", FAILURE, colours),
        ]  # fmt: skip
        _beside(wrong, classes).save(arguments.out / "failure.jpg", quality=88)
        scene = work / "landscape.tif"
        write_landscape(scene, seed=7, width=2048, height=2048)
        mapped = _classes(map_scene(MapRequest(scene, work / "maps"), engine).map_path, None, colours)
        # JPEG: the landscape's noise is a megabyte as PNG.
        _beside([_imagery(scene), mapped], classes).save(arguments.out / "landscape.jpg", quality=88)
    print(f"written: {arguments.out}/scene-and-map.jpg, failure.jpg, landscape.jpg, {QUICKLOOK}")


def colours_of(classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    """RGB by code, uint8 (256, 3); code 0, no data or no label, is white."""
    table = np.full((256, 3), 255, dtype=np.uint8)
    for item in classes:
        table[item.code] = [int(item.color[place : place + 2], 16) for place in (1, 3, 5)]
    return table


def _classes(path: Path, place: RasterWindow | None, colours: NDArray[np.uint8]) -> Image.Image:
    """A part of a class raster in the classes' colours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            return Image.fromarray(colours[source.read(1, window=place)])


def _imagery(scene: Path, place: RasterWindow | None = None) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(scene) as source:
            # Whole scenes are read at twice the size that is drawn: GDAL takes every n-th pixel, BOX averages the rest.
            shape = (3, 2 * _HEIGHT, 2 * _HEIGHT) if place is None else (3, int(place.height), int(place.width))
            return Image.fromarray(np.moveaxis(source.read((1, 2, 3), window=place, out_shape=shape), 0, -1))


def _beside(pictures: Sequence[Image.Image], classes: tuple[ClassInfo, ...]) -> Image.Image:
    """Pictures of one height in a row, with the legend under them."""
    # BOX averages: every n-th pixel alone would lose thin roads.
    scaled = [
        picture.convert("RGBA").resize((round(picture.width * _HEIGHT / picture.height), _HEIGHT), Image.Resampling.BOX)
        for picture in pictures
    ]
    width = sum(picture.width for picture in scaled) + _GAP * (len(scaled) - 1)
    sheet = Image.new("RGB", (width, _HEIGHT + 34), "white")
    left = 0
    for picture in scaled:
        sheet.paste(picture, (left, 0), picture)
        left += picture.width + _GAP
    draw, left = ImageDraw.Draw(sheet), 0
    font = ImageFont.load_default(size=14)
    for item in classes:
        draw.rectangle((left, _HEIGHT + 12, left + 16, _HEIGHT + 28), fill=item.color)
        draw.text((left + 22, _HEIGHT + 11), item.title, fill="black", font=font)
        left += 22 + round(draw.textlength(item.title, font=font)) + 18
    return sheet


if __name__ == "__main__":
    main()
