"""Properties that each tool's map keeps of its scene: one small scene per question, and a SIGKILL."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine

from benchmarks.peers.scenes import rpcs

WIDTH, HEIGHT = 1500, 1200
NO_DATA_COLUMNS = 300
QUESTIONS = (
    "affine", "rotated", "GCPs", "RPCs", "no data kept", "no data named", "palette", "overviews", "COG", "resumes",
)  # fmt: skip


def write_question_scenes(folder: Path, data: Path) -> dict[str, Path]:
    """Cut-outs of a real scene, each placed in another way; the last has a part without data."""
    folder.mkdir(parents=True, exist_ok=True)
    with rasterio.open(data / "dubai" / "scenes" / "scene_4.tif") as source:
        pixels = source.read((1, 2, 3), window=((0, HEIGHT), (0, WIDTH)))
    north_up = Affine(0.5, 0, 3.3e5, 0, -0.5, 2.79e6)
    corners = ((0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH))
    points = [
        GroundControlPoint(row, col, 55.2 + 5e-6 * col, 25.2 - 4.5e-6 * row, 0.0, id=str(number))
        for number, (row, col) in enumerate(corners)
    ]
    scenes = {}
    for name in ("affine", "rotated", "GCPs", "RPCs", "no data"):
        path = folder / f"{name.replace(' ', '_')}.tif"
        profile = {
            "driver": "GTiff", "width": WIDTH, "height": HEIGHT, "count": 3, "dtype": "uint8", "photometric": "RGB",
            "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate",
        }  # fmt: skip
        if name in ("affine", "rotated", "no data"):
            # 20 degrees: a tool that keeps origin and pixel size alone is found out.
            turned = north_up * Affine.rotation(20) if name == "rotated" else north_up
            profile |= {"crs": "EPSG:32640", "transform": turned}
        content = pixels.copy()
        if name == "no data":
            profile["nodata"] = 0
            # 0 stands for no data, so that no other pixel may have it.
            content[:] = np.maximum(content, 1)
            content[:, :, :NO_DATA_COLUMNS] = 0
        with rasterio.open(path, "w", **profile) as target:
            target.write(content)
            if name == "GCPs":
                target.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
            if name == "RPCs":
                target.rpcs = rpcs(WIDTH, HEIGHT)
        scenes[name] = path
    return scenes


def answers(scenes: Mapping[str, Path], mapped: Callable[[str, Path], Path | None]) -> dict[str, bool | None]:
    """Runs the tool over the scenes; None where it failed.

    Args:
        scenes: by name.
        mapped: maps a scene of that name, gives the map's path or None.
    """
    maps = {name: mapped(name, path) for name, path in scenes.items()}
    results: dict[str, bool | None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("affine", "rotated", "GCPs", "RPCs"):
            results[name] = None if maps[name] is None else _same_place(scenes[name], maps[name])  # type: ignore[arg-type]
        if (path := maps["no data"]) is None:
            return results | dict.fromkeys(QUESTIONS[4:9])
        with rasterio.open(path) as source:
            classes = source.read(1)
            outside, inside = classes[:, :NO_DATA_COLUMNS], classes[:, NO_DATA_COLUMNS:]
            results["no data kept"] = not outside.any() and bool(inside.all())
            results["no data named"] = source.nodata == 0
            try:
                results["palette"] = bool(source.colormap(1))
            except ValueError:
                results["palette"] = False
        if (path := maps["affine"]) is not None:
            with rasterio.open(path) as source:
                # A map of one block needs none.
                results["overviews"] = bool(source.overviews(1)) or max(source.shape) <= 512
            results["COG"] = _is_cog(path)
    return results


def _same_place(scene: Path, mapped: Path) -> bool:
    with rasterio.open(scene) as original, rasterio.open(mapped) as copy:
        # Nine decimals of a degree are 0.1 mm: less is how numbers are written.
        gcps = [[(p.row, p.col, round(p.x, 9), round(p.y, 9)) for p in source.gcps[0]] for source in (original, copy)]
        rational = [None if source.rpcs is None else source.rpcs.to_dict() for source in (original, copy)]
        place = original.transform.almost_equals(copy.transform) and original.crs == copy.crs
        return bool(place and gcps[0] == gcps[1] and rational[0] == rational[1])


def _is_cog(path: Path) -> bool:
    from rio_cogeo.cogeo import cog_validate

    return bool(cog_validate(str(path), strict=True, quiet=True)[0])
