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
from pathlib import Path
from typing import Any, NoReturn

from ground.errors import AskedWrong, GroundError
from ground.show import Screen, cell, report_line, status_lines, watch_line

WORK_LEFT = 3
EXIT_CODES = """exit codes:
  0  all that was planned is here
  1  a failure of ours (the disk, a damaged map); the same command continues
  2  mend the address, the token or the options
  3  the pass ended with work left; the same command continues
  4  nothing came through the link"""
_LONGEST_TOKEN, _TOKEN_WAIT_S = 4096, 10.0
_MOST_ROWS = 1_000_000
_LONGEST_SPAN_S = 1e7
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]i?)?B?", re.IGNORECASE)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    options = _parser().parse_args(argv)
    options.screen = screen = Screen()
    try:
        code = int(options.command(options))
        sys.stdout.flush()
    except GroundError as error:
        screen.note(" ".join(str(error).split()))
        return error.exit_code
    except KeyboardInterrupt:
        screen.note("interrupted; the same command continues")
        return 130
    except BrokenPipeError:  # `| head` has read enough; what is left goes nowhere, as engines.reader_gone has it
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
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    pull = commands.add_parser(
        "pull", help="one pass: plan, transfers, receipts", epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_link(pull)
    pull.add_argument("--dest", type=Path, required=True, help="folder of the maps; a broken pass is taken up there")
    pull.add_argument("--bytes", type=_bytes, help="received at most, like 20MB (default: no end)")
    pull.add_argument("--window", type=_seconds, help="how long the pass lasts, like 8m (default: no end)")
    pull.add_argument("--quiet", action="store_true", help="print nothing but errors")
    pull.add_argument("--json", action="store_true", help="print one machine-readable report")
    pull.set_defaults(command=_pull)
    listing = commands.add_parser("ls", help="maps aboard, or in a folder here")
    _add_link(listing, optional=True)
    listing.add_argument("--dest", type=Path, help="list this folder instead of a satellite")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(command=_ls)
    status = commands.add_parser("status", help="how the satellite's mapper is")
    _add_link(status)
    status.add_argument("--json", action="store_true")
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
    return parser


def _add_link(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    parser.add_argument("url", nargs="?" if optional else None, help="of the service, like http://satellite:8000")
    parser.add_argument("--token-file", type=Path, help="file that holds the bearer token")
    parser.add_argument("--stall", type=_seconds, default=15.0, help="silence after which a connection is given up")


def _pull(options: argparse.Namespace) -> int:
    from ground.link import Window
    from ground.station import Station

    window = Window(options.window, options.bytes)
    spoken, screen = not (options.quiet or options.json), options.screen
    with _link(options, window) as link, screen.progress(spoken and sys.stderr.isatty()) as progress:
        report = Station(link, options.dest, screen.line if spoken else None, progress).pull()
    if options.json:
        print(json.dumps(asdict(report)))
    elif spoken:
        screen.line(report_line(report))
    if not spoken:  # else it was said when it was found
        for name in report.damaged:
            screen.note(report.why[name])
    if report.window_closed and link.answers == 0:
        screen.note("nothing came through in this pass")
        return 4
    if report.left or report.window_closed:
        return WORK_LEFT
    return 1 if report.damaged else 0


def _ls(options: argparse.Namespace) -> int:
    from ground.station import held_maps

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
    for row in rows:
        options.screen.line("  ".join(cell(value) for value in row.values()))
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
        options.screen.line(f"{report.rows:,} rows of history, {report.events:,} events in {options.dest}")
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
            data = file.read(_LONGEST_TOKEN + 1) or b""
    except OSError as error:
        raise AskedWrong(f"{path}: {error.strerror}", "name a file that holds the token") from None
    token = data.strip()
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


def _step(text: str) -> float:
    """A length of time, or 0 for every sample."""
    return 0.0 if re.fullmatch(r"0+(\.0+)?\s*(s|m|min|h)?", text.strip()) else _seconds(text)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no count; give 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
