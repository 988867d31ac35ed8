"""How fast the console opens with 1,000 maps and a month of telemetry, in a real browser.

Milliseconds are the page's own, from the navigation's begin until the view is drawn; on a machine with other work they
say little without the processor's time beside them: of the browser (all its processes) and of the console's server.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.demo_history import write_history
from benchmarks.spread import spread
from tests.ground.console.browser import browser, find, until
from tests.ground.console.conftest import console
from tests.ground.console.made import SIDE, STEP, write_made_map

_MARKED = "return performance.getEntriesByName(arguments[0])[0]?.startTime ?? null"
_LOADED = "return performance.getEntriesByType('navigation')[0].loadEventEnd || null"
_BYTES = "return performance.getEntriesByType('resource').reduce((sum, entry) => sum + entry.transferSize, 0)"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
VIEWS = {"map": "map drawn", "curves": "curves drawn"}
"""Views, and the mark that each sets once it is drawn."""


@dataclass
class _Openings:
    """Of one view: milliseconds until drawn, the processors' milliseconds of browser and server, bytes that came."""

    drawn_ms: list[float] = field(default_factory=list)
    browser_ms: list[float] = field(default_factory=list)
    server_ms: list[float] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)

    def line(self, name: str) -> str:
        """First opening, then the median of the others."""
        # The first opening fills the browser's cache and the server's index: it stands by itself.
        rest = slice(1, None) if len(self.drawn_ms) > 1 else slice(None)
        figures = [statistics.median(values[rest]) for values in (self.browser_ms, self.server_ms)]
        return (
            f"{name:<22} {self.drawn_ms[0]:6.0f} {spread(self.drawn_ms[rest]):>36} "
            f"{figures[0]:8.0f} {figures[1]:7.0f} {self.bytes[0] / 1e3:8.0f}"
        )


def opening_times(folder: Path, *, quick: bool) -> None:
    """Prints how long each view takes to open, and what takes the time."""
    maps, days, rounds = (100, 3, 2) if quick else (1000, 30, 7)
    station = folder / "console"
    shutil.rmtree(station, ignore_errors=True)
    for number in range(maps):
        write_made_map(station / "maps", f"m{number:05d}", shift=-230 + 1.9 * STEP * SIDE * number * 70)
    for step_s in (60.0, 10.0):
        telemetry = station / f"telemetry-{step_s:g}s"
        rows = write_history(telemetry, end_s=time.time(), days=days, step_s=step_s)
        began = time.perf_counter()
        options = ("--dest", str(station / "maps"), "--telemetry", str(telemetry))
        with console(*options) as address, browser() as driver:
            print(f"{maps:,} maps, {days} days of telemetry in {rows:,} rows of {step_s:g} s")
            print(f"the console listens, and the browser is up, after {time.perf_counter() - began:.1f} s")
            print(f"{'':<22} {'first':>6} {'ms until drawn, then':>36} {'browser':>8} {'server':>7} {'kB first':>8}")
            for view, mark in VIEWS.items() if step_s == 60 else [("curves", VIEWS["curves"])]:
                print(_openings(driver, f"{address}/#{view}", mark, rounds).line(f"{view} (under 1,000)"))
            print(_openings(driver, f"{address}/static/icon.svg", None, rounds).line("a picture alone"))
            with httpx.Client(base_url=address, timeout=60) as client:
                for path in ("/api/outlines", "/api/maps?limit=50", "/api/curves", "/api/live"):
                    times = _timed(rounds, lambda path=path: client.get(path))  # type: ignore[misc]
                    print(f"server: {path:<20} {spread(times)} ms")


def _openings(driver: Any, url: str, mark: str | None, rounds: int) -> _Openings:
    # `console` starts the server as a child of this process; its address does not tell its number.
    server = next(pid for pid in _children(os.getpid()) if "ground.cli" in _command(pid))
    openings = _Openings()
    for _ in range(rounds + 1):
        # In between: an address that differs in its fragment alone loads nothing.
        driver.get("about:blank")
        before = _cpu_ms(driver.service.process.pid), _cpu_ms(server)
        driver.get(url)
        if mark is None:
            drawn = until(driver, lambda: driver.execute_script(_LOADED), "the picture")
        else:
            drawn = until(driver, lambda: find(driver, "main") and driver.execute_script(_MARKED, mark), mark)
        openings.drawn_ms.append(float(drawn))
        # All of the driver's children: Chromium has a process for each of page, network and graphics.
        openings.browser_ms.append(_cpu_ms(driver.service.process.pid) - before[0])
        openings.server_ms.append(_cpu_ms(server) - before[1])
        openings.bytes.append(float(driver.execute_script(_BYTES)) if mark is not None else 0.0)
    return openings


def _timed(rounds: int, ask: Callable[[], httpx.Response]) -> list[float]:
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        ask().raise_for_status()
        found.append(1e3 * (time.perf_counter() - begin))
    return found


def _cpu_ms(pid: int) -> float:
    """Milliseconds of processors that a process, its children and those of them that ended have taken."""
    try:
        # After the name, which may hold spaces: utime, stime, cutime, cstime are fields 14 to 17 of proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return 1e3 * _TICK_S * sum(map(int, fields[11:15])) + sum(_cpu_ms(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    try:
        texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for text in texts for child in text.split()]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
