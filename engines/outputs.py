"""What a model's graph gives, by the manifest: one description that every backend binds and checks its outputs by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.engine import Prediction
from engines.manifest import Manifest


@dataclass(frozen=True)
class OutputPort:
    """One output tensor.

    Attributes:
        field: of Prediction that it fills.
        name: of the tensor.
        dtype: numpy's name, "uint8" or "float32".
        shape: after N, the number of tiles.
    """

    field: str
    name: str
    dtype: str
    shape: tuple[int, ...]

    def empty(self, tiles: int) -> NDArray[Any]:
        """A new array for so many tiles, not filled."""
        return np.empty((tiles, *self.shape), self.dtype)

    @property
    def tile_bytes(self) -> int:
        """Bytes of one tile."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


def output_ports(manifest: Manifest) -> tuple[OutputPort, ...]:
    """The outputs that a graph of this manifest has, classes first."""
    pixels = (manifest.input.tile_size, manifest.input.tile_size)
    ports = [OutputPort("classes", manifest.output.classes, "uint8", pixels)]
    if manifest.output.confidence is not None:
        ports.append(OutputPort("confidence", manifest.output.confidence, "uint8", pixels))
    if manifest.familiarity is not None:
        ports.append(OutputPort("familiarity", manifest.familiarity.output, "float32", ()))
    return tuple(ports)


def prediction_of(ports: Sequence[OutputPort], arrays: Sequence[NDArray[Any]]) -> Prediction:
    """The prediction whose arrays these are, in the order of the ports."""
    return Prediction(**{port.field: array for port, array in zip(ports, arrays, strict=True)})
