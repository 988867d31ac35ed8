"""`onboard`: the command line of what flies. It parses, builds one request, calls one function."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onboard.errors import OnboardError
from onboard.history_cli import add_parsers

if TYPE_CHECKING:
    from onboard.mapping.changes import EarlierMaps
    from onboard.mapping.executors import TileExecutor
    from onboard.mapping.run import MapRequest, MapSummary


EXAMPLES = {
    "process": "onboard process scene.tif --out maps",
    "batch": "onboard batch scenes/ --out maps",
    "serve": "ONBOARD_DATA_DIR=/data ONBOARD_PORT=8000 onboard serve",
    "settings": "ONBOARD_MODEL=dubai-lite-int8 onboard settings",
    "token": "onboard token add station --role ground > station.token\nonboard token list",
    "doctor": "onboard doctor --out /data",
    "report": "onboard report telemetry --out power",
    "calibrate": "onboard calibrate --seconds 60",
}
_AT_START = "a service that runs here reads it when it is started again"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code.

    0 done, 2 mend the input, 1 a failure of ours, 3 mapped but unlike the training imagery (--strict), 130 interrupted.
    """
    arguments = _parser().parse_args(argv)
    from engines.broken_pipe import discard_stdout
    from engines.errors import EngineError

    try:
        code = int(arguments.command(arguments))
        # Here, where a closed pipe can be answered by an exit code; at the interpreter's end it is a traceback.
        sys.stdout.flush()
    except (OnboardError, EngineError) as error:
        if arguments.debug:
            raise
        print(f"onboard: {' '.join(str(error).split())}", file=sys.stderr)
        return int(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        print("onboard: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return discard_stdout()
    return code


def _parser() -> argparse.ArgumentParser:
    from engines.command_line import OneLineParser, add_examples, add_version

    parser = OneLineParser(prog="onboard", description="Land-cover maps from GeoTIFF scenes.")
    add_version(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_process(commands.add_parser("process", help="map one scene", description="Maps one GeoTIFF scene."))
    many = commands.add_parser(
        "batch",
        help="map many scenes",
        description="Maps many GeoTIFF scenes; one that fails does not stop the others.",
    )
    _add_batch(many)
    serve = commands.add_parser("serve", help="run the service: scenes in over HTTP, maps out")
    serve.set_defaults(command=_serve)
    settings = commands.add_parser("settings", help="every setting of the service with value, default and meaning")
    settings.add_argument("--json", action="store_true", help="machine-readable")
    settings.set_defaults(command=_settings)
    _add_token(commands.add_parser("token", help="make, list and remove access tokens"))
    doctor = commands.add_parser("doctor", help="check this machine: sensors, backends, what is missing")
    doctor.add_argument("--json", action="store_true", help="machine-readable")
    doctor.add_argument("--out", type=Path, default=Path(), help="folder whose disk is checked")
    doctor.set_defaults(command=_doctor)
    add_parsers(commands)
    add_examples(commands, EXAMPLES)
    return parser


def _add_token(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    add = verbs.add_parser("add", help="make a token; it is printed once")
    add.add_argument("name", help="name of the holder")
    add.add_argument(
        "--role", action="append", required=True, dest="roles", metavar="ROLE",
        help="ingest, ground, telemetry, uplink or operator; may be repeated",
    )  # fmt: skip
    add.set_defaults(command=_token_add)
    listing = verbs.add_parser("list", help="names and roles of the tokens there are")
    listing.add_argument("--json", action="store_true", help="machine-readable")
    listing.set_defaults(command=_token_list)
    remove = verbs.add_parser("remove", help="forget a token")
    remove.add_argument("name")
    remove.set_defaults(command=_token_remove)


def _add_process(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_process)
    parser.add_argument("scene", type=Path, help="a GeoTIFF")
    parser.add_argument("--name", help="name of the map's folder (default: the scene's file name)")
    parser.add_argument(
        "--changes-from", type=Path, metavar="FOLDER",
        help="folder of an earlier map on the same grid: what changed goes into the item and into changes.tif",
    )  # fmt: skip
    _add_mapping(parser)


def _add_batch(parser: argparse.ArgumentParser) -> None:
    # What `process` has and `batch` has not: `_request` reads the same names for both.
    parser.set_defaults(command=_batch, name=None, scene=Path(), changes_from=None)
    parser.add_argument("scenes", type=Path, nargs="+", help="GeoTIFFs, or folders of them")
    parser.add_argument(
        "--at-once", type=int, default=2, metavar="N", help="scenes at a time on a cluster (default: 2)"
    )
    _add_mapping(parser)


def _add_mapping(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `process` and `batch` share."""
    from engines.command_line import names_of

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
    model = parser.add_argument_group("model")
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
    scene = parser.add_argument_group("scene")
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
        help="value that means no data, instead of the file's tag; none for no value at all",
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
    product = parser.add_argument_group("product")
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
    output = parser.add_argument_group("output")
    output.add_argument(
        "--strict",
        action="store_true",
        help="exit code 3 if the map may be a guess: the ground is unlike the model's training imagery, or the pixels "
        "are too coarse for it",
    )
    output.add_argument("--quiet", action="store_true", help="print nothing but errors")
    output.add_argument("--json", action="store_true", help="print one machine-readable summary")


def _process(arguments: argparse.Namespace) -> int:
    from onboard.mapping.run import map_scene
    from onboard.progress import progress_for
    from onboard.scene.probe import Probes

    request = _request(arguments)
    _hush(arguments)
    with (
        Probes() as probes,  # gets ready while the engine is opened
        _opened(arguments) as executor,
        progress_for(sys.stderr, quiet=arguments.quiet or arguments.json) as progress,
    ):
        summary = map_scene(request, executor, progress, judge=probes.judge)
        manifest = executor.engine.manifest
        # Reversed below: where two heads have a class of one title, the first head's colour counts.
        legends = (manifest.classes, *(head.classes for head in manifest.further_heads))
        colours = {item.title: item.color for legend in reversed(legends) for item in legend}
    if arguments.json:
        print(json.dumps(summary.as_json()))
    elif not arguments.quiet:
        # NO_COLOR: any value that is not empty switches colours off (no-color.org).
        in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print(render(summary, colours if in_colour else {}), flush=True)
        # Behind the figures: what speaks against them is read last.
        for text in summary.assumptions:
            print(f"onboard: assumed: {text}", file=sys.stderr)
        for text in summary.notices:
            print(f"onboard: {text}", file=sys.stderr)
        if summary.familiarity.warning:
            print(f"onboard: {summary.familiarity.warning}", file=sys.stderr)
    return summary.exit_code(strict=arguments.strict)


def _hush(arguments: argparse.Namespace) -> None:
    """With --quiet, keeps Python from printing libraries' warnings (GDAL's on odd tags) that no handler takes."""
    if arguments.quiet:
        import logging

        logging.getLogger().addHandler(logging.NullHandler())


def _batch(arguments: argparse.Namespace) -> int:
    from onboard.batch_cli import batch
    from onboard.scene.probe import Probes

    _hush(arguments)
    with Probes() as probes, _opened(arguments) as executor:
        return batch(arguments, _request(arguments), executor, probes.judge)


@contextmanager
def _opened(arguments: argparse.Namespace) -> Iterator[TileExecutor]:
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


def _request(arguments: argparse.Namespace) -> MapRequest:
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


def _serve(_: argparse.Namespace) -> int:
    import logging

    from engines.command_line import names_of
    from onboard.api.auth import check_binding, read_tokens
    from onboard.api.listening import check_address
    from onboard.jobs.areas import AreaStore
    from onboard.jobs.data_folder import check_data_folder
    from onboard.jobs.heads import check_heads
    from onboard.jobs.mapping_config import MappingConfig
    from onboard.mapping.polygons import check_packages
    from onboard.power.governor import limits_of
    from onboard.processes.supervisor import serve
    from onboard.settings import read_settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    settings = read_settings()
    # What would stop a child at once is said here, in one line.
    check_data_folder(settings)
    check_binding(settings.host, read_tokens(settings.tokens_path))
    limits_of(settings)
    if settings.polygons:
        check_packages()
    manifest = MappingConfig.of(settings).manifest
    check_heads(manifest, names_of(settings.heads), "ONBOARD_HEADS")
    AreaStore(settings).check(manifest)
    # The address once the folder is locked: where the service runs already, it is the lock that says so.
    serve(settings, lambda: check_address(settings))
    return 0


def _settings(arguments: argparse.Namespace) -> int:
    from onboard.settings import read_settings, settings_as_json, settings_as_text

    settings = read_settings()
    print(settings_as_json(settings) if arguments.json else settings_as_text(settings))
    return 0


def _token_add(arguments: argparse.Namespace) -> int:
    from onboard.api.auth import add_token
    from onboard.settings import read_settings

    path = read_settings().tokens_path
    print(add_token(path, arguments.name, arguments.roles), flush=True)
    print(f"onboard: kept, hashed, in {path}; {_AT_START}", file=sys.stderr)
    return 0


def _token_list(arguments: argparse.Namespace) -> int:
    from onboard.api.auth import read_tokens
    from onboard.settings import read_settings

    path = read_settings().tokens_path
    roles = read_tokens(path).roles()
    if arguments.json:
        print(json.dumps(roles))
        return 0
    if not roles:
        print(f"onboard: no tokens in {path}: the service listens on loopback only, for everyone", file=sys.stderr)
    width = max(map(len, roles), default=0)
    for name, names in roles.items():
        print(f"{name:<{width}}  {', '.join(names)}")
    return 0


def _token_remove(arguments: argparse.Namespace) -> int:
    from onboard.api.auth import remove_token
    from onboard.settings import read_settings

    path = read_settings().tokens_path
    remove_token(path, arguments.name)
    print(f"onboard: removed from {path}; {_AT_START}", file=sys.stderr)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from onboard.doctor import diagnose, render

    report = diagnose(disk=arguments.out)
    print(json.dumps(report.as_json(), indent=2) if arguments.json else render(report))
    return 0


def render(summary: MapSummary, colours: Mapping[str, str]) -> str:
    """The summary as a person reads it; bars in the classes' ``colours`` (title: #RRGGBB), where there are any."""
    from engines.command_line import bytes_text, coloured, counted

    rate = "" if summary.tiles_per_s is None else f", {summary.tiles_per_s:.2f} tiles/s while mapping"
    resumed = f", {summary.tiles_resumed} of them from an earlier run" if summary.tiles_resumed else ""
    state = (
        "already mapped, nothing to do"
        if summary.already_mapped
        else f"{counted(summary.tiles, 'tile')}{resumed}{rate}"
    )
    # Raw: three bytes a pixel.
    smaller = 3 * summary.scene_pixels / summary.map_bytes
    lines = [
        f"map        {summary.map_path}",
        f"item       {summary.item_path}",
    ]
    if summary.quicklook_path:
        lines.append(f"quicklook  {summary.quicklook_path}")
    if summary.confidence_path:
        lines.append(f"confidence {summary.confidence_path}")
    lines += [
        f"model      {summary.model}{': ' + summary.model_terms if summary.model_terms else ''}",
        f"familiar   {_familiar(summary)}",
        f"work       {state}, {summary.seconds:.1f} s in all",
        f"size       {bytes_text(summary.map_bytes)} ({summary.map_bytes:,} bytes), 1/{smaller:,.0f} of the raw RGB",
    ]
    width = max(len(title) for title in summary.class_shares)
    for title, share in summary.class_shares.items():
        bar = coloured("█" * round(share * 40), colours.get(title))
        lines.append(f"  {title:<{width}} {share:7.2%}  {bar}")
    lines.append(f"  {'(no data)':<{width}} {summary.no_data_share:7.2%}")
    for head in summary.further:
        lines.append(f"map        {head.map_path} (head {head.name})")
        if head.quicklook_path:
            lines.append(f"quicklook  {head.quicklook_path}")
        width = max(map(len, head.class_shares))
        lines += [
            f"  {title:<{width}} {share:7.2%}  {coloured('█' * round(share * 40), colours.get(title))}"
            for title, share in head.class_shares.items()
        ]
    return "\n".join(lines)


def _familiar(summary: MapSummary) -> str:
    """One line on how similar the scene is to the training imagery."""
    from engines.command_line import counted

    familiarity = summary.familiarity
    if familiarity.unknown or familiarity.median is None:
        return f"not known: {familiarity.unknown}"
    limit = "" if familiarity.threshold is None else f", unfamiliar below {familiarity.threshold:g}"
    known = familiarity.tiles - familiarity.unfamiliar
    # A median of 0.018 must not look like the limit of 0.02.
    digits = 2 if familiarity.median >= 0.1 else 3
    return f"{known} of {counted(familiarity.tiles, 'tile')} (median {familiarity.median:.{digits}f}{limit})"


def _option(read: str) -> Callable[[str], Any]:
    """A reader of onboard.scene.option_texts for argparse, imported when an option is given."""

    def taken(text: str) -> Any:
        from onboard.scene import option_texts

        try:
            return getattr(option_texts, read)(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return taken


if __name__ == "__main__":
    sys.exit(main())
