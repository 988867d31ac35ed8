"""`onboard report` and `onboard calibrate`: power over time, and the power at rest."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onboard.errors import OptionsRefused

if TYPE_CHECKING:
    from telemetry.table import Table

LONGEST_ANSWER, ANSWER_S, MOST_PAGES = 32 << 20, 120.0, 5000
"""Bytes and seconds of a page of history, and pages: ten million rows."""


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
    calibrate = commands.add_parser("calibrate", help="measure this machine's power at rest")
    calibrate.add_argument("--seconds", type=float, default=60.0, help="how long to measure (default: 60)")
    calibrate.add_argument("--json", action="store_true", help="machine-readable")
    calibrate.set_defaults(command=_calibrate)


def _report(options: argparse.Namespace) -> int:
    from telemetry.report import draw, figures_of, text_of
    from telemetry.table import Table, TableError

    for name in ("since", "step", "idle_w"):
        if math.isnan(getattr(options, name) or 0.0):
            raise OptionsRefused(f"--{name.replace('_', '-')} is no number", "see `onboard report --help`")
    try:
        idle_w = options.idle_w
        if options.source.startswith(("http://", "https://")):
            table, calibrated = _fetched(options.source.rstrip("/"), options.since, options.step)
            idle_w = calibrated if idle_w is None else idle_w
        else:
            path = Path(options.source)
            if not _exists(path):
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


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, a zero byte in it
        return False


def _fetched(url: str, since_s: float | None, step_s: float) -> tuple[Table, float | None]:
    """History of a service, page by page, and its calibrated idle power."""
    from telemetry.table import Table

    pages = []
    query: dict[str, Any] = {"step": step_s, "limit": 5000}
    if since_s is not None:
        # The service counts back from now where it is negative. The bound is for infinity, which is no int.
        query["since"] = int(-1000 * min(abs(since_s), 1e12))
    for _ in range(MOST_PAGES):
        page = _get(f"{url}/telemetry/history", query)
        try:
            pages.append(Table.of_json(page["columns"]).with_step(page.get("step_s")))
            following = page["next"]
        except (KeyError, TypeError, AttributeError):
            raise _no_history(url) from None
        if following is None:
            return Table.joined(pages), _idle_of(url)
        # A `next` that does not grow would be followed for ever; type() and not isinstance, since True is an int.
        if type(following) is not int or following <= query.get("since", -1) or not len(pages[-1]):
            raise _no_history(url)
        query["since"] = following
    raise OptionsRefused(f"the history of {url} has no end", "give --since")


def _idle_of(url: str) -> float | None:
    try:
        idle_w = _get(f"{url}/telemetry", {})["power"]["idle_w"]
        return None if idle_w is None else float(idle_w)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _no_history(url) from None


def _no_history(url: str) -> OptionsRefused:
    return OptionsRefused(f"{url} gives no history as an onboard service does", "check the address")


def _get(url: str, query: dict[str, Any]) -> Any:
    """A JSON answer, bounded in size and time; redirects are not followed, for the token must not go elsewhere."""
    import httpx

    from onboard.settings import TOKEN

    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.stream("GET", url, params=query, headers=headers, timeout=30) as answer:
            # httpx's timeout is for each read: a byte now and then would keep it waiting without an end.
            body, end = bytearray(), time.monotonic() + ANSWER_S
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > LONGEST_ANSWER or time.monotonic() > end:
                    raise OptionsRefused(f"{url} answers without end", "check the address")
        if answer.status_code != 200:
            refused = answer.status_code in (401, 403)
            remedy = f"put a token with the role telemetry into {TOKEN}" if refused else "check the address"
            raise OptionsRefused(f"{url} answers {answer.status_code}", remedy)
        return json.loads(body)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise OptionsRefused(f"{url}: {reason}", "check the address, and that the service runs") from None


def _calibrate(options: argparse.Namespace) -> int:
    from onboard.settings import read_settings

    calibration = calibrate(read_settings(), options.seconds)
    if options.json:
        print(json.dumps(calibration))
        return 0
    for rail, watts in calibration["idle_w"].items():
        print(f"{rail.partition(':')[2]:<18} {watts:.3f} W at rest, over {calibration['measured_s'][rail]:.0f} s")
    print(f"kept in {calibration['file']}")
    return 0


def calibrate(
    settings: Any, seconds: float, sleep: Callable[[float], None] = time.sleep, sources: Any = None
) -> dict[str, Any]:
    """Measures every power rail for so long and keeps the means in the data folder.

    Raises:
        OptionsRefused: a scene is being mapped, or there is nothing that measures power.
    """
    from engines.files import replace_file
    from onboard.power.idle_power import idle_path
    from telemetry import discover
    from telemetry.sampler import Sampler

    if not seconds > 0:
        raise OptionsRefused(f"--seconds is {seconds:g}", "give more than 0; a minute is usual")
    _check_at_rest(settings)
    available = discover.sources(settings.telemetry_root) if sources is None else sources
    sampler = Sampler(available, interval_s=1 / settings.sample_hz)
    end = sampler.clock() + seconds
    while sampler.clock() < end:
        sampler.turn()
        sleep(sampler.interval_s)
    # Once more: a scene that began meanwhile is in the mean.
    _check_at_rest(settings)
    # A rail that gave no value has no mean; 0 W would be taken for measured.
    energy = {name: rail for name, rail in sampler.energy.items() if rail.mean_w is not None}
    if not energy:
        raise OptionsRefused("no source of power was found", "`onboard doctor` says what is missing and why")
    calibration = {
        "idle_w": {name: round(rail.mean_w or 0.0, 4) for name, rail in energy.items()},
        "measured_s": {name: round(rail.covered_s, 2) for name, rail in energy.items()},
    }
    path = idle_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(calibration, indent=1) + "\n").encode())
    return calibration | {"file": str(path)}


def _check_at_rest(settings: Any) -> None:
    from onboard.jobs.ledger import Ledger

    if not settings.ledger_path.exists():
        return
    with Ledger(settings.ledger_path) as ledger:
        running = ledger.scenes.running()
    if running:
        raise OptionsRefused(f"scene {running[0].id} is being mapped", "calibrate when nothing is: see `ground status`")
