"""The options that `onboard process` and `onboard batch` share, and what they become: a request and its engine."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

# For types alone: `onboard --help` loads neither rasterio nor a runtime.
if TYPE_CHECKING:
    from onboard.mapping.changes import EarlierMaps
    from onboard.mapping.executors import TileExecutor
    from onboard.mapping.run import MapRequest


def add_mapping_options(parser: argparse.ArgumentParser) -> None:
    """Adds them, in groups."""
    parser.add_argument("--out", type=Path, default=Path("maps"), help="the map appears in OUT/NAME/ (default: maps)")
    parser.add_argument(
        "--scheduler", metavar="tcp://HOST:8786",
        help="spread the tiles over the workers of this Dask cluster; scene and --out on storage that all share",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the map of another scene of that name (the same scene's, by other options, is always replaced)",
    )
    _add_model(parser.add_argument_group("model"))
    _add_scene(parser.add_argument_group("scene"))
    _add_product(parser.add_argument_group("product"))
    _add_output(parser.add_argument_group("output"))


def _add_model(model: argparse._ArgumentGroup) -> None:
    from engines.command_line import names_of

    model.add_argument("--model", help="shipped name, model folder or manifest.json (default: the shipped default)")
    model.add_argument(
        "--backend", default="auto",
        help="auto (by a fixed rule), fastest (measured here once), or one that `onboard doctor` lists (default: auto)",
    )  # fmt: skip
    model.add_argument(
        "--heads", type=names_of, default=(), metavar="NAME,NAME",
        help="of a model with heads, those whose maps are wanted (default: its first one; engines inspect lists them)",
    )  # fmt: skip
    model.add_argument("--threads", type=int, help="threads of the engine (default: all cores)")
    model.add_argument("--batch", type=int, default=1, metavar="N", help="tiles in one engine call (default: 1)")
    model.add_argument("--halo", type=int, metavar="PIXELS", help="pixels cut from tile edges (default: the model's)")


def _add_scene(scene: argparse._ArgumentGroup) -> None:
    scene.add_argument(
        "--bands",
        type=_option("bands_of"),
        metavar="3,2,1",
        help="numbers of the scene's bands, in the order of the model's",
    )
    scene.add_argument(
        "--stretch", type=_option("percentiles_of"), default=(2.0, 98.0), metavar="LOW,HIGH",
        help="percentiles for scenes that are not uint8 (default: 2,98)",
    )  # fmt: skip
    scene.add_argument(
        "--nodata", type=_option("nodata_of"), default="file", metavar="VALUE",
        help="value that means no data; none for no value at all (default: what the file says)",
    )  # fmt: skip
    scene.add_argument("--no-collar", action="store_true", help="keep a border of one colour as data")
    alpha = scene.add_mutually_exclusive_group()
    alpha.add_argument("--no-alpha", action="store_const", const=0, dest="alpha", help="treat no band as a mask")
    alpha.add_argument("--alpha", type=int, metavar="BAND", help="treat this band as a mask: 0 means no data")
    scene.add_argument(
        "--gsd", type=float, metavar="METRES",
        help="ground size of the scene's pixels, instead of what its georeferencing says",
    )  # fmt: skip
    scene.add_argument(
        "--page", type=int, metavar="N", help="page to map, of a TIFF of several pages (default: the largest)"
    )


def _add_product(product: argparse._ArgumentGroup) -> None:
    product.add_argument("--confidence", action="store_true", help="also write the model's confidence")
    product.add_argument(
        "--resolution", choices=("model", "scene"), default="model",
        help="grid of the map of a scene read at another resolution: the one that the model saw, or the scene's own "
        "(default: model)",
    )  # fmt: skip
    product.add_argument("--sieve", type=int, default=0, metavar="PIXELS", help="merge patches smaller than this")
    product.add_argument(
        "--quicklook", choices=("side", "map", "off"), default="side",
        help="side: a picture of scene and map with legend and scale (default); map: of the map alone; off: none",
    )  # fmt: skip
    product.add_argument(
        "--head-quicklook", choices=("side", "map", "off"), default="side",
        help="the same, for the map of each head beside the first (default: side)",
    )  # fmt: skip
    product.add_argument(
        "--polygons", nargs="?", const=("geoparquet",), default=(), type=_polygons, metavar="FORMAT[,FORMAT]",
        help="also write polygons: geoparquet (where nothing is named), flatgeobuf, gpkg; extra `polygons`",
    )  # fmt: skip


def _add_output(output: argparse._ArgumentGroup) -> None:
    output.add_argument(
        "--strict",
        action="store_true",
        help="exit code 3 if the map may be a guess: the ground is unlike the model's training imagery, or the pixels "
        "are too coarse for it",
    )
    output.add_argument("--quiet", action="store_true", help="print nothing but errors")
    output.add_argument("--json", action="store_true", help="print one machine-readable summary")


@contextmanager
def opened_executor(arguments: argparse.Namespace) -> Iterator[TileExecutor]:
    """The engine of this process, or the workers of a cluster."""
    from engines.open import SHIPPED, open_engine
    from onboard.mapping.executors import LocalExecutor

    model = arguments.model
    if arguments.scheduler is None:
        with open_engine(model, heads=arguments.heads, backend=arguments.backend, threads=arguments.threads) as engine:
            yield LocalExecutor(engine)
        return
    from onboard.mapping.dask_executor import dask_executor

    # A folder is named as the workers shall find it.
    if model is not None and not (SHIPPED / model).exists():
        model = str(Path(model).resolve())
    opener = partial(open_engine, model, heads=arguments.heads, backend=arguments.backend, threads=arguments.threads)
    with dask_executor(arguments.scheduler, opener) as executor:
        yield executor


def request_of(arguments: argparse.Namespace) -> MapRequest:
    """What the options ask for.

    Raises:
        OptionsRefused: --changes-from names no map, or a package for --polygons is missing.
    """
    from onboard.mapping.run import MapRequest
    from onboard.scene.reader import SceneOptions
    from onboard.scene.resolution import ResolutionOptions

    # Looked for now and not when the polygons are made, after the whole scene was mapped.
    if arguments.polygons:
        from onboard.mapping.polygons import check_packages

        check_packages()
    return MapRequest(
        scene=arguments.scene,
        out=arguments.out,
        name=arguments.name,
        scene_options=SceneOptions(
            bands=arguments.bands,
            stretch_percentiles=arguments.stretch,
            collar=not arguments.no_collar,
            nodata=arguments.nodata,
            alpha=arguments.alpha,
            page=arguments.page,
        ),
        resolution=ResolutionOptions(gsd_m=arguments.gsd, grid=arguments.resolution),
        confidence=arguments.confidence,
        sieve_px=arguments.sieve,
        quicklook=arguments.quicklook,
        head_quicklook=arguments.head_quicklook,
        batch=arguments.batch,
        halo=arguments.halo,
        overwrite=arguments.overwrite,
        strict=arguments.strict,
        earlier=None if arguments.changes_from is None else _earlier(arguments.changes_from),
        polygons=arguments.polygons,
    )


def _earlier(folder: Path) -> EarlierMaps:
    """The map of --changes-from.

    Raises:
        OptionsRefused: it is none.
    """
    from onboard.errors import OptionsRefused
    from onboard.mapping.changes import EarlierMaps, read_earlier_map

    earlier = read_earlier_map(folder)
    if earlier is None:
        raise OptionsRefused(
            f"--changes-from {folder} is no folder of a map", "give one that holds map.tif and map.json"
        )
    return EarlierMaps(lambda: [earlier], key=str(earlier.item["assets"]["map"]["file:checksum"]), any_time=True)


def _polygons(text: str) -> tuple[str, ...]:
    from onboard.scene.option_texts import polygon_formats

    try:
        return polygon_formats(text)
    except ValueError as error:
        # A bare --polygons takes the word behind it for its value, so a scene's name may come here.
        raise argparse.ArgumentTypeError(f"{error}; before a scene's name write --polygons=geoparquet") from None


def _option(read: str) -> Callable[[str], Any]:
    """A reader of onboard.scene.option_texts for argparse, imported when an option is given."""

    def taken(text: str) -> Any:
        from onboard.scene import option_texts

        try:
            return getattr(option_texts, read)(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return taken
