"""Output tensors of a model's graph by its manifest: what every backend binds and checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.engine import HeadPrediction, Prediction
from engines.errors import ModelMismatch
from engines.manifest import Manifest, output_in_graph


@dataclass(frozen=True)
class OutputPort:
    """One output tensor.

    Attributes:
        field: of Prediction that it fills.
        head: a further head whose prediction it is part of; "" for the first head, or the model's only one.
        name: of the tensor.
        dtype: numpy's name, "uint8" or "float32".
        shape: after N, the number of tiles; of tiles of the manifest's `tile_size`.
    """

    field: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    head: str = ""

    def empty(self, tiles: int, pixels: tuple[int, int] | None = None) -> NDArray[Any]:
        """A new array for so many tiles, not filled; ``pixels``: their height and width, where not the usual ones."""
        shape = pixels if pixels is not None and self.is_map else self.shape
        return np.empty((tiles, *shape), self.dtype)

    @property
    def is_map(self) -> bool:
        """Whether it has a value for each pixel of a tile, and not one for the whole tile."""
        return len(self.shape) == 2

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


def check_sides_are_open(shapes: Mapping[str, tuple[int | None, ...]], manifest: Manifest, path: Path) -> None:
    """Checks that a graph has no sizes of its own where the manifest promises tiles of several sides.

    Args:
        shapes: of input and maps by name, None for an open size.
        manifest: of the model, with `tile_sides`.
        path: of its file.

    Raises:
        ModelMismatch: a height or width is a number.
    """
    for name, shape in shapes.items():
        if any(size is not None for size in shape[-2:]):
            raise ModelMismatch(
                path, f"tile sides of {name}",
                given=f"{' x '.join('open' if size is None else str(size) for size in shape[-2:])} in the graph",
                required=f"open, for input.tile_sides {list(manifest.input.sides)} of the manifest",
            )  # fmt: skip


def prediction_of(ports: Sequence[OutputPort], arrays: Sequence[NDArray[Any]]) -> Prediction:
    """The prediction whose arrays these are, in the order of the ports."""
    by_head: dict[str, dict[str, NDArray[Any]]] = {}
    for port, array in zip(ports, arrays, strict=True):
        by_head.setdefault(port.head, {})[port.field] = array
    first = by_head.pop("")
    return Prediction(**first, further={name: HeadPrediction(**fields) for name, fields in by_head.items()})
