"""`ground console`: checks what it is given, binds, prints the address, serves."""

from __future__ import annotations

import ipaddress
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ground.errors import AskedWrong
from ground.show import count
from ground.text import visible

if TYPE_CHECKING:
    from ground.console.state import Console

HTTP_PORT = 80
_PACKAGE = "rio_tiler"


@dataclass(frozen=True)
class ConsoleOptions:
    """What the command line says.

    Attributes:
        maps: folder of `ground pull`.
        telemetry: folder of `ground telemetry`.
        scenes: folder of the scenes, where they are on this machine.
        url: of the satellite's service.
        token, operator_token: for reading, and for actions.
        host, port: to listen on.
        name: shown on the page.
        orbit_s: seconds an orbit.
        stall_s: silence after which a connection to the satellite is given up.
    """

    maps: Path
    telemetry: Path | None = None
    scenes: Path | None = None
    url: str | None = None
    token: str | None = None
    operator_token: str | None = None
    host: str = "127.0.0.1"
    port: int = 8050
    name: str = ""
    orbit_s: float = 5700.0
    stall_s: float = 15.0


def serve_console(options: ConsoleOptions, say: Callable[[str], None]) -> None:
    """Serves until interrupted.

    Raises:
        AskedWrong: a package or a folder is missing, or the address cannot be had.
    """
    try:
        import rio_tiler  # noqa: F401
        import uvicorn

        from ground.console.app import app_of
        from ground.console.events import EventFile
        from ground.console.history import HistoryFiles
        from ground.console.index import MapIndex
        from ground.console.satellite import Satellite
        from ground.console.scenes import SceneFolder
        from ground.console.state import Console
    except ImportError as error:
        # A package that is broken, or another one that is missing, is not mended by installing rio-tiler.
        if error.name != _PACKAGE:
            raise
        remedy = f"{sys.executable} -m pip install 'rio-tiler>=7,<10' pyarrow (the extra console)"
        raise AskedWrong("the console needs rio-tiler, and pyarrow for its curves", remedy) from None
    _check(options)
    maps, events = MapIndex(options.maps), EventFile(options.telemetry)
    satellite = Satellite(
        options.url, token=options.token, operator_token=options.operator_token, stall_s=options.stall_s,
        stored=lambda: events.stored()[-1].sequence if events.stored() else 0,
    )  # fmt: skip
    console = Console(
        maps, satellite, events, HistoryFiles(options.telemetry) if options.telemetry else None,
        SceneFolder(options.scenes), visible(options.name), options.orbit_s,
    )  # fmt: skip
    names = _names(options.host)
    # Bound before the address is printed: it is the one that was got, also with --port 0.
    listening = _bound(options)
    port = listening.getsockname()[1]
    hosts = own_hosts(names, port)
    maps_held = len(maps.records())
    say(f"{count(maps_held, 'map')} in {options.maps}; console on http://{names[0]}:{port}/ (Ctrl-C ends it)")
    # A daemon: Ctrl-C does not wait for a long history.
    threading.Thread(target=read_ahead, args=(console,), daemon=True).start()
    config = uvicorn.Config(app_of(console, hosts), log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])


def read_ahead(console: Console) -> None:
    """Reads what was pulled before a page asks: a month of 10 s takes a third of a second of a processor."""
    from ground.console.history import NoHistory

    console.events.stored()
    if console.history is not None:
        with suppress(NoHistory, OSError):  # said where a page asks
            console.history.curves(None, None, 1, console.orbit_s)


def _check(options: ConsoleOptions) -> None:
    if not options.maps.is_dir():
        raise AskedWrong(f"{options.maps}: no such folder", f"`ground pull URL --dest {options.maps}` makes it")
    folders = {
        "--telemetry": (options.telemetry, f"`ground telemetry URL --dest {options.telemetry}` makes it"),
        "--scenes": (options.scenes, "name one that is there"),
    }
    for name, (folder, remedy) in folders.items():
        if folder is not None and not folder.is_dir():
            raise AskedWrong(f"{name} {folder}: no such folder", f"{remedy}, or leave the option out")
    if options.operator_token is not None and options.url is None:
        raise AskedWrong("an operator's token needs a satellite", "give the address of its service")
    # The page knows no users: who reaches it may do what its token may.
    if not _is_loopback(options.host) and options.operator_token is not None:
        raise AskedWrong(
            f"--host {options.host}: everyone who reaches the page could command the satellite",
            "leave --operator-token-file out, or listen on 127.0.0.1",
        )


def own_hosts(names: list[str], port: int) -> list[str]:
    """Values of Host by which browsers ask for these names; the port of the scheme is left out (RFC 9110, 7.2)."""
    hosts = [f"{name}:{port}" for name in names]
    return [*hosts, *names] if port == HTTP_PORT else hosts


def _bound(options: ConsoleOptions) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        # The protocol by its number: without it asyncio leaves Nagle's algorithm on, and an answer takes 40 ms more.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise _not_bound(options, error) from None
    try:
        # Else a console that has just ended holds its port for a minute (TIME_WAIT).
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((options.host, options.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise _not_bound(options, error) from None
    return listening


def _not_bound(options: ConsoleOptions, error: OSError) -> AskedWrong:
    reason = (error.strerror or str(error)).lower()
    return AskedWrong(f"{options.host}:{options.port}: {reason}", "choose another --host or --port")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _names(host: str) -> list[str]:
    """Names by which a browser may ask for it.

    Raises:
        AskedWrong: an address that stands for all of this machine's has no name to check.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return [host]
    if address.is_unspecified:
        raise AskedWrong(f"--host {host} stands for every address", "name the one that browsers will use")
    # As it stands in a Host and in an address (RFC 3986, 3.2.2).
    own = f"[{host}]" if address.version == 6 else host
    return [own, "localhost"] if address.is_loopback else [own]
