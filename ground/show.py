"""What the station's commands print for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ground.station import PassReport


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
