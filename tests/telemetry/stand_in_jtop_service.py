"""A stand-in for jtop.service behind jetson-stats' own manager: `python FILE SOCKET VERSION`; it never touches a board.

Answers as JtopServer.run of 7.2 does; VERSION "own" is that of the package here. It ends with its input.
"""

from __future__ import annotations

import queue
import re
import sys
import threading
from typing import Any

POWER = {"volt": 19000, "curr": 1000, "power": 19000, "avg": 1, "online": True}
MODES = ["MAXN", "10W", "15W", "25W"]
DATA: dict[str, Any] = {
    "uptime": 1.0, "gpu": {"gpu": {"type": "integrated", "status": {"load": 50.0}}}, "mem": {}, "fan": {},
    "power": {"rail": {"VDD_SOC": POWER | {"power": 3800}}, "tot": POWER | {"name": "VDD_IN"}},
    "temperature": {"cpu": {"temp": 48.5, "online": True}, "cv0": {"temp": -256, "online": False}},
    "nvp": {"status": [True, False, True, True], "thread": False, "model": {"name": "25W", "id": 3}},
}  # fmt: skip


def answer(commands: queue.Queue[dict[str, Any]], event: threading.Event, version: str) -> None:
    configuration = {
        "version": version, "board": {"hardware": {}}, "interval": 1.0, "memory": "", "fan": {}, "jc": False,
        "nvpmodel": {"models": MODES, "default": {"name": "25W", "id": 3}},
    }  # fmt: skip
    while True:
        try:
            control = commands.get(timeout=0.1)
        except queue.Empty:
            DATA["uptime"] += 1.0
            event.set()
            continue
        if "init" in control:
            commands.put(control)
        if "nvp" in control and not control["nvp"]["force"]:
            number = control["nvp"]["id"]
            DATA["nvp"] = DATA["nvp"] | {"model": {"name": MODES[number], "id": number}}
        if "interval" in control:
            commands.put({"init": configuration})


def main(path: str, version: str) -> None:
    import jtop  # type: ignore[import-not-found, unused-ignore]
    from jtop import service  # type: ignore[import-not-found, unused-ignore]

    service.JTOP_PIPE = path
    commands: queue.Queue[dict[str, Any]] = queue.Queue()
    event = threading.Event()
    service.JtopManager.register("get_queue", callable=lambda: commands)
    service.JtopManager.register("sync_data", callable=lambda: DATA)
    service.JtopManager.register("sync_event", callable=lambda: event)
    server = service.JtopManager().get_server()
    version = re.sub("^own$", jtop.__version__, version)
    threading.Thread(target=answer, args=(commands, event, version), daemon=True).start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
