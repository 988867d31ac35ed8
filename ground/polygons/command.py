"""`ground polygons`: the command line."""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ground.errors import AskedWrong
from ground.export.command import add_head_option
from ground.export.whole import write_each
from ground.show import count, size

FORMATS = """formats:
  geoparquet  GeoParquet 1.1 (.parquet), for archives and analysis
  flatgeobuf  FlatGeobuf (.fgb), with a spatial index, for QGIS and web maps
  gpkg        GeoPackage (.gpkg), for every GIS

coordinates:
  the map's own CRS; of a map with control points, theirs; with RPCs, longitude and latitude at the RPCs' height; of a
  map without a place, column and minus row of its pixels, as QGIS draws it"""
DEFAULT_FORMATS = ("geoparquet", "flatgeobuf")
DEFAULT_TOLERANCE = 3.0
PACKAGES = ("numpy", "rasterio", "pyarrow", "scipy", "shapely", "pyogrio")
"""Of the extra `polygons`."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(m2|m²|px|ha)?")


def add_polygons(commands: Any) -> None:
    """Adds the command to the parser's commands."""
    parser = commands.add_parser(
        "polygons", help="maps as polygons with class, area and confidence, without gaps between them", epilog=FORMATS
    )
    parser.add_argument(
        "maps", nargs="+", type=Path, metavar="MAP", help="a map's folder, or a folder of them like that of `pull`"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder that the files are written to")
    add_head_option(parser)
    add_polygon_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="write files anew that are there already")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.set_defaults(command=run_polygons)


def add_polygon_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of how polygons are made."""
    parser.add_argument(
        "--format", type=_formats, default=DEFAULT_FORMATS, metavar="FORMAT[,FORMAT]",
        help=f"see below (default: {','.join(DEFAULT_FORMATS)})",
    )  # fmt: skip
    parser.add_argument(
        "--simplify", type=_pixels, default=DEFAULT_TOLERANCE, metavar="PIXELS",
        help="how far a border may be straightened (default: 3); 0 keeps the edges of the pixels",
    )  # fmt: skip
    parser.add_argument(
        "--min-area", type=_size, metavar="SIZE",
        help="smaller patches go to the neighbour of the longest border, like 100m2, 0.5ha or 50px (default: none)",
    )  # fmt: skip


def run_polygons(options: argparse.Namespace) -> int:
    """Writes the polygons of every map; returns the exit code.

    Raises:
        AskedWrong: there is no map, or a package is not installed.
        DiskFailed: the folder cannot be written.
    """
    require_packages("ground polygons")
    from ground.export.maps import find_maps
    from products.polygons.write import SUFFIXES

    maps = find_maps(options.maps, options.head, options.screen.note)
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = []
    for exported in maps:
        files = [options.out / f"{exported.name}{SUFFIXES[kind]}" for kind in options.format]
        # The first missing format stands for the map: write_each looks at one target, and the formats here stay.
        missing = [path for path in files if options.overwrite or not path.exists()] or files
        jobs.append((missing[0], functools.partial(_write, exported, options, missing)))
    return write_each(jobs, options, "made into polygons", sources=[exported.path for exported in maps])


def require_packages(command: str) -> None:
    """Asks for the packages of the extra ``polygons``.

    Raises:
        AskedWrong: one is not installed.
    """
    try:
        import products.polygons.write  # noqa: F401 -- it needs them all
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise AskedWrong(
            f"`{command}` needs the package {package}, which is not installed here",
            f"{sys.executable} -m pip install {package} (the extra polygons has all)",
        ) from None


def polygon_options(options: argparse.Namespace) -> Any:
    """The options as :class:`products.polygons.write.Options`."""
    from products.polygons.merging import Minimum
    from products.polygons.write import Options

    minimum = None if options.min_area is None else Minimum(*options.min_area)
    return Options(options.simplify, minimum)


def _write(exported: Any, options: argparse.Namespace, files: Sequence[Path], target: Path) -> str:
    from ground.polygons.raster import opened_map
    from products.polygons.write import write_polygons

    # In the target's folder, from which write_whole_files moves each file to its place.
    here = [target.with_name(path.name) for path in files]
    try:
        with opened_map(exported.path) as raster:
            written = write_polygons(raster, here, polygon_options(options))
            kind = raster.place.kind
    # products knows the raster, not the file it came from: a person needs the path.
    except AskedWrong as error:
        raise AskedWrong(f"{exported.path}: {error.problem}", error.remedy) from error
    others = [f"{path.suffix} {size(path.stat().st_size)}" for path in here[1:]]
    # A grid of a local CRS keeps its coordinates, and has no areas.
    nowhere = "in pixels: the map has no place"
    if kind != "pixels":
        nowhere = "without areas: the map's CRS has no place on Earth"
    area = nowhere if written.area_m2 is None else area_text(written.area_m2)
    placed = [f"placed by its {kind}"] if kind in ("control points", "rational polynomials") else []
    return ", ".join([*others, count(written.polygons, "polygon"), area, *placed])


def area_text(square_metres: float) -> str:
    """An area as a person reads it."""
    return f"{square_metres / 1e6:,.2f} km²" if square_metres >= 1e5 else f"{square_metres:,.0f} m²"


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    known = ("geoparquet", "flatgeobuf", "gpkg")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no format {name!r}; give {', '.join(known)}")
    return names


def _pixels(text: str) -> float:
    try:
        pixels = float(text)
    except ValueError:
        pixels = -1
    if not 0 <= pixels <= 1000:
        raise argparse.ArgumentTypeError(f"not pixels from 0 to 1000: {text!r}")
    return pixels


def _size(text: str) -> tuple[float, bool]:
    """Size of the smallest patch and whether it is in pixels, else in square metres."""
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"no size: {text!r}; give one like 100m2, 0.5ha or 50px")
    unit = match[2] or "m2"
    return float(match[1]) * (1e4 if unit == "ha" else 1), unit == "px"
