"""Makes the README's pictures: `make pictures`.

Class pictures of two real scenes (without the imagery, which is not ours to copy) and a made landscape beside its map.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image, ImageDraw, ImageFont

from benchmarks.telemetry import draw_governor
from engines.manifest import ClassInfo
from engines.open import open_engine
from onboard.mapping.run import MapRequest, map_scene
from trainer.data.landscape import write_landscape

_HEIGHT = 420
_GAP = 12


def main() -> None:
    """Parses and writes the pictures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real scenes")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw_governor(arguments.out / "governor.png")
    with tempfile.TemporaryDirectory() as folder, open_engine(None) as engine:
        work, classes = Path(folder), tuple(engine.manifest.classes)
        real = [arguments.data / "dubai" / "scenes" / f"scene_{number}.tif" for number in (1, 4)]
        maps = [Image.open(map_scene(MapRequest(scene, work / "maps"), engine).quicklook_path) for scene in real]
        _beside(maps, classes).save(arguments.out / "maps.png", optimize=True)
        scene = work / "landscape.tif"
        write_landscape(scene, seed=7, width=2048, height=2048)
        mapped = Image.open(map_scene(MapRequest(scene, work / "maps"), engine).quicklook_path)
        # JPEG: the landscape's noise is a megabyte as PNG.
        _beside([_imagery(scene), mapped], classes).save(arguments.out / "landscape.jpg", quality=88)
    print(f"written: {arguments.out}/maps.png, {arguments.out}/landscape.jpg")


def _imagery(scene: Path) -> Image.Image:
    with rasterio.open(scene) as source:
        return Image.fromarray(np.moveaxis(source.read((1, 2, 3), out_shape=(3, 2 * _HEIGHT, 2 * _HEIGHT)), 0, -1))


def _beside(pictures: Sequence[Image.Image], classes: tuple[ClassInfo, ...]) -> Image.Image:
    """Pictures of one height in a row, with the legend under them."""
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
