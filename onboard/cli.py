"""`onboard`: the command line of what flies. It parses, builds one request, calls one function."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from onboard.errors import OnboardError
from onboard.history_cli import add_parsers
from onboard.mapping_options import add_mapping_options, opened_executor, request_of
from onboard.token_cli import add_token_commands

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
    add_token_commands(commands.add_parser("token", help="make, list and remove access tokens"))
    doctor = commands.add_parser("doctor", help="check this machine: sensors, backends, what is missing")
    doctor.add_argument("--json", action="store_true", help="machine-readable")
    doctor.add_argument("--out", type=Path, default=Path(), help="folder whose disk is checked (default: this one)")
    doctor.set_defaults(command=_doctor)
    add_parsers(commands)
    add_examples(commands, EXAMPLES)
    return parser


def _add_process(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_process)
    parser.add_argument("scene", type=Path, help="a GeoTIFF")
    parser.add_argument("--name", help="name of the map's folder (default: the scene's file name)")
    parser.add_argument(
        "--changes-from", type=Path, metavar="FOLDER",
        help="folder of an earlier map on the same grid: what changed goes into the item and into changes.tif",
    )  # fmt: skip
    add_mapping_options(parser)


def _add_batch(parser: argparse.ArgumentParser) -> None:
    # What `process` has and `batch` has not: `request_of` reads the same names for both.
    parser.set_defaults(command=_batch, name=None, scene=Path(), changes_from=None)
    parser.add_argument("scenes", type=Path, nargs="+", help="GeoTIFFs, or folders of them")
    parser.add_argument(
        "--at-once", type=int, default=2, metavar="N", help="scenes at a time on a cluster (default: 2)"
    )
    add_mapping_options(parser)


def _process(arguments: argparse.Namespace) -> int:
    from onboard.mapping.run import map_scene
    from onboard.progress import progress_for
    from onboard.scene.probe import Probes
    from onboard.summary_text import render

    request = request_of(arguments)
    _hush(arguments)
    with (
        Probes() as probes,  # gets ready while the engine is opened
        opened_executor(arguments) as executor,
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
    with Probes() as probes, opened_executor(arguments) as executor:
        return batch(arguments, request_of(arguments), executor, probes.judge)


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


def _doctor(arguments: argparse.Namespace) -> int:
    from onboard.doctor import diagnose, render

    report = diagnose(disk=arguments.out)
    print(json.dumps(report.as_json(), indent=2) if arguments.json else render(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
