"""The Engine protocol: a model made ready for one device and runtime. All other code uses engines through it only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engines.errors import SettingRefused, TilesRefused

if TYPE_CHECKING:
    from typing_extensions import Self

    from engines.manifest import Manifest

Tiles: TypeAlias = NDArray[np.uint8]
"""(N, bands, h, w), values 0..255 as the scene has them, bands in the manifest's order; h and w are of the engine's
`tile_sides`, and all tiles of a call have the same."""


@dataclass(frozen=True)
class HeadPrediction:
    """Output of one head for N tiles; see Prediction."""

    classes: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        for array in (self.classes, self.confidence):
            if array is not None and (array.dtype != np.uint8 or array.shape != self.classes.shape or array.ndim != 3):
                raise ValueError(f"classes and confidence are uint8 (N, h, w), not {array.dtype} {array.shape}")


@dataclass(frozen=True)
class Prediction(HeadPrediction):
    """Output of an engine for N tiles.

    Attributes:
        classes: uint8 (N, h, w), codes 1..K of the manifest; never 0, the code of "no data", which a model never gives.
        confidence: uint8 (N, h, w), largest class probability x 255; None where the model has no such output.
        familiarity: float32 (N,), 0..1: share of the known imagery that is at least as far from the training data as
            this tile (docs/familiarity.md); None where the model has no such output.
        further: of a model with heads, the output of those opened beside the first, by name; the encoder ran once.
    """

    familiarity: NDArray[np.float32] | None = None
    further: Mapping[str, HeadPrediction] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        value = self.familiarity
        if value is not None and (value.dtype != np.float32 or value.shape != self.classes.shape[:1]):
            raise ValueError(f"familiarity is float32 (N,), not {value.dtype} {value.shape}")

    @property
    def heads(self) -> tuple[HeadPrediction, ...]:
        """Of every head that was opened, in the order of their names in the request."""
        return (self, *self.further.values())


@dataclass(frozen=True)
class EngineOptions:
    """How a model is made ready. The classes it predicts do not depend on these.

    Attributes:
        threads: number of threads; None for the cores that this process may use.
        spinning: idle threads busy-wait: lower latency, at the cost of power and of cores that a decoder could use.
        max_batch: largest number of tiles in one call. Memory grows with it.
        built: folder of engines that were built for this device; None for the one in the user's cache.
        build: build the TensorRT engine first where there is none, which takes minutes.
    """

    threads: int | None = None
    spinning: bool = True
    max_batch: int = 8
    built: Path | None = None
    build: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None:
            checked_count("threads", self.threads)
        checked_count("max_batch", self.max_batch)


class Engine(Protocol):
    """A model on a device. A context manager: leaving it closes the engine.

    Buffers: the caller owns what `infer` returns. Each call writes into arrays of its own, so a prediction may be
    queued to another thread and kept while the next batch runs. The tiles stay the caller's: they are read during the
    call, never changed, never kept after it.

    Threads: the same thread opens, infers and closes (a CUDA context belongs to a thread). Within a call the backend
    may use threads of its own. Any thread may read the arrays returned.

    Attributes:
        manifest: of the model.
        backend: the runtime: "onnxruntime", "constant", ...
        precision: of the arithmetic: "fp32", "fp16", "int8", ...
        max_batch: most tiles in one call.
        tile_sides: pixels, rising: height and width of a tile are each one of these. Squares of the manifest's
            `tile_size` alone, unless manifest, graph and backend all allow others.
        digest: "sha256:<hex>" of what decides the output: model file, backend and its version, precision, graph
            options. Threads and batch size are not in it. Two machines of different CPU may still round differently:
            the digest tells engines apart, not machines.
        folder: where the model's files lie, None for an engine made of none.
    """

    @property
    def manifest(self) -> Manifest:
        """Of the model."""

    @property
    def backend(self) -> str:
        """The runtime."""

    @property
    def precision(self) -> str:
        """Of the arithmetic."""

    @property
    def max_batch(self) -> int:
        """Most tiles in one call."""

    @property
    def tile_sides(self) -> tuple[int, ...]:
        """Sides that a tile may have, in pixels, rising."""

    @property
    def digest(self) -> str:
        """Identity of the output, as "sha256:<hex>": see the class."""

    @property
    def folder(self) -> Path | None:
        """Where the model's files lie."""

    def infer(self, tiles: Tiles) -> Prediction:
        """Predicts 1..max_batch tiles; blocks until the result is ready.

        Raises:
            TilesRefused: wrong shape, type or number of tiles; the engine stays usable.
            InferenceFailed: the runtime failed, or the engine is closed; `retryable` says whether to try again.
        """

    def close(self) -> None:
        """Frees the device; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class ClosesOnExit:
    """Base class of engines: a context manager that closes the engine when it is left. Tiles have the usual size."""

    manifest: Manifest

    @property
    def tile_sides(self) -> tuple[int, ...]:
        """See Engine."""
        return (self.manifest.input.tile_size,)

    def close(self) -> None:
        """See Engine."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def checked_tiles(tiles: Tiles, manifest: Manifest, *, max_batch: int, sides: Sequence[int] | None = None) -> Tiles:
    """The same tiles, C-contiguous (copied only where they are not).

    Args:
        tiles: to be checked.
        manifest: of the engine.
        max_batch: of the engine.
        sides: `tile_sides` of the engine; the manifest's `tile_size` alone where not given.

    Raises:
        TilesRefused: not uint8 (1..max_batch, bands, h, w) with h and w of these sides.
    """
    bands, sides = len(manifest.input.bands), tuple(sides or (manifest.input.tile_size,))
    pixels = f"{sides[0]}, {sides[0]}" if len(sides) == 1 else "h, w"
    of_sides = "" if len(sides) == 1 else f", h and w of {', '.join(map(str, sides))}"
    required = f"uint8 (N, {bands}, {pixels}) with N from 1 to {max_batch}{of_sides}"
    if not isinstance(tiles, np.ndarray):
        raise TilesRefused(f"a {type(tiles).__name__}", required)
    fits = tiles.ndim == 4 and tiles.shape[1] == bands and tiles.shape[2] in sides and tiles.shape[3] in sides
    if tiles.dtype != np.uint8 or not fits or not 1 <= tiles.shape[0] <= max_batch:
        raise TilesRefused(f"{tiles.dtype} {tiles.shape}", required)
    # Runtimes take an address and read the tiles from there without gaps.
    return np.ascontiguousarray(tiles)


def checked_count(setting: str, value: int, *, most: int = 1024) -> int:
    """The same number.

    Raises:
        SettingRefused: not a whole number from 1 to `most`.
    """
    # True is an int in Python.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise SettingRefused(setting, value, f"a whole number from 1 to {most}")
    return value


def engine_digest(**facts: str | int | float) -> str:
    """Digest over named facts, as "sha256:<hex>"; their order does not matter."""
    # Equal facts must give equal text in every version: a canvas is continued only by an engine of its digest.
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
