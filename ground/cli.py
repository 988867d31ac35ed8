"""`ground`: the command line of the station."""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from ground.change.command import add_change
from ground.errors import AskedWrong, GroundError
from ground.export.command import add_export
from ground.model.command import EXAMPLES as MODEL_EXAMPLES
from ground.model.command import add_model
from ground.orders import add_areas, add_priority
from ground.polygons.command import add_polygons
from ground.show import Screen, count, report_line, status_lines, watch_line

WORK_LEFT = 3
EXIT_CODES = """exit codes:
  0  all that was planned is here
  1  a failure on the ground (the disk, a damaged map); the same command continues
  2  correct the address, the token or the options
  3  the pass ended with work left; the same command continues
  4  nothing came through the link"""
_LONGEST_TOKEN, _TOKEN_WAIT_S = 4096, 10.0
_MOST_ROWS = 1_000_000
_LONGEST_SPAN_S = 1e7
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]i?)?B?", re.IGNORECASE)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?")
FROM_ENVIRONMENT = "GROUND_TOKEN_FILE"
EXAMPLES = {
    "pull": "ground pull http://satellite:8000 --dest maps --window 8m --token-file station.token",
    "ls": "ground ls --dest maps",
    "status": "ground status http://satellite:8000",
    "telemetry": "ground telemetry http://satellite:8000 --dest telemetry --window 1m",
    "export": "ground export maps --format cog8 --out exported",
    "polygons": "ground polygons maps --out polygons --min-area 100m2",
    "change": "ground change maps/monday maps/friday --out changes --min-area 100m2",
    "areas": "ground areas push http://satellite:8000 areas.geojson --token-file operator.token",
    "priority": "ground priority http://satellite:8000 s00000007-0c8555c7 urgent --token-file operator.token",
    "watch": "ground watch http://satellite:8000 --every 2s",
    "model": MODEL_EXAMPLES,
    "console": "ground console http://satellite:8000 --dest maps --telemetry telemetry",
}
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    options = _parser().parse_args(argv)
    options.screen = screen = Screen()
    try:
        # Flushed inside the try: else a reader that left is noticed by the interpreter at its end, as a traceback.
        code = int(options.command(options))
        sys.stdout.flush()
    except GroundError as error:
        screen.note(" ".join(str(error).split()))
        return error.exit_code
    except KeyboardInterrupt:
        screen.note("interrupted; the same command continues")
        # 128 and the signal's number, as shells have it: SIGINT here, SIGPIPE below.
        return 130
    except BrokenPipeError:  # `| head` has read enough; what is left goes nowhere, as engines.broken_pipe has it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        screen.note(f"{error.filename or 'this machine'}: {(error.strerror or str(error)).lower()}")
        return 1
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ground", description="Pulls maps from a satellite in passes.", epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"ground {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    pull = commands.add_parser("pull", help="one pass: plan, transfers, receipts", epilog=EXIT_CODES)
    _add_link(pull)
    pull.add_argument(
        "--dest", type=Path, required=True, help="folder of the maps; an interrupted pass continues there"
    )
    # A % is written twice: argparse formats help texts.
    pull.add_argument(
        "--layout", metavar="PATTERN", help="folders of the maps, like '{date:%%Y/%%m}/{title}-{id}'; maps that are "
        "there are moved, and later passes keep to it (default: as the folder is; {id} in a new one)",
    )  # fmt: skip
    pull.add_argument("--bytes", type=_bytes, help="received at most, like 20MB (default: no end)")
    pull.add_argument("--window", type=_seconds, help="how long the pass lasts, like 8m (default: no end)")
    pull.add_argument(
        "--whole", action="store_true",
        help="fetch maps whole, never the changes since an earlier one in their place",
    )  # fmt: skip
    pull.add_argument("--quiet", action="store_true", help="print nothing but errors")
    pull.add_argument("--json", action="store_true", help="print one machine-readable report")
    pull.set_defaults(command=_pull)
    listing = commands.add_parser("ls", help="maps aboard, or in a folder here")
    _add_link(listing, optional=True)
    listing.add_argument("--dest", type=Path, help="list this folder instead of a satellite")
    listing.add_argument("--json", action="store_true", help="machine-readable")
    listing.set_defaults(command=_ls)
    status = commands.add_parser("status", help="state of the satellite: engine, queue, power, disk")
    _add_link(status)
    status.add_argument("--json", action="store_true", help="machine-readable")
    status.set_defaults(command=_status)
    telemetry = commands.add_parser("telemetry", help="pull what was measured, and events, since the last time")
    _add_link(telemetry)
    telemetry.add_argument("--dest", type=Path, required=True, help="folder of the Parquet files")
    telemetry.add_argument("--step", type=_step, default=60.0, help="time a row, like 1s (default: 1 min)")
    telemetry.add_argument("--bytes", type=_bytes, help="received at most (default: no end)")
    telemetry.add_argument("--window", type=_seconds, help="how long the pass lasts, like 1m (default: no end)")
    telemetry.add_argument("--json", action="store_true", help="print one machine-readable report")
    telemetry.set_defaults(command=_telemetry)
    watch = commands.add_parser("watch", help="a line of telemetry every few seconds, until interrupted")
    _add_link(watch)
    watch.add_argument("--every", type=_seconds, default=5.0, help="like 5s (default)")
    watch.add_argument("--count", type=_count, help="lines, then end")
    watch.add_argument("--json", action="store_true", help="the whole snapshot, a line each")
    watch.set_defaults(command=_watch)
    _add_console(commands)
    add_export(commands)
    add_areas(commands, _add_link, _link)
    add_priority(commands, _add_link, _link)
    add_polygons(commands)
    add_change(commands)
    add_model(commands, _add_link, _seconds, _bytes, _link)
    for name, example in EXAMPLES.items():
        command = commands.choices[name]
        lines = "\n".join(f"  {line}" for line in example.splitlines())
        command.epilog = f"example:\n{lines}" + (f"\n\n{command.epilog}" if command.epilog else "")
        command.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _version() -> str:
    try:
        return version("onboard-landcover")
    except PackageNotFoundError:
        return "(a checkout that is not installed)"


def _add_console(commands: Any) -> None:
    console = commands.add_parser("console", help="a page on this machine: maps, curves, events, queue, passes")
    _add_link(console, optional=True)
    console.add_argument("--dest", type=Path, required=True, help="folder of `ground pull`")
    console.add_argument("--telemetry", type=Path, help="folder of `ground telemetry`")
    console.add_argument("--scenes", type=Path, help="folder of the scenes, to show them under their maps")
    console.add_argument("--operator-token-file", type=Path, help="file of the token that may cancel or reorder scenes")
    console.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    console.add_argument("--port", type=_port, default=8050, help="default: 8050; 0 takes a free one")
    console.add_argument("--name", default="", help="shown on the page, like the satellite's name")
    console.add_argument("--orbit", type=_seconds, default=5700.0, help="length of an orbit (default: 95m)")
    console.set_defaults(command=_console)


def _add_link(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    parser.add_argument("url", nargs="?" if optional else None, help="of the service, like http://satellite:8000")
    parser.add_argument(
        "--token-file", type=Path, default=os.environ.get(FROM_ENVIRONMENT) or None,
        help=f"file that holds the bearer token (default: the one that {FROM_ENVIRONMENT} names, else none)",
    )  # fmt: skip
    parser.add_argument(
        "--stall", type=_seconds, default=15.0, help="silence after which a connection is given up (default: 15s)"
    )


def _pull(options: argparse.Namespace) -> int:
    from ground.link import Window
    from ground.passes import pass_going_on
    from ground.station import Station

    window = Window(options.window, options.bytes)
    spoken, screen = not (options.quiet or options.json), options.screen
    if options.layout is not None:
        from ground.folders import set_layout
        from ground.layout import Layout

        # Before this pass marks the folder: set_layout refuses while any pass goes on in it.
        moved = set_layout(options.dest, Layout(options.layout))
        if moved and spoken:
            screen.line(f"{count(moved, 'map')} moved: {options.dest} has the layout {options.layout} now")
    with _link(options, window) as link, screen.progress(spoken and sys.stderr.isatty()) as progress:
        station = Station(
            link, options.dest, screen.line if spoken else None, progress, takes_changes=not options.whole
        )
        with pass_going_on(options.dest):
            report = _logged(station, options)
        brought_nothing = not (report.maps or report.coarse or report.left or report.window_closed)
        to_come = _scenes_to_come(link) if spoken and brought_nothing else 0
    if options.json:
        print(json.dumps(asdict(report)))
    elif spoken:
        screen.line(report_line(report))
        if to_come:
            screen.line(f"{count(to_come, 'scene')} still to be mapped aboard: pull again later")
    if not spoken:  # else it was said when it was found
        for name in report.damaged:
            screen.note(report.why[name])
    # A window that closed on silence is a link that was down, not work that was interrupted.
    if report.window_closed and link.answers == 0:
        screen.note("nothing came through in this pass")
        return 4
    if report.left or report.window_closed:
        return WORK_LEFT
    return 1 if report.damaged else 0


def _logged(station: Any, options: argparse.Namespace) -> Any:
    """One pass, with a line in the station's log of passes; a pass that was refused is none."""
    from ground.passes import LOG, PassLog

    log, problem, is_pass = PassLog(options.dest), "", True
    try:
        return station.pull()
    except AskedWrong:
        is_pass = False
        raise
    # KeyboardInterrupt too: an interrupted pass has a line in the log.
    except BaseException as error:
        problem = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
        raise
    finally:
        if is_pass:
            try:
                log.write(station.report, problem)
            except (OSError, ValueError) as error:
                if not problem:  # else what went wrong is said already
                    reason = getattr(error, "strerror", None) or error
                    options.screen.note(f"{options.dest / LOG}: the pass is not logged: {reason}")


def _scenes_to_come(link: Any) -> int:
    """How many scenes are still to be mapped aboard; 0 where it is not said at once."""
    from ground.answers import Snapshot

    snapshot = link.read_once(Snapshot, "GET", "/telemetry")
    scenes = {} if snapshot is None else snapshot.as_dict()["scenes"]
    return int(scenes.get("queued", 0) + scenes.get("running", 0))


def _ls(options: argparse.Namespace) -> int:
    from ground.folders import held_maps

    if options.dest is not None:
        rows = held_maps(options.dest)
    elif options.url is not None:
        with _link(options) as link:
            rows = _maps_aboard(link)
    else:
        raise AskedWrong("nothing to list", "give the address of a service, or --dest FOLDER")
    if options.json:
        print(json.dumps(rows))
        return 0
    options.screen.table(rows)
    return 0


def _maps_aboard(link: Any) -> list[dict[str, Any]]:
    from ground.answers import Maps

    rows: list[dict[str, Any]] = []
    since = 0
    while True:
        page = link.read(Maps, "GET", "/maps", params={"since": since, "limit": 200})
        for item in page.features:
            told = item.properties
            rows.append(
                {
                    "map": item.id, "bytes": item.assets.map.size, "priority": told.priority,
                    "received": told.received, "datetime": told.datetime, "title": told.title,
                }
            )  # fmt: skip
        last = page.features[-1].properties.sequence if page.features else since
        if not any(step.rel == "next" for step in page.links):
            return rows
        # A service that names the same page again, or ever new maps, would hold the command for ever.
        if last <= since or len(rows) > _MOST_ROWS:
            raise GroundError(f"{link.url}/maps: its pages do not go forward, or never end; see the satellite's log")
        since = last


def _status(options: argparse.Namespace) -> int:
    from ground.answers import Snapshot

    with _link(options) as link:
        if options.json:
            print(json.dumps(link.json("GET", "/telemetry")))
            return 0
        snapshot = link.read(Snapshot, "GET", "/telemetry")
    for line in status_lines(snapshot.as_dict()):
        options.screen.line(line)
    return 0


def _telemetry(options: argparse.Namespace) -> int:
    from ground.link import Window
    from ground.telemetry import TelemetryStation

    with _link(options, Window(options.window, options.bytes)) as link:
        report = TelemetryStation(link, options.dest, options.step).pull()
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        rows, events = count(report.rows, "row"), count(report.events, "event")
        options.screen.line(f"{rows} of history and {events} in {options.dest}")
    return WORK_LEFT if report.window_closed else 0


def _watch(options: argparse.Namespace) -> int:
    from ground.answers import Snapshot

    shown = 0
    with _link(options) as link:
        while options.count is None or shown < options.count:
            if shown:
                time.sleep(options.every)
            if options.json:
                print(json.dumps(link.json("GET", "/telemetry")), flush=True)
            else:
                options.screen.line(watch_line(link.read(Snapshot, "GET", "/telemetry").as_dict()))
            shown += 1
    return 0


def _console(options: argparse.Namespace) -> int:
    from ground.console.serve import ConsoleOptions, serve_console

    # Without a satellite nothing is asked: the file that the environment names need not be there.
    reading = None if options.token_file is None or options.url is None else _token_of(options.token_file)
    acting = None if options.operator_token_file is None else _token_of(options.operator_token_file)
    serve_console(
        ConsoleOptions(
            options.dest, options.telemetry, options.scenes, options.url, reading, acting, options.host, options.port,
            options.name, options.orbit, options.stall,
        ),
        options.screen.line,
    )  # fmt: skip
    return 0


def _link(options: argparse.Namespace, window: Any = None) -> Any:
    from ground.link import Link

    token = None if options.token_file is None else _token_of(options.token_file)
    told = None if getattr(options, "quiet", False) else options.screen.note
    return Link(options.url, token=token, window=window, stall_s=options.stall, told=told)


def _token_of(path: Path) -> str:
    """The token in a file, or in a pipe like bash's `<(...)`.

    Raises:
        AskedWrong: there is none.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            # A pipe that nobody writes to is not waited for without end.
            select.select([file], [], [], _TOKEN_WAIT_S)
            # A pipe without data gives None: the descriptor does not block.
            data = file.read(_LONGEST_TOKEN + 1) or b""
    except OSError as error:
        raise AskedWrong(f"{path}: {error.strerror}", "name a file that holds the token") from None
    token = data.strip()
    # It becomes part of a header field, in which spaces and control characters have no place (RFC 6750, 2.1).
    if not token or len(data) > _LONGEST_TOKEN or not re.fullmatch(rb"[!-~]+", token):
        raise AskedWrong(f"{path} holds no token", "write the token into it as `onboard token add` printed it")
    return token.decode("ascii")


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is no size; give it like 20MB")
    size = float(match[1]) * _UNITS[(match[2] or "").lower()]
    if not size < 2**62:
        raise argparse.ArgumentTypeError(f"{text} is more than there is; give it like 20MB")
    return int(size)


def _seconds(text: str) -> float:
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is no length of time; give it like 8m or 30s")
    span = float(match[1]) * _SECONDS[match[2] or ""]
    if not 0 < span <= _LONGEST_SPAN_S:
        raise argparse.ArgumentTypeError(f"{text} is no length of a pass or a pause; give it like 8m or 30s")
    return span


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port; give 0 to 65535")
    return int(text)


def _step(text: str) -> float:
    """A length of time, or 0 for every sample."""
    return 0.0 if re.fullmatch(r"0+(\.0+)?\s*(s|m|min|h)?", text.strip()) else _seconds(text)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no count; give 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
