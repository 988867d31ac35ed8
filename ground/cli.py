"""`ground`: the command line of the station."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from ground.errors import AskedWrong, GroundError
from ground.show import cell, report_line, status_lines, watch_line

WORK_LEFT = 3
EXIT_CODES = """exit codes:
  0  all that was planned is here
  1  a failure of ours (the disk, a damaged map); the same command continues
  2  mend the address, the token or the options
  3  the pass ended with work left; the same command continues
  4  nothing came through the link"""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]i?)?B?", re.IGNORECASE)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    options = _parser().parse_args(argv)
    try:
        code = int(options.command(options))
        sys.stdout.flush()
    except GroundError as error:
        print(f"ground: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("ground: interrupted; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough; what is left goes nowhere, as engines.reader_gone has it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
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
    telemetry.add_argument("--step", type=_seconds, default=60.0, help="time a row, like 1s (default: 1 min)")
    telemetry.add_argument("--bytes", type=_bytes, help="received at most (default: no end)")
    telemetry.add_argument("--window", type=_seconds, help="how long the pass lasts, like 1m (default: no end)")
    telemetry.add_argument("--json", action="store_true", help="print one machine-readable report")
    telemetry.set_defaults(command=_telemetry)
    watch = commands.add_parser("watch", help="a line of telemetry every few seconds, until interrupted")
    _add_link(watch)
    watch.add_argument("--every", type=_seconds, default=5.0, help="like 5s (default)")
    watch.add_argument("--count", type=int, help="lines, then end")
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
    spoken = not (options.quiet or options.json)
    with _link(options, window) as link, _progress(spoken and sys.stderr.isatty()) as progress:
        report = Station(link, options.dest, print if spoken else None, progress).pull()
    if options.json:
        print(json.dumps(asdict(report)))
    elif spoken:
        print(report_line(report))
    if not spoken:  # else it was said when it was found
        for name in report.damaged:
            print(f"ground: {report.why[name]}", file=sys.stderr)
    if report.window_closed and link.answers == 0:
        print("ground: nothing came through in this pass", file=sys.stderr)
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
        print("  ".join(cell(value) for value in row.values()))
    return 0


def _maps_aboard(link: Any) -> list[dict[str, Any]]:
    rows, since = [], 0
    while True:
        told = link.json("GET", "/maps", params={"since": since, "limit": 200})
        for item in told["features"]:
            properties, asset = item["properties"], item["assets"]["map"]
            rows.append(
                {
                    "map": item["id"], "bytes": asset["file:size"], "priority": properties["onboard:priority"],
                    "received": properties["onboard:received"], "datetime": properties["datetime"],
                    "title": properties["title"],
                }
            )  # fmt: skip
            since = properties["onboard:sequence"]
        if not any(step["rel"] == "next" for step in told["links"]):
            return rows


def _status(options: argparse.Namespace) -> int:
    with _link(options) as link:
        told = link.json("GET", "/telemetry")
    print(json.dumps(told) if options.json else "\n".join(status_lines(told)))
    return 0


def _telemetry(options: argparse.Namespace) -> int:
    from ground.link import Window
    from ground.telemetry import TelemetryStation

    with _link(options, Window(options.window, options.bytes)) as link:
        report = TelemetryStation(link, options.dest, options.step).pull()
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        print(f"{report.rows:,} rows of history, {report.events:,} events in {options.dest}")
    return WORK_LEFT if report.window_closed else 0


def _watch(options: argparse.Namespace) -> int:
    shown = 0
    with _link(options) as link:
        while options.count is None or shown < options.count:
            if shown:
                time.sleep(options.every)
            told = link.json("GET", "/telemetry")
            print(json.dumps(told) if options.json else watch_line(told), flush=True)
            shown += 1
    return 0


def _link(options: argparse.Namespace, window: Any = None) -> Any:
    from ground.link import Link

    token = None
    if options.token_file is not None:
        try:
            token = options.token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise AskedWrong(f"{options.token_file}: {error.strerror}", "name a file that holds the token") from None
    return Link(options.url, token=token, window=window, stall_s=options.stall)


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, leave=False) as bar:

        def move(done: int, every: int) -> None:
            bar.total = every
            bar.update(done - bar.n)

        yield move


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is no size; give it like 20MB")
    return int(float(match[1]) * _UNITS[(match[2] or "").lower()])


def _seconds(text: str) -> float:
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is no length of time; give it like 8m or 30s")
    return float(match[1]) * _SECONDS[match[2] or ""]


if __name__ == "__main__":
    sys.exit(main())
