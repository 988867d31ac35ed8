"""What the station's commands print for people, and how: nothing of the link's reaches a terminal as it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from ground.text import visible

if TYPE_CHECKING:
    from ground.station import PassReport


QUANTITIES = {
    "power_w": "power", "energy_j": "energy", "temperature_c": "temperature", "clock_hz": "clock", "load": "load",
    "memory_bytes": "memory", "over_current_events": "over-current", "throttle_state": "throttling",
}  # fmt: skip
"""Names for people: the unit stands behind the value."""


class Screen:
    """Lines on standard output and standard error, and at most one progress bar, which makes way for them."""

    def __init__(self) -> None:
        self._bar: Any = None
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")  # a terminal may know fewer characters than a name has

    def line(self, text: str) -> None:
        """A result."""
        self._write(text, sys.stdout)

    def note(self, text: str) -> None:
        """Something that goes wrong."""
        self._write(f"ground: {text}", sys.stderr)

    def table(self, rows: Sequence[dict[str, Any]]) -> None:
        """Rows of one shape under their names, columns aligned, numbers to the right."""
        if not rows:
            self.line("nothing")
            return
        names = list(rows[0])
        cells = [[visible(cell(name, row[name])) for name in names] for row in rows]
        widths = [max(len(name), *(len(row[at]) for row in cells)) for at, name in enumerate(names)]
        # A column of numbers may hold None; True is an int for isinstance().
        right = [any(type(row[name]) is int for row in rows) for name in names]

        def line(texts: Sequence[str]) -> str:
            padded = (
                text.rjust(width) if to_right else text.ljust(width)
                for text, width, to_right in zip(texts, widths, right, strict=True)
            )  # fmt: skip
            return "  ".join(padded).rstrip()

        head = line(names)
        underlined = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        # Every cell is made visible above, so these are the only escapes that reach the terminal.
        sys.stdout.write(f"\x1b[4m{head}\x1b[0m\n" if underlined else f"{head}\n")
        sys.stdout.writelines(f"{line(row)}\n" for row in cells)

    def _write(self, text: str, stream: TextIO) -> None:
        if self._bar is None:
            print(visible(text), file=stream, flush=True)
        else:
            # tqdm takes the bar away, writes, and draws it again; a plain print would break it.
            self._bar.write(visible(text), file=stream)
            stream.flush()

    @contextmanager
    def progress(self, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
        """A bar on a terminal, nothing elsewhere."""
        if not shown:
            yield None
            return
        from tqdm import tqdm

        with tqdm(unit="B", unit_scale=True, leave=False) as bar:

            def move(done: int, total: int) -> None:
                # Each plan of a pass has another total.
                bar.total = total
                bar.update(done - bar.n)

            self._bar = bar
            try:
                yield move
            finally:
                self._bar = None


def cell(name: str, value: object) -> str:
    """One cell of a listing, of the column ``name``."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return size(value) if name.endswith("bytes") else f"{value:,}"
    return str(value if value is not None else "-")


def size(count: float) -> str:
    """Bytes in the unit that a person reads: 812 B, 4.2 MB, 48.8 GB; decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        # By what is shown after rounding: 999.7 kB is 1.0 MB, never 1000 kB.
        if abs(count) < 999.5 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("GB takes all that is left")


def count(number: int, noun: str) -> str:
    """A number of things: 1 map, 2 maps."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def report_line(report: PassReport) -> str:
    """What a pass brought."""
    others = report.files - len(report.maps)
    coarse = f", {count(len(report.coarse), 'coarse map')}" if report.coarse else ""
    again = f" ({size(report.repeated_bytes)} of them again)" if report.repeated_bytes else ""
    left = f"; {count(report.left, 'file')} left" if report.left else ""
    left += f"; {count(len(report.damaged), 'map')} damaged" if report.damaged else ""
    left += f"; {count(len(report.gone), 'map')} gone aboard" if report.gone else ""
    maps, files = count(len(report.maps), "map"), count(others, "other file")
    maps += f" ({len(report.rebuilt)} of them made of changes)" if report.rebuilt else ""
    return f"{maps}{coarse} and {files}, {size(report.received_bytes)}{again}{left}"


def status_lines(snapshot: dict[str, Any]) -> list[str]:
    """A telemetry snapshot."""
    disk, speed = snapshot["disk"], snapshot["tiles_per_s"]
    scenes = [f"{count} {state}" for state, count in snapshot["scenes"].items() if count]
    lines = [
        "engine    " + _engine(snapshot["engine"]),
        "now       " + _work(snapshot),
        "speed     "
        + (
            f"{speed:.2f} tiles/s, mean of the last minute"
            if speed is not None
            else "nothing mapped in the last minute"
        ),
        "scenes    " + (", ".join(scenes) or "none"),
        f"disk      {size(disk['free_bytes'])} free, {size(disk['reserve_bytes'])} of them reserved",
        "power     " + _power(snapshot["power"]),
        "governor  " + ": ".join(part for part in (snapshot["governor"]["state"], snapshot["governor"]["why"]) if part),
    ]
    cells = [
        (QUANTITIES.get(row["quantity"], row["quantity"]), row["source"], row["rail"]) for row in snapshot["readings"]
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row, parts in zip(snapshot["readings"], cells, strict=True):
        padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
        lines.append("  ".join([*padded, _value(row)]))
    return lines


def _engine(engine: dict[str, Any]) -> str:
    backend, precision = engine["backend"], engine["precision"]
    # A backend of one precision has it in its name: openvino-bf16.
    shown = "" if backend.endswith(f"-{precision}") else precision
    return " ".join(part for part in (engine["state"], backend, shown, engine["model"], engine["problem"]) if part)


def _value(reading: dict[str, Any]) -> str:
    if reading["value"] is None:
        return f"no value: {reading['reason']}"
    if reading["unit"] == "By":
        return size(reading["value"])
    if reading["unit"] == "Hz":
        return f"{reading['value'] / 1e6:,.0f} MHz"
    if reading["unit"] == "1":
        return f"{reading['value']:g}"
    return f"{reading['value']:g} {reading['unit'].replace('Cel', '°C')}"


def watch_line(snapshot: dict[str, Any]) -> str:
    """A telemetry snapshot in one line."""
    speed = snapshot["tiles_per_s"]
    rate = "nothing mapped in the last minute" if speed is None else f"{speed:.2f} tiles/s in the last minute"
    power = snapshot["power"]["power_w"]
    watts = "no power source" if power is None else f"{power:.2f} W"
    parts = [snapshot["at"]["utc"], snapshot["engine"]["state"], _work(snapshot), rate, watts]
    return "  ".join([*parts, f"{snapshot['scenes']['queued']} queued"])


def _work(snapshot: dict[str, Any]) -> str:
    if not snapshot["scene"]:
        return "idle"
    return f"{snapshot['scene']} {snapshot['tiles_done']}/{snapshot['tiles_all']} tiles"


def _power(power: dict[str, Any]) -> str:
    if power["power_w"] is None:
        return f"not measured: {power['reason']}"
    net = "" if power["net_w"] is None else f", {power['net_w']:.2f} W above rest"
    mode = f", mode {power['mode']}" if power["mode"] else ""
    return f"{power['power_w']:.2f} W ({power['rail']}){net}{mode}"
