"""What every handler of the console works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from ground.console.events import EventFile
from ground.console.history import HistoryFiles
from ground.console.index import MapIndex
from ground.console.satellite import Satellite
from ground.console.scenes import SceneFolder

DEFAULT_ORBIT_S = 5700.0


@dataclass
class Console:
    """What one console looks at.

    Attributes:
        maps: folder of `ground pull`.
        telemetry: folder of `ground telemetry`, None for none.
        scenes: folder of the scenes, None where they are not here.
        satellite: live, or off.
        name: shown on the page.
        orbit_s: seconds an orbit.
        was_going_on: whether a pass went on when a page last asked.
    """

    maps: MapIndex
    satellite: Satellite
    events: EventFile
    history: HistoryFiles | None = None
    scenes: SceneFolder = field(default_factory=SceneFolder)
    name: str = ""
    orbit_s: float = DEFAULT_ORBIT_S
    was_going_on: bool = False


def console_of(request: Request) -> Console:
    """The console that this request came to."""
    console: Console = request.app.state.console
    return console


TheConsole = Annotated[Console, Depends(console_of)]
