"""`onboard report` and `onboard calibrate`: what history says, and what rest takes."""

from __future__ import annotations

import argparse
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onboard.errors import OptionsRefused

if TYPE_CHECKING:
    from telemetry.table import Table

TOKEN = "ONBOARD_TOKEN"  # noqa: S105 -- the name of a variable


def add_parsers(commands: Any) -> None:
    """Adds both commands."""
    report = commands.add_parser("report", help="power, speed and heat over time: picture and table")
    report.add_argument("source", help="service's address, or Parquet file or folder of `ground telemetry`")
    report.add_argument("--out", type=Path, default=Path("power"), help="pictures OUT.png and OUT.svg (default: power)")
    report.add_argument("--since", type=float, help="of a service: seconds before now (default: all)")
    report.add_argument("--step", type=float, default=1.0, help="of a service: seconds a row (default: 1)")
    report.add_argument("--idle-w", type=float, help="watts at rest (default: as calibrated, or rows without work)")
    report.add_argument("--paper", action="store_true", help="draw the paper's 5.74 W and 18.95 W too")
    report.add_argument("--json", action="store_true", help="print the numbers for programs")
    report.set_defaults(command=_report)
    calibrate = commands.add_parser("calibrate", help="measure what this machine takes at rest")
    calibrate.add_argument("--seconds", type=float, default=60.0, help="length of the window (default: 60)")
    calibrate.add_argument("--json", action="store_true")
    calibrate.set_defaults(command=_calibrate)


def _report(options: argparse.Namespace) -> int:
    from telemetry.report import draw, figures_of, text_of
    from telemetry.table import Table, TableError

    try:
        idle_w = options.idle_w
        if options.source.startswith(("http://", "https://")):
            table, calibrated = _fetched(options.source.rstrip("/"), options.since, options.step)
            idle_w = calibrated if idle_w is None else idle_w
        else:
            path = Path(options.source)
            if not path.exists():
                raise OptionsRefused(f"there is no {path}", "name a Parquet file, a folder of them, or http://...")
            table = Table.read_parquet(path)
        figures = figures_of(table, idle_w=idle_w)
        paths = draw(table, options.out, figures, paper=options.paper)
    except TableError as error:
        raise OptionsRefused(str(error), "see `onboard report --help`") from None
    if options.json:
        print(json.dumps(figures.as_json() | {"pictures": [str(path) for path in paths]}))
    else:
        print(f"{text_of(figures)}\npictures: {paths[0]} {paths[1]}")
    return 0


def _fetched(url: str, since_s: float | None, step_s: float) -> tuple[Table, float | None]:
    """History of a service, page by page, and its calibrated idle power."""
    from telemetry.table import Table

    pages = []
    asked: dict[str, Any] = {"step": step_s, "limit": 5000}
    if since_s is not None:
        asked["since"] = int(-1000 * abs(since_s))
    while True:
        told = _get(f"{url}/telemetry/history?{urllib.parse.urlencode(asked)}")
        pages.append(Table.of_json(told["columns"]))
        if told["next"] is None:
            return Table.joined(pages), _get(f"{url}/telemetry")["power"]["idle_w"]
        asked["since"] = told["next"]


def _get(url: str) -> Any:
    request = urllib.request.Request(url)  # noqa: S310 -- http or https, looked at above
    if token := os.environ.get(TOKEN):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        refused = error.code in (401, 403)
        remedy = f"put a token with the role telemetry into {TOKEN}" if refused else "check the address"
        raise OptionsRefused(f"{url.partition('?')[0]} answers {error.code}", remedy) from None
    except (OSError, ValueError) as error:
        remedy = "check the address, and that the service runs"
        raise OptionsRefused(f"{url.partition('?')[0]}: {error}", remedy) from None


def _calibrate(options: argparse.Namespace) -> int:
    from onboard.settings import read_settings

    told = calibrate(read_settings(), options.seconds)
    if options.json:
        print(json.dumps(told))
        return 0
    for rail, watts in told["idle_w"].items():
        print(f"{rail.partition(':')[2]:<18} {watts:.3f} W at rest, over {told['measured_s'][rail]:.0f} s")
    print(f"kept in {told['file']}")
    return 0


def calibrate(
    settings: Any, seconds: float, sleep: Callable[[float], None] = time.sleep, sources: Any = None
) -> dict[str, Any]:
    """Measures every power rail for so long and keeps the means in the data folder.

    Raises:
        OptionsRefused: a scene is being mapped, or there is nothing that measures power.
    """
    from onboard.jobs.sampling import idle_path
    from telemetry import discover
    from telemetry.sampler import Sampler

    if not seconds > 0:
        raise OptionsRefused(f"--seconds is {seconds:g}", "give more than 0; a minute is usual")
    _check_at_rest(settings)
    found = discover.sources(settings.telemetry_root) if sources is None else sources
    sampler = Sampler(found, interval_s=1 / settings.sample_hz)
    end = sampler.clock() + seconds
    while sampler.clock() < end:
        sampler.turn()
        sleep(sampler.interval_s)
    _check_at_rest(settings)
    energy = {name: one for name, one in sampler.energy.items() if one.mean_w is not None}
    if not energy:
        raise OptionsRefused("no source of power was found", "`onboard doctor` says what is missing and why")
    told = {
        "idle_w": {name: round(one.mean_w or 0.0, 4) for name, one in energy.items()},
        "measured_s": {name: round(one.covered_s, 2) for name, one in energy.items()},
    }
    path = idle_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)
    return told | {"file": str(path)}


def _check_at_rest(settings: Any) -> None:
    from onboard.jobs.ledger import Ledger

    if not settings.ledger_path.exists():
        return
    with Ledger(settings.ledger_path) as ledger:
        running = ledger.running()
    if running:
        raise OptionsRefused(f"scene {running[0].id} is being mapped", "calibrate when nothing is: see `ground status`")
