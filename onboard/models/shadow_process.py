"""A candidate beside the active model: `python -m onboard.models.shadow_process PARENT FOLDER`.

Reads tiles with the classes and confidences that heads of the active model gave them, infers the tiles with all heads
of the candidate, and answers with sums for each head: pixels that agree, confidences. A process of its own: what it
does, it does not do to the worker.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from engines.engine import Engine, HeadPrediction, Tiles
from engines.errors import EngineError, one_line
from engines.manifest import Manifest
from engines.open import manifest_path, open_engine
from onboard.parent import end_with_parent
from onboard.settings import Settings, read_settings


@dataclass(frozen=True)
class ShadowRequest:
    """Tiles that were mapped, and what the active model said of them.

    Attributes:
        tiles: uint8 (N, bands, h, w).
        answers: of the active model, by the head of the candidate that they are compared with.
        new: heads of the candidate that are compared with nothing.
    """

    tiles: Tiles
    answers: Mapping[str, HeadPrediction]
    new: tuple[str, ...] = ()

    def write(self, out: BinaryIO) -> None:
        """A line of JSON, then the bytes of the tiles and of each head's classes and confidence."""
        heads = [[name, head.confidence is not None] for name, head in self.answers.items()]
        out.write(json.dumps({"tiles": self.tiles.shape, "heads": heads, "new": self.new}).encode() + b"\n")
        out.write(np.ascontiguousarray(self.tiles).tobytes())
        for head in self.answers.values():
            for array in (head.classes, head.confidence):
                if array is not None:
                    out.write(np.ascontiguousarray(array).tobytes())
        out.flush()

    @classmethod
    def read(cls, source: BinaryIO) -> ShadowRequest | None:
        """The next one; None at the end."""
        # A line without its end: the worker is gone.
        line = source.readline()
        if not line.endswith(b"\n"):
            return None
        facts: dict[str, Any] = json.loads(line)
        shape = tuple(int(size) for size in facts["tiles"])
        tiles = _read_array(source, shape)
        one_band, answers = (shape[0], *shape[2:]), {}
        for name, has_confidence in facts["heads"]:
            classes = _read_array(source, one_band)
            # In the order that `write` has: classes, then the confidence of the same head.
            answers[str(name)] = HeadPrediction(classes, _read_array(source, one_band) if has_confidence else None)
        return cls(tiles, answers, tuple(facts["new"]))


def _read_array(source: BinaryIO, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(source.read(int(np.prod(shape))), np.uint8).reshape(shape)


def shadow(settings: Settings, folder: Path, source: BinaryIO, out: BinaryIO) -> None:
    """Answers until there are no more tiles.

    Raises:
        EngineError: it cannot be opened, or fails.
    """
    names = Manifest.load(manifest_path(str(folder))).head_names
    # Without `build`: where an engine is built from ONNX, the probe has built it at the verification.
    with open_engine(
        str(folder), heads=names, backend=settings.backend, threads=settings.threads, max_batch=max(settings.batch, 1),
        built=settings.data_dir / "engines", choices=settings.data_dir / "backends.json",
    ) as engine:  # fmt: skip
        while (request := ShadowRequest.read(source)) is not None:
            # The active model may take tiles of more sides than this one. That is no failure of this one.
            fits = all(side in engine.tile_sides for side in request.tiles.shape[2:])
            answer = _answer(engine, request, names or ("",)) if fits else {"skipped": len(request.tiles)}
            out.write(json.dumps(answer).encode() + b"\n")
            out.flush()


def _answer(engine: Engine, request: ShadowRequest, names: Sequence[str]) -> dict[str, Any]:
    """Sums of one request, as onboard.models.shadow_figures adds them."""
    before = time.monotonic()
    heads = _infer(engine, request.tiles, names)
    seconds = round(time.monotonic() - before, 4)
    return {
        "tiles": len(request.tiles), "seconds": seconds,
        "heads": {name: _compared(heads[name], answer) for name, answer in request.answers.items()},
        "new_heads": {name: _own(heads[name]) for name in request.new},
    }  # fmt: skip


def _infer(engine: Engine, tiles: Tiles, names: Sequence[str]) -> dict[str, HeadPrediction]:
    """By head; in several calls where the graph takes fewer tiles than that of the active model."""
    # The worker's batch is that of the active model; another graph may take fewer tiles.
    most = engine.max_batch
    parts = [engine.infer(tiles[at : at + most]).heads for at in range(0, len(tiles), most)]
    heads = {}
    for name, predictions in zip(names, zip(*parts, strict=True), strict=True):
        confidences = [part.confidence for part in predictions if part.confidence is not None]
        confidence = np.concatenate(confidences) if confidences else None
        heads[name] = HeadPrediction(np.concatenate([part.classes for part in predictions]), confidence)
    return heads


def _own(head: HeadPrediction) -> dict[str, int | None]:
    """See onboard.models.shadow_figures.NEW."""
    return {"pixels": int(head.classes.size), "confidence_sum": _total(head.confidence)}


def _compared(own: HeadPrediction, active: HeadPrediction) -> dict[str, int | None]:
    """See onboard.models.shadow_figures.COMPARED."""
    same = int((own.classes == active.classes).sum())
    return _own(own) | {"same": same, "active_confidence_sum": _total(active.confidence)}


def _total(confidence: NDArray[np.uint8] | None) -> int | None:
    return None if confidence is None else int(confidence.sum(dtype=np.int64))


def main() -> None:
    """The whole life of the process; its last line is {"failed": ...} where the candidate fails."""
    end_with_parent(int(sys.argv[1]))
    # Mapping goes first.
    os.nice(10)
    try:
        shadow(read_settings(), Path(sys.argv[2]), sys.stdin.buffer, sys.stdout.buffer)
    except EngineError as error:
        # The last line: the worker refuses a candidate that says so.
        sys.stdout.write(json.dumps({"failed": one_line(error)}) + "\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
