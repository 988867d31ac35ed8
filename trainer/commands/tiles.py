"""`trainer tiles`: unlabelled tiles in shards."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds its parser."""
    from trainer.tiles.settings import TileSettings

    parser = commands.add_parser("tiles", help="cut imagery of any size into shards of unlabelled tiles")
    usual = TileSettings()
    parser.add_argument("sources", nargs="+", type=Path, help="GeoTIFFs, JPEGs and PNGs, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder of shards; a killed run continues")
    parser.add_argument("--size", type=int, default=usual.size, help="side of a tile in pixels (default: %(default)s)")
    parser.add_argument(
        "--stride", type=int, default=usual.stride, help="pixels from tile to tile; 0: the size (default)"
    )
    parser.add_argument(
        "--shard-tiles", type=int, default=usual.shard_tiles, help="tiles in a shard (default: %(default)s)"
    )
    parser.add_argument(
        "--quality", type=int, default=usual.quality, help="quality of the JPEGs, 1 to 100 (default: %(default)s)"
    )
    parser.add_argument(
        "--most-invalid",
        type=float,
        default=usual.most_invalid,
        help="largest share of a tile without data, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--least-deviation",
        type=float,
        default=usual.least_deviation,
        help="smallest standard deviation of a tile, 0 to 255; under it a tile is blank (default: %(default)s)",
    )
    parser.add_argument(
        "--most-alike", type=int, default=usual.most_alike,
        help="bits of 64 in which near-duplicates may differ; -1 keeps all (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=_tiles)


def _tiles(options: argparse.Namespace) -> None:
    from onboard.progress import progress_for
    from trainer.tiles.run import TileRequest, make_tiles
    from trainer.tiles.settings import TileSettings

    names = ("size", "stride", "shard_tiles", "quality", "most_invalid", "least_deviation", "most_alike")
    settings = TileSettings(**{name: getattr(options, name) for name in names})
    with progress_for(sys.stderr, quiet=options.quiet) as progress:
        report = make_tiles(TileRequest(tuple(options.sources), options.out, settings), progress)
    print(report.summary())
