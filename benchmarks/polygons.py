"""`ground polygons` beside rasterio.features.shapes, GDAL's polygonizer, on one map in the same run."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from benchmarks.memory import peak_mib
from ground import cli
from trainer.data.landscape import CLASS_NAMES, Landscape

SIDE, QUICK_SIDE = 12_000, 2048
_PERIOD = 2048
_COLOURS = {1: (228, 87, 76), 2: (110, 110, 110), 3: (78, 160, 78), 4: (66, 135, 245), 5: (215, 195, 145)}


def beside_gdal(folder: Path, *, quick: bool, side: int | None = None) -> None:
    """Seconds and memory, each in a process of its own, and bytes beside the map's."""
    side = side or (QUICK_SIDE if quick else SIDE)
    path = folder / f"classes_{side}.tif"
    if not path.exists():
        write_classes(path, side)
    print(f"{side} x {side} pixels, true classes of a made landscape; map {path.stat().st_size:,} bytes")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        ours = _measured("ours", path, Path(work))
        gdal = _measured("gdal", path, Path(work))
        to_file = _measured("gdal to a file", path, Path(work))
        whole = _measured("ours, edges of pixels", path, Path(work))
        for file in sorted(Path(work).glob("*.*")):
            print(f"{file.suffix:<9} {file.stat().st_size:13,} bytes")
    print(f"{'':<24} {'CPU s':>8} {'peak MiB':>9}")
    for name, (seconds, peak) in {
        "ground polygons": ours, "  --simplify 0": whole, "rasterio.features.shapes": gdal,
        "  and a FlatGeobuf": to_file,
    }.items():  # fmt: skip
        print(f"{name:<24} {seconds:8.1f} {peak:9.0f}   {seconds / gdal[0]:.2f} times as long as GDAL")


def write_classes(path: Path, side: int) -> None:
    """A map of true classes, as `onboard` tags it, on a grid of 1 m; the same landscape again and again."""
    _, classes = Landscape(seed=7, period=_PERIOD).window(0, 0, _PERIOD, _PERIOD)
    options = {
        "crs": "EPSG:32640", "transform": rasterio.Affine(1, 0, 3e5, 0, -1, 2.8e6), "tiled": True, "blockxsize": 512,
        "blockysize": 512, "compress": "zstd", "nodata": 0, "dtype": "uint8",
    }  # fmt: skip
    with rasterio.open(path, "w", "GTiff", side, side, 1, **options) as file:
        for top in range(0, side, _PERIOD):
            for left in range(0, side, _PERIOD):
                width, height = min(_PERIOD, side - left), min(_PERIOD, side - top)
                file.write(classes[:height, :width], 1, window=Window(left, top, width, height))
        file.write_colormap(1, _COLOURS)
        file.update_tags(CLASS_0="no data", **{f"CLASS_{code}": name for code, name in CLASS_NAMES.items()})


def _measured(name: str, path: Path, work: Path) -> tuple[float, float]:
    """Seconds of one core and MiB at most of one way, in a process of its own; imports are not counted in time.

    All ways have one thread, and the seconds that others take on a busy core are none of theirs.
    """
    command = [sys.executable, "-m", "benchmarks.polygons", name, str(path), "--work", str(work)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(answer[-2]), float(answer[-1])


def _ours(path: Path, work: Path, *more: str) -> None:
    # The command itself, not its parts: what a user waits for, with its files.
    if cli.main(["polygons", str(path), "--out", str(work), "--overwrite", "--quiet", *more]):
        raise SystemExit("ground polygons failed")


def _gdal(path: Path, work: Path) -> None:
    """GDAL's polygons alone: nothing is written."""
    import rasterio.features

    del work
    with rasterio.open(path) as source:
        codes: np.ndarray[tuple[int, int], np.dtype[np.uint8]] = source.read(1)
        # No data is no polygon, as in ours.
        for _ in rasterio.features.shapes(codes, mask=codes > 0, transform=source.transform):
            pass


def _gdal_to_file(path: Path, work: Path) -> None:
    """GDAL's polygons with class and area in the plane, in a FlatGeobuf, as a script would do it."""
    import pyogrio
    import rasterio.features
    import shapely

    with rasterio.open(path) as source:
        codes: np.ndarray[tuple[int, int], np.dtype[np.uint8]] = source.read(1)
        pairs = list(rasterio.features.shapes(codes, mask=codes > 0, transform=source.transform))
        crs = source.crs.to_wkt()
    shapes = np.array([shapely.geometry.shape(shape) for shape, _ in pairs])
    columns = [np.array([int(code) for _, code in pairs], np.int16), shapely.area(shapes)]
    pyogrio.raw.write(
        work / "edges" / "gdal.fgb", shapely.to_wkb(shapes), columns, ["class", "area_m2"], driver="FlatGeobuf",
        geometry_type="Polygon", crs=crs,
    )  # fmt: skip


def main() -> None:
    """One way, or with a number alone all of them on a map of that side."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.polygons", description=__doc__)
    parser.add_argument("way")
    parser.add_argument("path", type=Path, nargs="?")
    parser.add_argument("--work", type=Path, default=Path("out/bench"))
    arguments = parser.parse_args()
    if arguments.way.isdigit():
        arguments.work.mkdir(parents=True, exist_ok=True)
        beside_gdal(arguments.work, quick=False, side=int(arguments.way))
        return
    ways: dict[str, Callable[[Path, Path], None]] = {
        "ours": _ours,
        # In a folder of its own: the sizes that are printed are those of the default.
        "ours, edges of pixels": lambda path, work: _ours(path, work / "edges", "--simplify", "0"),
        "gdal": _gdal,
        "gdal to a file": _gdal_to_file,
    }
    (arguments.work / "edges").mkdir(exist_ok=True)
    import products.polygons.write  # noqa: F401 -- loaded before the clock starts

    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        ways[arguments.way](arguments.path, arguments.work)
    print(time.process_time() - begin, peak_mib())


if __name__ == "__main__":
    main()
