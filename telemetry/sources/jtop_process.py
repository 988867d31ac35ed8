"""jtop in a process of its own: `python -m telemetry.sources.jtop_process`, a line of JSON a second.

Apart, because jetson-stats is AGPL-3.0 and optional, and because importing it sets the start method of multiprocessing
for the whole process. It ends with its input. A line "mode NAME" on the input sets the power mode.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any


def told_of(jetson: Any) -> dict[str, Any]:
    """What one state of jtop says: watts, degrees, loads as shares, mode."""
    power = jetson.power or {}
    rails = {name: rail.get("power") for name, rail in power.get("rail", {}).items()}
    total = power.get("tot") or {}
    rails[str(total.get("name") or "total")] = total.get("power")
    heat = {
        name: (value.get("temp") if isinstance(value, dict) else value) for name, value in jetson.temperature.items()
    }
    loads = {}
    for name, gpu in (jetson.gpu or {}).items():
        loads[name] = (gpu.get("status") or {}).get("load") if isinstance(gpu, dict) else None
    return {
        "watts": {name: None if value is None else value / 1e3 for name, value in rails.items()},
        "celsius": heat,
        "load": {name: None if value is None else value / 100 for name, value in loads.items()},
        "mode": getattr(jetson.nvpmodel, "name", None),
        "modes": list(getattr(jetson.nvpmodel, "models", None) or []),
    }


def main() -> None:
    """Says what jtop says until the input ends."""

    def say(**told: Any) -> None:
        print(json.dumps(told), flush=True)  # noqa: T201 -- the parent reads it

    try:
        from jtop import JtopException, jtop  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        say(problem="jetson-stats is not installed", remedy="pip install 'onboard-landcover[jetson]'")
        return
    wanted: list[str] = []

    def listen() -> None:
        for line in sys.stdin:
            verb, _, name = line.strip().partition(" ")
            if verb == "mode":
                wanted.append(name)
        wanted.append("")

    threading.Thread(target=listen, daemon=True).start()
    try:
        with jtop(interval=1.0) as jetson:
            while jetson.ok():
                if wanted:
                    name = wanted.pop(0)
                    if not name:
                        return
                    jetson.nvpmodel = name
                say(**told_of(jetson))
    except JtopException as error:
        say(problem=f"jtop: {error}", remedy="start jtop.service; its version must be that of the package here")
    except OSError as error:
        say(problem=f"jtop: {error}", remedy="mount /run/jtop.sock's folder and join the jtop group")


if __name__ == "__main__":
    main()
