"""Output tensors of a model's graph by its manifest: what every backend binds and checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.engine import HeadPrediction, Prediction
from engines.manifest import Manifest, output_in_graph


@dataclass(frozen=True)
class OutputPort:
    """One output tensor.

    Attributes:
        field: of Prediction that it fills.
        head: a further head whose prediction it is part of; "" for the first head, or the model's only one.
        name: of the tensor.
        dtype: numpy's name, "uint8" or "float32".
        shape: after N, the number of tiles.
    """

    field: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    head: str = ""

    def empty(self, tiles: int) -> NDArray[Any]:
        """A new array for so many tiles, not filled."""
        return np.empty((tiles, *self.shape), self.dtype)

    @property
    def tile_bytes(self) -> int:
        """Bytes of one tile."""
        # np.prod of an empty shape, which familiarity has, would be a float.
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


def output_ports(manifest: Manifest) -> tuple[OutputPort, ...]:
    """The outputs that a graph of this manifest has: first the classes of the first head."""
    pixels = (manifest.input.tile_size, manifest.input.tile_size)
    ports = [OutputPort("classes", manifest.output.classes, "uint8", pixels)]
    if manifest.output.confidence is not None:
        ports.append(OutputPort("confidence", manifest.output.confidence, "uint8", pixels))
    for head in manifest.further_heads:
        output = output_in_graph(head)
        ports.append(OutputPort("classes", output.classes, "uint8", pixels, head.name))
        if output.confidence is not None:
            ports.append(OutputPort("confidence", output.confidence, "uint8", pixels, head.name))
    if manifest.familiarity is not None:
        ports.append(OutputPort("familiarity", manifest.familiarity.output, "float32", ()))
    return tuple(ports)


def prediction_of(ports: Sequence[OutputPort], arrays: Sequence[NDArray[Any]]) -> Prediction:
    """The prediction whose arrays these are, in the order of the ports."""
    by_head: dict[str, dict[str, NDArray[Any]]] = {}
    for port, array in zip(ports, arrays, strict=True):
        by_head.setdefault(port.head, {})[port.field] = array
    first = by_head.pop("")
    return Prediction(**first, further={name: HeadPrediction(**fields) for name, fields in by_head.items()})
