"""`ground export`: the command line."""

from __future__ import annotations

import argparse
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ground.errors import AskedWrong
from ground.export.whole import write_each

SUFFIXES = {"cog8": ".tif", "png": ".png", "mbtiles": ".mbtiles", "pmtiles": ".pmtiles"}
FORMATS = """formats:
  cog8     Cloud Optimized GeoTIFF, 8 bits, DEFLATE, overviews by 2, 4, 8, ...
  png      palette PNG with a world file
  mbtiles  map tiles of palette PNGs in Web Mercator
  pmtiles  the same tiles in one file that is read in ranges over HTTP
  cog8 and png have class names and pixel counts in NAME.EXT.aux.xml"""


def add_export(commands: Any) -> None:
    """Adds the command to the parser's commands."""
    export = commands.add_parser(
        "export", help="maps for readers that know no 4-bit samples, no ZSTD or no GeoTIFF", epilog=FORMATS
    )
    export.add_argument(
        "maps", nargs="+", type=Path, metavar="MAP", help="a map's folder, or a folder of them like that of `pull`"
    )
    export.add_argument("--format", required=True, choices=list(SUFFIXES), help="see below")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder that the files are written to")
    add_head_option(export)
    export.add_argument("--overwrite", action="store_true", help="write files anew that are there already")
    export.add_argument("--quiet", action="store_true", help="print nothing but errors")
    export.set_defaults(command=run_export)


def add_head_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--head`, as the commands have it that take maps."""
    parser.add_argument("--head", metavar="NAME", help="of a map with several heads, this one (default: the first)")


def run_export(options: argparse.Namespace) -> int:
    """Exports every map; returns the exit code.

    Raises:
        AskedWrong: there is no map, or a package is not installed.
        DiskFailed: the folder cannot be written.
    """
    find_maps, write = _tools(options.format)
    maps = find_maps(options.maps, options.head, options.screen.note)
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = (
        (options.out / f"{exported.name}{SUFFIXES[options.format]}", functools.partial(_write, write, exported))
        for exported in maps
    )
    return write_each(jobs, options, "exported", sources=[exported.path for exported in maps])


def _write(write: Callable[[Any, Path], None], exported: Any, target: Path) -> str:
    # Of these formats there is no more to say than name and size, which write_each prints.
    write(exported, target)
    return ""


def _tools(kind: str) -> tuple[Any, Callable[[Any, Path], None]]:
    """What finds maps and what writes this format.

    Raises:
        AskedWrong: a package that it needs is not installed.
    """
    try:
        from ground.export.maps import find_maps
        from ground.export.rasters import write_cog8, write_png
        from ground.export.tiles import write_mbtiles, write_pmtiles

        # Imported only when it writes: without this the first map would fail, not the command.
        if kind == "pmtiles":
            importlib.import_module("pmtiles")
    except ModuleNotFoundError as error:
        package = error.name
        raise AskedWrong(
            f"`ground export --format {kind}` needs the package {package}, which is not installed here",
            f"pip install {package}",
        ) from None
    writers = {"cog8": write_cog8, "png": write_png, "mbtiles": write_mbtiles, "pmtiles": write_pmtiles}
    return find_maps, writers[kind]
