"""`ground change`: the command line."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

from ground.errors import AskedWrong
from ground.export.command import add_head_option
from ground.export.whole import file_ids, write_whole_files
from ground.polygons.command import FORMATS, add_polygon_options, area_text, polygon_options, require_packages
from ground.show import count, size

FILES = """files:
  NAME.tif   classes from and to: 0 no data in one of the maps, 1 unchanged, from 2 on a code for each pair, with names
             and palette; COG, 8 bits, DEFLATE
  NAME.csv, NAME.json  pixels and areas of each pair; the JSON has totals of the classes and what speaks against them
  NAME.parquet, ...    polygons of what changed"""


def add_change(commands: Any) -> None:
    """Adds the command to the parser's commands."""
    parser = commands.add_parser(
        "change",
        help="what changed between two maps of a place: raster, areas, polygons",
        epilog=f"{FILES}\n\n{FORMATS}",
    )
    parser.add_argument("before", type=Path, metavar="BEFORE", help="folder of the older map, or its map.tif")
    parser.add_argument("after", type=Path, metavar="AFTER", help="folder of the newer map")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder that the files are written to")
    add_head_option(parser)
    parser.add_argument("--name", help="of the files (default: names of both maps)")
    grids = parser.add_mutually_exclusive_group()
    grids.add_argument("--resample", action="store_true", help="warp AFTER onto the grid of BEFORE, nearest pixel")
    grids.add_argument(
        "--same-pixels", action="store_true", help="compare pixel by pixel, whatever the maps say of their place"
    )
    parser.add_argument("--no-polygons", action="store_true", help="raster and tables alone")
    add_polygon_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="write files anew that are there already")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.set_defaults(command=run_change)


def run_change(options: argparse.Namespace) -> int:
    """Compares two maps; returns the exit code.

    Raises:
        AskedWrong: there is no map, or a package is not installed.
        DiskFailed: the folder cannot be written.
    """
    require_packages("ground change")
    from ground.export.maps import find_maps

    maps = []
    for path in (options.before, options.after):
        found = find_maps([path], options.head)
        if len(found) > 1:
            raise AskedWrong(f"{path}: holds {len(found)} maps", "give the folder of one")
        maps.append(found[0])
    name = options.name or "-to-".join(item.name for item in maps)
    if Path(name).name != name or name in (".", ".."):
        raise AskedWrong(f"--name {name}: is no file name", "give one without a slash")
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / f"{name}.tif"
    line = (lambda _: None) if options.quiet else options.screen.line
    if target.exists() and not options.overwrite:
        line(f"{target}: is there already; --overwrite writes it anew")
        return 0
    # With --name and --out the target may be one of the two maps, by a link too.
    kept = file_ids(found.path for found in maps)
    more = write_whole_files(functools.partial(_write, maps[0].path, maps[1].path, options), target, kept)
    line(f"{target}: {size(target.stat().st_size)}, {more}")
    return 0


def _write(before: Path, after: Path, options: argparse.Namespace, target: Path) -> str:
    from ground.change.items import doubts, facts_of
    from ground.change.pairs import opened_pair
    from ground.change.raster import write_changes
    from ground.change.tables import write_csv, write_json
    from products.change.counting import rows_of

    facts = facts_of(before), facts_of(after)
    with opened_pair(before, after, resample=options.resample, same_pixels=options.same_pixels) as pair:
        tags = {"BEFORE_SHA256": facts[0].sha256, "AFTER_SHA256": facts[1].sha256}
        changes = write_changes(pair, target, tags)
        # Warped grids overlap nowhere where their places are apart; "0 % changed" would be said of no pixel.
        if not changes.compared:
            raise AskedWrong(
                "no pixel has a class in both maps: they do not overlap, or one has no data where they do",
                "give two maps of one place",
            )
        notes = doubts(*facts, resampled=pair.resampled)
    document = {
        "before": facts[0].__dict__ | {"map": str(before)}, "after": facts[1].__dict__ | {"map": str(after)},
        "doubts": notes,
    }  # fmt: skip
    write_csv(changes, target.with_suffix(".csv"))
    write_json(changes, target.with_suffix(".json"), document)
    parts = [f"{changes.changed / max(1, changes.compared):.2%} changed"]
    if changes.areas is not None:
        # All pairs but the diagonal, which is what stayed as it was.
        parts.append(area_text(float(changes.areas.sum() - changes.areas.trace())))
    if not options.no_polygons:
        parts.append(_polygons(pair.classes, target, options))
    if not options.quiet:
        for note in notes:
            options.screen.note(note)
        shown = [_shown(row) for row in rows_of(changes, unchanged=False)]
        options.screen.table(shown)
    return ", ".join(parts)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    area = "-" if row["area_m2"] is None else area_text(row["area_m2"])
    return {
        "from": row["from_name"], "to": row["to_name"], "pixels": row["pixels"], "area": area,
        "share": f"{row['share']:.2%}",
    }  # fmt: skip


def _polygons(classes: Any, target: Path, options: argparse.Namespace) -> str:
    """Polygons of the pairs that changed, in the formats that were asked for."""
    from ground.polygons.raster import opened_raster
    from products.change.counting import transitions
    from products.polygons.write import SUFFIXES, write_polygons

    table = transitions(classes)
    columns: dict[str, dict[int, int | str]] = {
        "from": {item.code: item.before.code for item in table},
        "from_name": {item.code: item.before.title for item in table},
        "to": {item.code: item.after.code for item in table},
        "to_name": {item.code: item.after.title for item in table},
        "color": {item.code: "#{:02x}{:02x}{:02x}".format(*item.colour[:3]) for item in table},
    }
    # Of the raster that was just written: polygons and pixels cannot differ.
    with opened_raster(target, columns) as raster:
        files = [target.with_suffix(SUFFIXES[kind]) for kind in options.format]
        written = write_polygons(raster, files, polygon_options(options))
    return count(written.polygons, "polygon")
