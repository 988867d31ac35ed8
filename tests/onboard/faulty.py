"""A service whose engine has faults, by FAULT: for tests. Its engine is the tiny model's, in ONNX Runtime, spoilt here.

fails       raises on a tile that is white all over
kills       ends its own process on a tile that is white all over
raises      raises what nobody foresaw on a tile that is white all over
wrong:N     says 1 everywhere from its N-th call on, until it is opened again; FAULT_STATE counts openings
hangs       stops answering on a tile that is white all over
slow:S      takes S seconds a batch more
lost:N      cannot be opened the first N times
opens:S     takes S seconds to open
stuck       stops answering for ever in the first call after FAULT_STATE with the ending ".stuck" was made
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from engines.backends.onnxruntime import OnnxRuntimeEngine
from engines.engine import Engine, Prediction, Tiles
from engines.errors import InferenceFailed
from onboard.processes import worker
from onboard.processes.engine_opening import shipped_engine
from onboard.processes.supervisor import Supervisor
from onboard.settings import Settings, read_settings

KIND, _, NUMBER = os.environ.get("FAULT", "").partition(":")
STUCK = Path(os.environ.get("FAULT_STATE", "state")).with_suffix(".stuck")


def spoilt(engine: Engine) -> Engine:
    """The same engine with the fault."""
    whole = engine.infer
    calls = 0

    def infer(tiles: Tiles) -> Prediction:
        nonlocal calls
        calls += 1
        if KIND == "kills" and (tiles == 255).all():
            os.kill(os.getpid(), signal.SIGKILL)
        if KIND == "raises" and (tiles == 255).all():
            raise RuntimeError("nobody foresaw this")
        if KIND == "fails" and (tiles == 255).all():
            raise InferenceFailed("testing", "out of range", retryable=False)
        if KIND == "hangs" and (tiles == 255).all():
            time.sleep(3600)
        if KIND == "stuck" and STUCK.exists():
            STUCK.unlink()
            time.sleep(3600)
        if KIND == "slow":
            time.sleep(float(NUMBER))
        told = whole(tiles)
        if KIND == "wrong" and calls >= int(NUMBER) and openings() == 1:
            return Prediction(np.ones_like(told.classes), told.confidence)
        return told

    engine.infer = infer  # type: ignore[method-assign]
    return engine


def openings() -> int:
    """How often an engine was opened, over all processes."""
    return len(Path(os.environ["FAULT_STATE"]).read_bytes())


def open_engine(settings: Settings) -> Engine:
    """As the worker does, then spoilt."""
    with Path(os.environ["FAULT_STATE"]).open("ab") as file:
        file.write(b".")
    if KIND == "lost" and openings() <= int(NUMBER):
        raise InferenceFailed("testing", "the device fell off the bus", retryable=True)
    if KIND == "opens":
        time.sleep(float(NUMBER))
    engine = shipped_engine(settings)
    assert isinstance(engine, OnnxRuntimeEngine)
    return spoilt(engine)


def main() -> None:
    """`python -m tests.onboard.faulty serve` supervises; `... work` is its worker."""
    verb = sys.argv.pop(1)
    if verb == "work":
        worker.main(open_engine)
        return
    own = [sys.executable, "-m", "tests.onboard.faulty", "work"]
    api, sampling = ([sys.executable, "-m", module] for module in ("onboard.api.serve", "onboard.processes.sampling"))
    Supervisor(read_settings(), own, api, sampling).run()


if __name__ == "__main__":
    main()
