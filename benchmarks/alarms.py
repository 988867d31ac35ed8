"""False alarms of the memory checks over scenes of changing shapes (docs/radiation.md): `python -m benchmarks.alarms`.

An engine is opened and guarded as in the service. Scenes of noise come one after the other, with tiles of sides drawn
from those that the model takes, half of them squares. Between tiles the memory is looked at, and after each scene the
engine is checked. Nothing flips a bit: what is reported is a false alarm. Some ten seconds an opening.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.errors import ConstantsChanged
from engines.open import load_runtime
from onboard.processes.engine_guard import CheckSchedule, EngineGuard
from onboard.processes.engine_opening import shipped_engine
from onboard.settings import Settings, read_settings

_LOOKS_SHARE = 0.3
"""Of the tiles, those before which the memory is looked at: the service looks every ten seconds."""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints each alarm, and how many there were."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alarms", description=__doc__)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--heads", default="", help="as ONBOARD_HEADS")
    parser.add_argument("--openings", type=int, default=6)
    parser.add_argument("--scenes", type=int, default=20, help="of each opening, fewer where an alarm ends it")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings(data_dir=Path(folder), backend=arguments.backend, heads=arguments.heads)
        _run(settings, arguments)


def _run(settings: Settings, arguments: argparse.Namespace) -> None:
    draw = random.Random(arguments.seed)  # noqa: S311 -- no secret
    guard = EngineGuard(
        lambda: shipped_engine(settings), CheckSchedule.of(settings), prepare=lambda: load_runtime(settings.backend),
        log_event=lambda _severity, kind, text: print(f"{kind}: {text}"),
    )  # fmt: skip
    scenes = alarms = 0
    for _ in range(arguments.openings):
        engine = guard.open()
        try:
            for _ in range(arguments.scenes):
                scenes += 1
                _map_a_scene(guard, engine.tile_sides, draw)
        except ConstantsChanged as error:
            alarms += 1
            print(error)
    guard.close()
    print(f"{engine.backend}: {alarms} false alarms in {scenes} scenes over {arguments.openings} openings")


def _map_a_scene(guard: EngineGuard, sides: Sequence[int], draw: random.Random) -> None:
    height = draw.choice(sides)
    width = height if draw.random() < 0.5 else draw.choice(sides)
    noise = np.random.default_rng(draw.randrange(1 << 30)).integers(0, 256, (1, 3, height, width), dtype=np.uint8)
    for _ in range(draw.choice((1, 1, 3))):
        guard.note_tiles(1, (height, width))
        guard.engine.infer(noise)
        if draw.random() < _LOOKS_SHARE:
            guard.scrub()
    guard.check()


if __name__ == "__main__":
    main()
