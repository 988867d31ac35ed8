"""What the station's commands print for people, and how: nothing of the link's reaches a terminal as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from ground.text import visible

if TYPE_CHECKING:
    from ground.station import PassReport


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

    def _write(self, text: str, stream: TextIO) -> None:
        if self._bar is None:
            print(visible(text), file=stream, flush=True)
        else:
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

            def move(done: int, every: int) -> None:
                bar.total = every
                bar.update(done - bar.n)

            self._bar = bar
            try:
                yield move
            finally:
                self._bar = None


def cell(value: object) -> str:
    """One cell of a listing."""
    if isinstance(value, bool):
        return "yes" if value else "no "
    return f"{value:>12,}" if isinstance(value, int) else str(value if value is not None else "-")


def report_line(report: PassReport) -> str:
    """What a pass brought."""
    others = report.files - len(report.maps)
    coarse = f", {len(report.coarse)} coarse maps" if report.coarse else ""
    again = f" ({report.repeated_bytes:,} of them again)" if report.repeated_bytes else ""
    left = f"; {report.left} files left" if report.left else ""
    left += f"; {len(report.damaged)} maps damaged" if report.damaged else ""
    left += f"; {len(report.gone)} maps gone aboard" if report.gone else ""
    return f"{len(report.maps)} maps{coarse} and {others} other files, {report.received_bytes:,} bytes{again}{left}"


def status_lines(told: dict[str, Any]) -> list[str]:
    """A telemetry snapshot."""
    engine, disk, speed = told["engine"], told["disk"], told["tiles_per_s"]
    said = [engine[key] for key in ("state", "backend", "precision", "model", "problem")]
    scenes = [f"{count} {state}" for state, count in told["scenes"].items() if count]
    lines = [
        "engine    " + " ".join(part for part in said if part),
        "now       " + _work(told),
        "speed     " + (f"{speed:.2f} tiles/s" if speed is not None else "nothing mapped in the last minute"),
        "scenes    " + (", ".join(scenes) or "none"),
        f"disk      {disk['free_bytes'] / 1e9:.1f} GB free, {disk['reserve_bytes'] / 1e9:.1f} GB of them kept",
        "power     " + _power(told["power"]),
        "governor  " + ": ".join(part for part in (told["governor"]["state"], told["governor"]["why"]) if part),
    ]
    for reading in told["readings"]:
        unit = reading["unit"].replace("Cel", "°C").replace("By", "B")
        value = f"no value: {reading['reason']}" if reading["value"] is None else f"{reading['value']:g} {unit}"
        lines.append(f"{reading['quantity']:<13} {reading['source']} {reading['rail']}  {value}")
    return lines


def watch_line(told: dict[str, Any]) -> str:
    """A telemetry snapshot in one line."""
    speed = "-" if told["tiles_per_s"] is None else f"{told['tiles_per_s']:.2f}"
    power = told["power"]["power_w"]
    watts = "no power source" if power is None else f"{power:.2f} W"
    parts = [told["at"]["utc"], told["engine"]["state"], _work(told), f"{speed} tiles/s", watts]
    return "  ".join([*parts, f"{told['scenes']['queued']} queued"])


def _work(told: dict[str, Any]) -> str:
    return f"{told['scene']} {told['tiles_done']}/{told['tiles_all']} tiles" if told["scene"] else "idle"


def _power(power: dict[str, Any]) -> str:
    if power["power_w"] is None:
        return f"not measured: {power['reason']}"
    net = "" if power["net_w"] is None else f", {power['net_w']:.2f} W above rest"
    mode = f", mode {power['mode']}" if power["mode"] else ""
    return f"{power['power_w']:.2f} W ({power['rail']}){net}{mode}"
