"""A service whose models do harm as a description in their manifest says: `python -m` this module `serve`.

"probe dies": the process that verifies it ends by a signal. "worker dies": it opens there, and kills the worker when it
infers. "memory": likewise, by memory that is not there. "wrong": in the worker it does not give its golden answer. "one
class": all but its golden tile is one class, by the head that says so; by the only one of a model of one graph.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from engines.engine import Engine, Prediction, Tiles
from engines.errors import GoldenFailed
from engines.manifest import Head, Manifest
from engines.verify import golden_tiles
from onboard.api import serve as api
from onboard.models import probe, verification
from onboard.processes import worker
from onboard.processes.engine_opening import shipped_engine
from onboard.processes.supervisor import Supervisor
from onboard.settings import Settings, read_settings

MODULE = "tests.onboard.models.faulty_models"


HARMS = ("probe dies", "worker dies", "wrong", "one class", "memory")


def harm_of(manifest: Manifest) -> str:
    """What the model does; the description of any of its heads may say so."""
    descriptions = (manifest.description, *(head.description for head in all_heads(manifest)))
    return next((harm for harm in HARMS if any(harm in text for text in descriptions)), "")


def all_heads(manifest: Manifest) -> tuple[Head, ...]:
    return manifest.with_heads(manifest.head_names).opened_heads


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def one_class(prediction: Prediction, manifest: Manifest) -> Prediction:
    """One class by each head that says so."""
    if not manifest.opened_heads:
        return replace(prediction, classes=np.ones_like(prediction.classes))
    guilty = [head.name for head in manifest.opened_heads if "one class" in head.description]
    further = {
        name: replace(head, classes=np.ones_like(head.classes)) if name in guilty else head
        for name, head in prediction.further.items()
    }
    is_first = manifest.opened_heads[0].name in guilty
    classes = np.ones_like(prediction.classes) if is_first else prediction.classes
    return replace(prediction, classes=classes, further=further)


def open_engine(settings: Settings) -> Engine:
    """As the worker does, then spoilt."""
    engine = shipped_engine(settings)
    harm, whole, golden = harm_of(engine.manifest), engine.infer, golden_tiles(engine, 1)
    if harm == "wrong":
        raise GoldenFailed(engine.backend, engine.precision, agreement=0.5, required=0.99)

    def infer(tiles: Tiles) -> Prediction:
        if harm == "worker dies" and open_engine.opened:  # type: ignore[attr-defined]
            die()
        if harm == "memory" and open_engine.opened:  # type: ignore[attr-defined]
            np.ones(1 << 50)
        prediction = whole(tiles)
        if harm == "one class" and not np.array_equal(tiles, golden):
            return one_class(prediction, engine.manifest)
        return prediction

    engine.infer = infer  # type: ignore[method-assign]
    open_engine.opened = True  # type: ignore[attr-defined]
    return engine


open_engine.opened = False  # type: ignore[attr-defined]


def main() -> None:
    """Each process of the service, by its verb."""
    verb = sys.argv.pop(1)
    if verb == "probe":
        if harm_of(Manifest.load(Path(sys.argv[2]))) == "probe dies":
            die()
        probe.main()
    elif verb == "work":
        worker.main(open_engine)
    elif verb == "api":
        verification.PROBE[:] = [sys.executable, "-m", MODULE, "probe"]
        api.main()
    else:
        work, answer = ([sys.executable, "-m", MODULE, part] for part in ("work", "api"))
        Supervisor(read_settings(), work, answer, [sys.executable, "-m", "onboard.processes.sampling"]).run()


if __name__ == "__main__":
    main()
