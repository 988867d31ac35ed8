"""jtop in a process of its own: `python -m telemetry.sources.jtop_process`, a line of JSON a second.

Apart, because jetson-stats is AGPL-3.0 and optional, and because importing it sets the start method of multiprocessing
for the whole process. It ends with its input. A line "mode NAME" on the input sets the power mode.
Source: documentation of jetson-stats 7.2 (jtop.power, .temperature, .gpu, .nvpmodel, .uptime).
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import Any

_REMEDIES = {
    "not active": "start jtop.service; in a container mount the folder of /run/jtop.sock, for a restart makes it anew",
    "can't access": "join the jtop group; for a container --group-add the host's",
    "mismatch": "install here the jetson-stats of the service: its major and minor version, and its Python",
}
_OTHERWISE = "restart jtop.service; see journalctl -u jtop.service"


def message_of(jetson: Any) -> dict[str, Any]:
    """One state of jtop as a message: W, degrees Celsius, loads 0..1, mode, and modes that need a reboot."""
    loads = {}
    for name, gpu in (jetson.gpu or {}).items():
        loads[name] = (gpu.get("status") or {}).get("load") if isinstance(gpu, dict) else None
    return {
        # jtop gives milliwatts and percent.
        "watts": {name: None if value is None else value / 1e3 for name, value in _milliwatts(jetson.power).items()},
        "celsius": {
            name: value.get("temp") if isinstance(value, dict) else value for name, value in jetson.temperature.items()
        },
        "load": {name: None if value is None else value / 100 for name, value in loads.items()},
        **_modes(jetson.nvpmodel),
    }


def _milliwatts(power: Any) -> dict[str, float | None]:
    parts, total = (power or {}).get("rail") or {}, (power or {}).get("tot") or {}
    rails = {name: rail.get("power") for name, rail in parts.items()}
    if total.get("name"):
        rails[str(total["name"])] = total.get("power")
    elif total:
        # A sum: where jtop could read no rail, it says 0 of them.
        rails["total"] = total.get("power") if rails else None
    return rails


def _modes(nvpmodel: Any) -> dict[str, Any]:
    names = list(getattr(nvpmodel, "models", None) or [])
    settable = list(getattr(nvpmodel, "status", None) or [])
    now = None
    with suppress(KeyError, TypeError, AttributeError):  # what jtop raises where nvpmodel gave it no answer
        now = nvpmodel.name
    marked = [name for name, may in zip(names, settable, strict=False) if not may]
    return {"mode": now, "modes": names, "marked": marked}


def main() -> None:
    """Prints jtop's state until stdin ends; any failure is printed as a problem with its remedy."""
    # One thread appends while the other takes: a deque needs no lock for that.
    wanted: deque[str] = deque()
    threading.Thread(target=_listen, args=(wanted,), daemon=True).start()
    try:
        import jtop  # type: ignore[import-not-found, unused-ignore]

        _follow(jtop, wanted)
    except ImportError as error:
        gone = "is not installed" if getattr(error, "name", "") == "jtop" else f"cannot be imported: {error}"
        remedy = f"{sys.executable} -m pip install jetson-stats, of the host's version"
        _send(problem=f"jetson-stats {gone}", remedy=remedy)
    except Exception as error:  # noqa: BLE001 -- jtop lets through queue.Empty, EOFError and what the service raised
        text = " ".join(str(error).split()) or type(error).__name__
        remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in text.lower()), _OTHERWISE)
        _send(problem=f"jtop: {text}", remedy=remedy)


def _follow(jtop: Any, wanted: deque[str]) -> None:
    before = None
    with jtop.jtop(interval=1.0) as jetson:
        while jetson.ok():
            if wanted:
                with suppress(jtop.JtopException):  # the board has no such mode: the mode that stays says so
                    jetson.nvpmodel = wanted.popleft()
            # When its service hangs jtop gives the same state again and again; only the uptime in it tells.
            if before is None or jetson.uptime != before:
                _send(**message_of(jetson))
            before = jetson.uptime
    _send(problem="jtop: its service has sent nothing for three intervals", remedy=_OTHERWISE)


def _listen(wanted: deque[str]) -> None:
    for line in sys.stdin:
        verb, _, name = line.strip().partition(" ")
        if verb == "mode":
            wanted.append(name)
    os._exit(0)  # the parent has gone; jtop may block, so do not wait for it


def _send(**message: Any) -> None:
    print(json.dumps(message), flush=True)  # noqa: T201 -- the parent reads it


if __name__ == "__main__":
    main()
